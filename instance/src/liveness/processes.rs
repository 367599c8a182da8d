//! The server's processes, as `/proc` shows them: which are stopped, and which wait for a CPU or for
//! a lock.

use pgraft_core::liveness::ProcessState;
use std::fs;
use std::time::Duration;

/// Clock ticks per second in `/proc`, on every Linux that Postgres runs on.
const HERTZ: u64 = 100;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    /// In clock ticks since the host was booted.
    started: u64,
}

/// The essential processes of one server.
pub struct ServerProcesses {
    postmaster: i32,
    auxiliary: Vec<(ProcessState, i32)>,
}

impl ServerProcesses {
    /// The processes of that postmaster's server.
    pub const fn new(postmaster: i32) -> Self {
        Self { postmaster, auxiliary: Vec::new() }
    }

    /// The postmaster's process id.
    pub const fn postmaster(&self) -> i32 {
        self.postmaster
    }

    /// Finds the processes again if one of them has been replaced.
    pub fn refresh(&mut self) {
        let is_there = |(process, pid): &(ProcessState, i32)| {
            stat(*pid).is_some_and(|s| s.parent == self.postmaster) && title(*pid) == Some(*process)
        };
        if self.auxiliary.len() == 2 && self.auxiliary.iter().all(is_there) {
            return;
        }
        self.auxiliary = children(self.postmaster)
            .into_iter()
            .filter_map(|pid| Some((title(pid)?, pid)))
            .collect();
    }

    /// The first process that is stopped.
    pub fn stopped(&self) -> Option<ProcessState> {
        let all = std::iter::once((ProcessState::Postmaster, self.postmaster))
            .chain(self.auxiliary.iter().copied());
        all.into_iter().find(|(_, pid)| is_stopped(*pid)).map(|(process, _)| process)
    }

    /// Whether the postmaster, or a process that it has started within that time, waits for a CPU or
    /// has one.
    pub fn waits_for_cpu(&self, within: Duration) -> bool {
        is_runnable(self.postmaster) || self.started(within).any(|(_, stat)| stat.state == 'R')
    }

    /// Whether a local session that was started within that time waits for a lock. A probe waits for
    /// one if another session holds an exclusive lock on a catalog, such as `pg_authid`, and so does
    /// a standby's probe while the startup process holds that lock.
    pub fn waits_for_lock(&self, within: Duration) -> bool {
        self.started(within).any(|(pid, _)| command_line(pid).is_some_and(|t| is_lock_wait(&t)))
    }

    /// The postmaster's children that were started within that time.
    fn started(&self, within: Duration) -> impl Iterator<Item = (i32, Stat)> {
        let ticks = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).saturating_mul(HERTZ);
        let since = uptime().map_or(u64::MAX, |now| now.saturating_sub(ticks / 1000 + 1));
        children(self.postmaster)
            .into_iter()
            .filter_map(|pid| Some((pid, stat(pid)?)))
            .filter(move |(_, stat)| stat.started >= since)
    }
}

/// Whether the process is stopped, by a signal or by a debugger.
pub fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|s| matches!(s.state, 'T' | 't'))
}

fn is_runnable(pid: i32) -> bool {
    stat(pid).is_some_and(|s| s.state == 'R')
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may contain anything.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// In clock ticks.
fn uptime() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * HERTZ + hundredths.parse::<u64>().ok()?)
}

fn children(of: i32) -> Vec<i32> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{of}/task/{of}/children")) {
        return text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    }
    // A kernel without that file.
    let all = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| stat(*pid).is_some_and(|s| s.parent == of)).collect()
}

fn title(pid: i32) -> Option<ProcessState> {
    auxiliary(&command_line(pid)?)
}

