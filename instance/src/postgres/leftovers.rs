//! Makes sure that no process of an earlier server (or `initdb`, or clone) lives before the next one starts.
//!
//! After a `kill -9` of the postmaster its backends go on for a while, and after one of the instance manager the whole server does. Every
//! Postgres process works in PGDATA (`ChangeToDataDir`), and so do the programs that this crate starts to fill a fresh directory; that is
//! how they are found, whoever their parent is by now. A shell that somebody left in PGDATA is no such program and is left alone.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::{self, FileError};
use crate::paths::Paths;

const POLL: Duration = Duration::from_millis(5);

/// How long processes have after SIGQUIT before SIGKILL, and after that before they are undying.
const IMMEDIATE: Duration = Duration::from_secs(5);

/// For what has just lost its postmaster to notice, and for its worker to release the lease.
const BY_THEMSELVES: Duration = Duration::from_millis(150);

/// What could not be brought about.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// They don't even go by SIGKILL: the disk hangs, or they are another user's.
    #[error("processes {0:?} of an earlier server are still there after SIGKILL")]
    Undying(Vec<i32>),
    /// IO.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Who works in one of the directories.
fn processes(directories: &[PathBuf]) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| works_in(*pid, directories) && is_ours(*pid))
        .collect()
}

fn works_in(pid: i32, directories: &[PathBuf]) -> bool {
    // A zombie has no working directory; another user's can't be read. A removed directory's name ends in " (deleted)".
    let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
    let cwd = cwd.to_string_lossy();
    let cwd = Path::new(cwd.strip_suffix(" (deleted)").unwrap_or(&cwd));
    directories.iter().any(|d| cwd.starts_with(d))
}

fn is_ours(pid: i32) -> bool {
    let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = exe.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    ["postgres", "initdb", "pg_basebackup", "pg_rewind"].contains(&name.strip_suffix(" (deleted)").unwrap_or(&name))
}

/// The pid in `postmaster.pid`, if it is one of these.
fn postmaster(paths: &Paths, alive: &[i32]) -> Option<i32> {
    let text = fs::read_to_string(paths.data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    alive.contains(&pid).then_some(pid)
}

/// A postmaster that lives is stopped fast, and then at once. What lives without one has a moment (the worker among it releases the lease of the
/// server that is gone), and is killed then. Then `postmaster.pid` is nobody's and goes: its number may by now be that of another process of the
/// same user, and Postgres would not start.
pub async fn clear(paths: &Paths, stop_timeout: Duration) -> Result<(), LeftoversError> {
    let canonical = |p: PathBuf| fs::canonicalize(&p).unwrap_or(p);
    let directories = [canonical(paths.data.clone()), canonical(paths.fresh())];
    let found = processes(&directories);
    let mut signals = vec![(Signal::SIGKILL, IMMEDIATE)];
    if let Some(pid) = postmaster(paths, &found) {
        tracing::warn!(pid, "a Postgres server of an earlier run is there: it is stopped");
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        gone(&directories, stop_timeout).await;
        signals.insert(0, (Signal::SIGQUIT, IMMEDIATE));
    } else if !found.is_empty() {
        gone(&directories, BY_THEMSELVES).await;
    }
    for (signal, wait) in signals {
        let left = processes(&directories);
        if left.is_empty() {
            break;
        }
        tracing::warn!(pids = ?left, %signal, "processes of an earlier server are there: they are stopped");
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        gone(&directories, wait).await;
    }
    let left = processes(&directories);
    if !left.is_empty() {
        return Err(LeftoversError::Undying(left));
    }
    if paths.data.join("postmaster.pid").exists() {
        files::remove_file(&paths.data.join("postmaster.pid"))?;
    }
    Ok(())
}

async fn gone(directories: &[PathBuf], longest: Duration) {
    let deadline = Instant::now() + longest;
    while !processes(directories).is_empty() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_where_it_works_and_only_when_it_is_postgres() {
        let here = fs::read_link("/proc/self/cwd").unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(works_in(me, std::slice::from_ref(&here)));
        assert!(!works_in(me, &[here.join("nowhere")]));
        assert!(!is_ours(me));
        assert!(!processes(&[here]).contains(&me));
    }

    #[tokio::test]
    async fn a_stale_pid_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().join("d"), work: dir.path().join("w"), ..crate::settings::tests::example().paths };
        clear(&paths, Duration::from_secs(1)).await.unwrap(); // nothing is there at all
        fs::create_dir(&paths.data).unwrap();
        fs::write(paths.data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        clear(&paths, Duration::from_secs(1)).await.unwrap();
        assert!(!paths.data.join("postmaster.pid").exists());
    }
}
