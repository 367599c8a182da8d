//! Whether this host's kernel may starve the worker for longer than a lease.
//!
//! With `sched_autogroup` Linux divides processor time among sessions instead of processes, and each
//! Postgres process is its own session. On a busy host a small one such as the worker may then wait
//! for seconds. Processes in or below a cgroup with the `cpu` controller, as in every pod, are not
//! affected.

use std::fs;
use std::path::Path;

/// The kernel's settings.
#[derive(Debug)]
struct SchedulingFacts<'a> {
    /// `/proc/sys/kernel/sched_autogroup_enabled`, if it exists.
    enabled: Option<&'a str>,
    /// `/proc/self/cgroup`.
    groups: &'a str,
    /// Whether this process's cgroup, or one above it, has a `cpu.weight` (version 2).
    has_weight: bool,
}

/// Whether this host is affected.
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

/// Whether a group or one above it has a weight. The host's root has none, a container's root does.
fn weighs(mount: &Path, group: &str) -> bool {
    Path::new(group.trim_start_matches('/'))
        .ancestors()
        .any(|above| mount.join(above).join("cpu.weight").exists())
}

/// Decides. Version 1 of cgroups has a line for each controller (`1:cpu,cpuacct:/a/group`), version
/// 2 has one line (`0::/a/group`).
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
    fn finds_the_weight_of_a_group_above() {
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
    fn a_cgroup_with_a_share_is_not_affected() {
        fn affected(enabled: Option<&str>, groups: &str, has_weight: bool) -> bool {
            divides(&SchedulingFacts { enabled, groups, has_weight })
        }
        let unified = "0::/system.slice/pgraft.service\n";
        assert!(affected(Some("1\n"), unified, false), "a service without CPUWeight");
        assert!(!affected(Some("1\n"), unified, true));
        assert!(!affected(Some("0\n"), unified, false), "switched off");
        assert!(!affected(None, unified, false), "a kernel that has none");
        let separate =
            |path| format!("9:name=systemd:/a\n4:cpu,cpuacct:{path}\n3:cpuset:/a\n0::/\n");
        assert!(affected(Some("1\n"), &separate("/"), false));
        assert!(!affected(Some("1\n"), &separate("/docker/1"), false));
    }
}
