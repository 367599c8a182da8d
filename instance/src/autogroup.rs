//! Whether this host's kernel may keep the worker from the processor for so long that a lease ends.
//!
//! Linux with `sched_autogroup` shares a processor among sessions of processes instead of processes, and Postgres makes a session of each of its own. On
//! a busy host the small ones among them (the worker) then wait for seconds now and then. A service with a share of its own (a cgroup with the `cpu`
//! controller, as every pod has) is not divided like that.

use std::fs;
use std::path::Path;

/// What the kernel says.
#[derive(Debug)]
struct Facts<'a> {
    /// `/proc/sys/kernel/sched_autogroup_enabled`, where there is one.
    enabled: Option<&'a str>,
    /// `/proc/self/cgroup`.
    groups: &'a str,
    /// Whether this process's group has a `cpu.weight`, which only a group with a share of its own has (version 2).
    has_weight: bool,
}

/// Whether it is so here.
pub fn divides_postgres() -> bool {
    let read = |path: &str| fs::read_to_string(path).ok();
    let (enabled, groups) = (read("/proc/sys/kernel/sched_autogroup_enabled"), read("/proc/self/cgroup").unwrap_or_default());
    let weight = |path: &str| Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).join("cpu.weight").exists();
    let has_weight = groups.lines().filter_map(|line| line.strip_prefix("0::")).any(weight);
    divides(&Facts { enabled: enabled.as_deref(), groups: &groups, has_weight })
}

/// Version 1 of cgroups has a line for each controller (`1:cpu,cpuacct:/a/group`), version 2 one for all (`0::/a/group`).
fn divides(facts: &Facts) -> bool {
    let is_cpu = |controllers: &str| controllers.split(',').any(|c| c == "cpu");
    let own_share =
        facts.groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).any(|(c, path)| is_cpu(c) && path != "/");
    facts.enabled.is_some_and(|value| value.trim() == "1") && !own_share && !facts.has_weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_share_is_not_divided() {
        fn divides(enabled: Option<&str>, groups: &str, has_weight: bool) -> bool {
            super::divides(&Facts { enabled, groups, has_weight })
        }
        let unified = "0::/system.slice/pgraft.service\n";
        assert!(divides(Some("1\n"), unified, false), "a service without CPUWeight");
        assert!(!divides(Some("1\n"), unified, true));
        assert!(!divides(Some("0\n"), unified, false), "switched off");
        assert!(!divides(None, unified, false), "a kernel that has none");
        let separate = |path| format!("9:name=systemd:/a\n4:cpu,cpuacct:{path}\n3:cpuset:/a\n0::/\n");
        assert!(divides(Some("1\n"), &separate("/"), false));
        assert!(!divides(Some("1\n"), &separate("/docker/1"), false));
    }
}
