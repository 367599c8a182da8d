//! The processes of a server.

use std::fs;

/// Every process of this machine, with its parent.
fn parents() -> Vec<(i32, i32)> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// A process and its descendants, parents first.
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

/// The child of a postmaster with the title `postgres: NAME …` or `postgres: pgraft_1: NAME …`.
pub fn child_of(postmaster: i32, name: &str) -> Option<i32> {
    let has_name = |pid: i32| {
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title
            .rsplit(": ")
            .any(|part| part.trim_end_matches(['\0', ' ']).split(' ').next() == Some(name))
    };
    parents()
        .into_iter()
        .find(|(pid, parent)| *parent == postmaster && has_name(*pid))
        .map(|(pid, _)| pid)
}
