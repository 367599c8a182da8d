//! Whether this host's kernel may keep the worker from the processor for so long that a lease ends.
//!
//! Linux with `sched_autogroup` shares a processor among sessions of processes instead of
//! processes, and Postgres makes a session of each of its own. On a busy host the small ones among
//! them (the worker) then wait for seconds now and then. Processes in a group with a share of its
//! own (a cgroup with the `cpu` controller, as every pod has), or below one, are not divided like
//! that.

use std::fs;
use std::path::Path;

/// What the kernel says.
#[derive(Debug)]
struct SchedulingFacts<'a> {
    /// `/proc/sys/kernel/sched_autogroup_enabled`, where there is one.
    enabled: Option<&'a str>,
    /// `/proc/self/cgroup`.
    groups: &'a str,
    /// Whether this process's group, or one above it, has a `cpu.weight`, which only a group with a
    /// share of its own has (version 2).
    has_weight: bool,
}

/// Whether it is so here.
pub fn divides_postgres() -> bool {
    let read = |path: &str| fs::read_to_string(path).ok();
    let (enabled, groups) = (
        read("/proc/sys/kernel/sched_autogroup_enabled"),
        read("/proc/self/cgroup").unwrap_or_default(),
    );
    let has_weight = groups
        .lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|group| weighs(Path::new("/sys/fs/cgroup"), group));
    divides(&SchedulingFacts { enabled: enabled.as_deref(), groups: &groups, has_weight })
}

/// The host's own root has no weight; the root that a container sees has.
fn weighs(mount: &Path, group: &str) -> bool {
    Path::new(group.trim_start_matches('/'))
        .ancestors()
        .any(|above| mount.join(above).join("cpu.weight").exists())
}

/// Version 1 of cgroups has a line for each controller (`1:cpu,cpuacct:/a/group`), version 2 one
/// for all (`0::/a/group`).
fn divides(facts: &SchedulingFacts) -> bool {
    let is_cpu = |controllers: &str| controllers.split(',').any(|c| c == "cpu");
    let own_share = facts
        .groups
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .any(|(c, path)| is_cpu(c) && path != "/");
    facts.enabled.is_some_and(|value| value.trim() == "1") && !own_share && !facts.has_weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_found_above() {
        let mount = tempfile::tempdir().unwrap();
        let slice = mount.path().join("system.slice");
        fs::create_dir_all(slice.join("pgraft.service")).unwrap();
        assert!(!weighs(mount.path(), "/system.slice/pgraft.service"));
        fs::write(slice.join("cpu.weight"), "100").unwrap();
        assert!(weighs(mount.path(), "/system.slice/pgraft.service"));
        assert!(!weighs(mount.path(), "/user.slice"));
        fs::write(mount.path().join("cpu.weight"), "100").unwrap();
        assert!(weighs(mount.path(), "/"), "in a container");
    }

    #[test]
    fn who_has_a_share_is_not_divided() {
        fn says(enabled: Option<&str>, groups: &str, has_weight: bool) -> bool {
            divides(&SchedulingFacts { enabled, groups, has_weight })
        }
        let unified = "0::/system.slice/pgraft.service\n";
        assert!(says(Some("1\n"), unified, false), "a service without CPUWeight");
        assert!(!says(Some("1\n"), unified, true));
        assert!(!says(Some("0\n"), unified, false), "switched off");
        assert!(!says(None, unified, false), "a kernel that has none");
        let separate =
            |path| format!("9:name=systemd:/a\n4:cpu,cpuacct:{path}\n3:cpuset:/a\n0::/\n");
        assert!(says(Some("1\n"), &separate("/"), false));
        assert!(!says(Some("1\n"), &separate("/docker/1"), false));
    }
}
