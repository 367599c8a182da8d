//! The processes of a node.

use std::fs;

/// Every process of this host, and its parent.
fn parents() -> Vec<(i32, i32)> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// This process and those that came from it, parents first.
pub fn descendants(of: i32) -> Vec<i32> {
    let parents = parents();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    found
}

/// The process that calls itself `postgres: pgraft_1: NAME …`, of this postmaster.
pub fn child_of(postmaster: i32, name: &str) -> Option<i32> {
    let is_it = |pid: i32| {
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title
            .rsplit(": ")
            .any(|part| part.trim_end_matches(['\0', ' ']).split(' ').next() == Some(name))
    };
    parents()
        .into_iter()
        .find(|(pid, parent)| *parent == postmaster && is_it(*pid))
        .map(|(pid, _)| pid)
}
