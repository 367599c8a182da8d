//! Starts and signals child processes, and collects every exit: of its own children and, as PID 1 or
//! a subreaper, of orphans.
//!
//! A lock is held while a child is started and recorded, and while an exit is collected and
//! reported. So no exit is missed, and no signal is sent to a reused process id.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::Arc;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(Signal),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Starts children and collects exits. Clones share the children.
#[derive(Clone, Default)]
pub struct Reaper {
    children: Arc<Mutex<HashMap<i32, watch::Sender<Option<Ending>>>>>,
}

/// A child process in its own process group. Dropping this does not end it.
#[derive(Clone)]
pub struct Child {
    /// Its process id, and that of its group.
    pub pid: i32,
    ending: watch::Receiver<Option<Ending>>,
    reaper: Reaper,
}

impl Reaper {
    /// Collects exits for as long as the runtime lives. Orphans of this process's children become its
    /// children.
    pub fn start() -> io::Result<Self> {
        let reaper = Self::default();
        nix::sys::prctl::set_child_subreaper(true)?;
        let mut exits = signal(SignalKind::child())?;
        let collector = reaper.clone();
        tokio::spawn(async move {
            while exits.recv().await.is_some() {
                collector.collect();
            }
        });
        Ok(reaper)
    }

    /// Starts a program in its own process group, with stdin and stdout closed and stderr on the pipe.
    pub fn spawn(&self, mut command: Command) -> io::Result<(Child, pipe::Receiver)> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut children = self.lock();
        let mut child = command.spawn()?;
        let pid = child.id().cast_signed();
        let (sender, ending) = watch::channel(None);
        children.insert(pid, sender);
        drop(children);
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no stderr"))?;
        Ok((Child { pid, ending, reaper: self.clone() }, receiver(stderr)?))
    }

    /// Starts a program like [`Self::spawn`], with stdout and stderr on the pipe.
    pub fn spawn_with_output(&self, mut command: Command) -> io::Result<(Child, pipe::Receiver)> {
        let (read, write) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write).process_group(0);
        let mut children = self.lock();
        let pid = command.spawn()?.id().cast_signed();
        let (sender, ending) = watch::channel(None);
        children.insert(pid, sender);
        drop(children);
        Ok((
            Child { pid, ending, reaper: self.clone() },
            pipe::Receiver::from_owned_fd(read.into())?,
        ))
    }

    fn collect(&self) {
        let mut children = self.lock();
        loop {
            let (pid, ending) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ending::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ending::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "could not collect a child's exit");
                    return;
                }
            };
            if let Some(sender) = children.remove(&pid.as_raw()) {
                sender.send_replace(Some(ending));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Option<Ending>>>> {
        self.children.lock()
    }
}

fn receiver(stderr: ChildStderr) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(stderr.into())
}

impl Child {
    /// Signals the child, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let children = self.reaper.lock();
        if children.contains_key(&self.pid) {
            // It may be a zombie that is not collected yet.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Signals the child's whole process group, unless the child has ended.
    pub fn signal_group(&self, signal: Signal) {
        let children = self.reaper.lock();
        if children.contains_key(&self.pid) {
            let _ = killpg(Pid::from_raw(self.pid), signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ending> {
        *self.ending.borrow()
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Ending {
        let ended = self.ending.wait_for(Option::is_some).await.ok().and_then(|e| *e);
        // The sender is dropped only after it has reported the exit.
        ended.unwrap_or(Ending::Signal(Signal::SIGKILL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
    }

    /// One test, since all children of the test process are collected by whichever reaper comes
    /// first.
    #[tokio::test]
    async fn exits_of_children_and_orphans_are_collected() {
        let reaper = Reaper::start().unwrap();
        let (mut child, mut pipe) = reaper.spawn(shell("echo out >&2; exit 3")).unwrap();
        assert_eq!(soon(child.wait()).await, Ending::Code(3));
        child.signal(Signal::SIGKILL); // nobody is hit
        let mut text = String::new();
        soon(pipe.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "out\n");

        let (mut child, _pipe) = reaper.spawn(shell("sleep 1000")).unwrap();
        assert_eq!(child.ended(), None);
        child.signal_group(Signal::SIGTERM);
        assert_eq!(soon(child.wait()).await, Ending::Signal(Signal::SIGTERM));

        // The shell goes first; its orphan is inherited, then collected: no zombie of ours stays.
        let (mut child, mut pipe) = reaper
            .spawn(shell("sh -c 'echo $$ >&2; read line < /dev/null; exit 0' & exit 0"))
            .unwrap();
        soon(child.wait()).await;
        let mut orphan = String::new();
        soon(pipe.read_to_string(&mut orphan)).await.unwrap();
        let gone = async {
            while std::path::Path::new(&format!("/proc/{}", orphan.trim())).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(gone).await;
    }
}
