//! Stops the processes of an earlier server, `initdb` or clone before the next one starts.
//!
//! After a `kill -9` of the postmaster its backends keep running for a while; after a `kill -9` of
//! the instance manager the whole server does. The working directory of every Postgres process is
//! PGDATA (`ChangeToDataDir`), or the new directory for the programs that this crate runs, so they
//! are found by that. Other programs in these directories, such as a shell, are left alone.
//!
//! Then the lock files of that server are removed. Postgres trusts the process id in them, which may
//! belong to another process or thread by now, as in a restarted container that kept its volumes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::{self, FileError};
use crate::paths::Paths;

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long processes may take to end after SIGQUIT, and after SIGKILL.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long processes have to notice that their postmaster is gone, and the worker to release the
/// lease.
const ORPHAN_TIMEOUT: Duration = Duration::from_millis(150);

/// Why processes are left.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// SIGKILL did not end them: the disk hangs, or they belong to another user.
    #[error("processes of an earlier server are still running after SIGKILL: {}", pids(.0))]
    Unkillable(Vec<i32>),
    /// IO.
    #[error(transparent)]
    File(#[from] FileError),
}

fn pids(pids: &[i32]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The processes that work in one of the directories.
fn processes(directories: &[PathBuf]) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| works_in(*pid, directories) && is_ours(*pid))
        .collect()
}

fn works_in(pid: i32, directories: &[PathBuf]) -> bool {
    // A zombie has no working directory, and that of another user's process is not readable. The
    // name of a removed directory ends in " (deleted)".
    let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
    let cwd = cwd.to_string_lossy();
    let cwd = Path::new(cwd.strip_suffix(" (deleted)").unwrap_or(&cwd));
    directories.iter().any(|d| cwd.starts_with(d))
}

fn is_ours(pid: i32) -> bool {
    let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = exe.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    ["postgres", "initdb", "pg_basebackup", "pg_rewind"]
        .contains(&name.strip_suffix(" (deleted)").unwrap_or(&name))
}

/// The pid in `postmaster.pid`, if it is one of these.
fn postmaster(paths: &Paths, alive: &[i32]) -> Option<i32> {
    let text = fs::read_to_string(paths.data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    alive.contains(&pid).then_some(pid)
}

/// Stops a running postmaster with a fast, then an immediate shutdown. Processes without a postmaster
/// have a moment to end by themselves, in which the worker releases the lease, and are killed then.
/// Removes the lock files in PGDATA and in the socket directory.
pub async fn clear(paths: &Paths, port: u16, stop_timeout: Duration) -> Result<(), LeftoversError> {
    let canonical = |p: PathBuf| fs::canonicalize(&p).unwrap_or(p);
    let directories = [canonical(paths.data.clone()), canonical(paths.fresh())];
    let found = processes(&directories);
    let mut signals = vec![(Signal::SIGKILL, SIGNAL_TIMEOUT)];
    if let Some(pid) = postmaster(paths, &found) {
        tracing::warn!(pid, "stopping the Postgres server of an earlier run");
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        gone(&directories, stop_timeout).await;
        signals.insert(0, (Signal::SIGQUIT, SIGNAL_TIMEOUT));
    } else if !found.is_empty() {
        gone(&directories, ORPHAN_TIMEOUT).await;
    }
    for (signal, wait) in signals {
        let left = processes(&directories);
        if left.is_empty() {
            break;
        }
        tracing::warn!(pids = pids(&left), %signal, "stopping processes of an earlier server");
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        gone(&directories, wait).await;
    }
    let left = processes(&directories);
    if !left.is_empty() {
        return Err(LeftoversError::Unkillable(left));
    }
    files::remove_file(&paths.data.join("postmaster.pid"))?;
    socket_lock(paths, port)
}

/// Removes `.s.PGSQL.PORT.lock` unless a server on another data directory holds it. Postgres reports
/// that server when it starts.
fn socket_lock(paths: &Paths, port: u16) -> Result<(), LeftoversError> {
    let lock = paths.socket.join(format!(".s.PGSQL.{port}.lock"));
    let Some(text) = files::read_if_there(&lock)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse::<i32>().ok()).map_or(0, i32::abs);
    let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let data = canonical(Path::new(lines.next().unwrap_or_default().trim()));
    if data == canonical(&paths.data) || !is_server_of(pid, &data) {
        tracing::info!(file = %lock.display(), pid, "removed the lock file of an earlier server");
        files::remove_file(&lock)?;
    }
    Ok(())
}