fn command_line(pid: i32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `postgres: CLUSTER: USER DATABASE [local] startup waiting`
fn is_lock_wait(title: &str) -> bool {
    title.contains(" [local] ") && title.trim_end_matches(['\0', ' ']).ends_with(" waiting")
}

/// `postgres: CLUSTER: checkpointer `. A client's title has a database after the user, so that no
/// user name can imitate this.
fn auxiliary(title: &str) -> Option<ProcessState> {
    match title.trim_end_matches(['\0', ' ']).rsplit(": ").next()? {
        "checkpointer" => Some(ProcessState::Checkpointer),
        "walwriter" => Some(ProcessState::WalWriter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    #[test]
    fn a_process_name_may_contain_parentheses() {
        let text = "123 (a) b (c) T 7 1 1 0 -1 4194304 99 0 0 0 5 6 0 0 20 0 1 0 8675309 1 2 3";
        assert_eq!(parse(text), Some(Stat { state: 'T', parent: 7, started: 8_675_309 }));
        assert_eq!(parse("123 (a"), None);
        assert_eq!(parse("123 (a) T"), None);
    }

    #[test]
    fn auxiliary_processes_are_found_by_their_titles() {
        assert_eq!(
            auxiliary("postgres: pgraft_1: checkpointer \0\0"),
            Some(ProcessState::Checkpointer)
        );
        assert_eq!(auxiliary("postgres: pgraft_1: walwriter "), Some(ProcessState::WalWriter));
        assert_eq!(
            auxiliary("postgres: pgraft_1: checkpointer app 10.0.0.1(5) idle"),
            None,
            "a user of that name"
        );
        assert_eq!(
            auxiliary("postgres: pgraft_1: walsender pgraft_replication 10.0.0.1(5) streaming 0/1"),
            None
        );
        assert_eq!(auxiliary("/usr/lib/postgresql/17/bin/postgres\0-D\0/data"), None);
        assert_eq!(auxiliary(""), None);
    }

    #[test]
    fn a_lock_wait_is_found_by_the_title_of_a_local_session() {
        for (title, want) in [
            ("postgres: pgraft_1: postgres postgres [local] startup waiting\0", true),
            ("postgres: pgraft_1: postgres postgres [local] SELECT waiting", true),
            ("postgres: pgraft_1: postgres postgres [local] startup\0", false),
            ("postgres: pgraft_1: app app 10.0.0.1(5) SELECT waiting", false),
            ("postgres: pgraft_1: startup recovering 000000010000000000000003 waiting", false),
        ] {
            assert_eq!(is_lock_wait(title), want, "{title}");
        }
    }

    #[test]
    fn stopped_sleeping_and_running_processes_are_distinguished() {
        let me = i32::try_from(std::process::id()).unwrap();
        let mut children =
            [("sleep 1000", 'S'), ("while :; do :; done", 'R')].map(|(script, state)| {
                (
                    std::process::Command::new("/bin/sh")
                        .args(["-c", &format!("{script}; :")])
                        .spawn()
                        .unwrap(),
                    state,
                )
            });
        let until = |what: &dyn Fn() -> bool| {
            let begun = std::time::Instant::now();
            while !what() {
                assert!(begun.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        for (child, state) in &mut children {
            let pid = i32::try_from(child.id()).unwrap();
            until(&|| stat(pid).is_some_and(|s| s.parent == me && s.state == *state));
            assert!(super::children(me).contains(&pid) || stat(pid).is_some());
            assert_eq!(is_runnable(pid), *state == 'R');
            kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
            until(&|| is_stopped(pid));
            assert!(!is_runnable(pid));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!is_stopped(pid));
        }
    }

    #[test]
    fn the_start_time_of_a_process_is_on_the_clock_of_uptime() {
        let me = i32::try_from(std::process::id()).unwrap();
        let mut busy = std::process::Command::new("/bin/sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(busy.id()).unwrap();
        let young = stat(pid).unwrap().started;
        let now = uptime().unwrap();
        assert!(now >= young && now - young < 60 * HERTZ, "{young} and {now}");
        assert_eq!(stat(pid).unwrap().parent, me);
        busy.kill().unwrap();
        busy.wait().unwrap();
    }
}