/// Whether this is a Postgres server on that data directory. A thread's id does not count, although
/// `kill` accepts it. The working directory of another user's process is not readable and counts as
/// that directory.
fn is_server_of(pid: i32, data: &Path) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let works_there = fs::read_link(format!("/proc/{pid}/cwd")).map_or(true, |cwd| cwd == data);
    field("Tgid:") == Some(&pid.to_string()) && field("Name:") == Some("postgres") && works_there
}

async fn gone(directories: &[PathBuf], longest: Duration) {
    let deadline = Instant::now() + longest;
    while !processes(directories).is_empty() && Instant::now() < deadline {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_processes_of_postgres_by_their_working_directory() {
        let here = fs::read_link("/proc/self/cwd").unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(works_in(me, std::slice::from_ref(&here)));
        assert!(!works_in(me, &[here.join("nowhere")]));
        assert!(!is_ours(me));
        assert!(!processes(&[here]).contains(&me));
    }

    #[tokio::test]
    async fn a_stale_pid_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            data: dir.path().join("d"),
            work: dir.path().join("w"),
            ..crate::settings::tests::example().paths
        };
        clear(&paths, 5432, Duration::from_secs(1)).await.unwrap(); // nothing is there at all
        fs::create_dir(&paths.data).unwrap();
        fs::write(paths.data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        clear(&paths, 5432, Duration::from_secs(1)).await.unwrap();
        assert!(!paths.data.join("postmaster.pid").exists());
    }

    #[tokio::test]
    async fn the_socket_lock_of_a_dead_server_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            data: dir.path().join("d"),
            work: dir.path().join("w"),
            socket: dir.path().join("s"),
            ..crate::settings::tests::example().paths
        };
        fs::create_dir(&paths.data).unwrap();
        fs::create_dir(&paths.socket).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        // A process that calls itself postgres, as a server on another data directory does.
        let program = dir.path().join("postgres");
        fs::copy(fs::canonicalize("/bin/sleep").unwrap(), &program).unwrap();
        let mut server = std::process::Command::new(&program)
            .arg("600")
            .current_dir(dir.path().join("other"))
            .spawn()
            .unwrap();
        let (this, live) = (std::process::id(), server.id());
        let thread = fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|t| t.unwrap().file_name().to_str()?.parse().ok())
            .max()
            .unwrap();
        while fs::read_to_string(format!("/proc/{live}/comm")).unwrap() != "postgres\n" {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let (data, other) =
            (paths.data.display().to_string(), dir.path().join("other").display().to_string());
        let third = dir.path().join("third").display().to_string();
        let cases = [
            ("the process of this program", this, &data, false),
            ("the same, and another data directory", this, &other, false),
            ("a thread of it", thread, &other, false),
            ("nobody", i32::MAX.unsigned_abs(), &other, false),
            ("a server, of which the number was this one's", live, &data, false),
            ("a server on another data directory", live, &other, true),
            ("a server on a third one", live, &third, false),
        ];
        for (what, pid, directory, stays) in cases {
            let lock = paths.socket.join(".s.PGSQL.5432.lock");
            fs::write(
                &lock,
                format!("{pid}\n{directory}\n1700000000\n5432\n{}\n", paths.socket.display()),
            )
            .unwrap();
            clear(&paths, 5432, Duration::from_secs(1)).await.unwrap();
            assert_eq!(lock.exists(), stays, "{what}");
        }
        for nonsense in ["", "x\ny\n"] {
            fs::write(paths.socket.join(".s.PGSQL.5432.lock"), nonsense).unwrap();
            clear(&paths, 5432, Duration::from_secs(1)).await.unwrap();
            assert!(!paths.socket.join(".s.PGSQL.5432.lock").exists(), "{nonsense}");
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
