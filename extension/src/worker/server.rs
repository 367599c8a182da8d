//! This server under the failover protocol. The member's threads store a directive and read the last
//! observed state; the main thread carries out the directive and observes the server.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgraft_core::NodeId;
use pgraft_core::failover::lease::BootTime;
use pgraft_core::failover::node::Intake;
use pgraft_core::failover::{History, SyncConfig};
use pgraft_core::instance_config::{NAMES_FILE, replication_name};
use pgraft_raft::{PostgresControl, ServerDirective, ServerState};
use pgrx::warning;

use crate::pg::{self, intake, names, server, slots};
use crate::shmem::gate;

/// The poll interval while a change of the server is expected.
const FAST_POLL: Duration = Duration::from_millis(5);
/// How long to poll that fast.
const FAST_POLL_TIME: Duration = Duration::from_secs(10);
/// The poll interval after that.
const SLOW_POLL: Duration = Duration::from_millis(50);
/// After this time a stop is requested again.
const STOP_RETRY: Duration = Duration::from_secs(2);

/// The part that the member's threads use.
pub struct SharedServer {
    seen: Mutex<Option<ServerState>>,
    directive: Mutex<(Option<ServerDirective>, bool)>,
    wake: UnixStream,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PostgresControl for SharedServer {
    fn now(&self) -> BootTime {
        pgraft_raft::boot_time()
    }

    fn observed(&self) -> Option<ServerState> {
        lock(&self.seen).clone()
    }

    fn refresh(&self) {
        // A full pipe is readable anyway.
        let _ = std::io::Write::write(&mut &self.wake, b"!");
    }

    fn direct(&self, direct: ServerDirective, hurry: bool) {
        let mut directive = lock(&self.directive);
        if directive.0.as_ref() != Some(&direct) || directive.1 != hurry {
            *directive = (Some(direct), hurry);
            drop(directive);
            self.refresh();
        }
    }

    fn gate(&self, until: Option<BootTime>) {
        match until {
            Some(BootTime(ms)) => gate::open_until(ms),
            None => gate::close(),
        }
    }
}

/// The part that the main thread uses.
pub struct ServerController {
    server: std::sync::Arc<SharedServer>,
    woken: UnixStream,
    data: PathBuf,
    names_file: PathBuf,
    following: Option<NodeId>,
    refusals_at_close: u64,
    consistent: bool,
    promoted_to: Option<u32>,
    names: Option<(u64, String)>,
    /// The slots that logical replication waits for.
    slots: Vec<String>,
    history: History,
    stopped_at: Option<Instant>,
    fast_since: Option<Instant>,
}

impl ServerController {
    /// Controls the server of the data directory `data`. `raft` is the Raft directory.
    ///
    /// # Errors
    /// The socket pair could not be created.
    pub fn new(data: PathBuf, raft: &std::path::Path) -> std::io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let server =
            SharedServer { seen: Mutex::default(), directive: Mutex::new((None, true)), wake };
        Ok(Self {
            server: std::sync::Arc::new(server),
            woken,
            data,
            names_file: raft.join(NAMES_FILE),
            following: None,
            refusals_at_close: 0,
            consistent: false,
            promoted_to: None,
            names: None,
            slots: Vec::new(),
            history: History::default(),
            stopped_at: None,
            fast_since: None,
        })
    }

    /// The part for the member's threads.
    pub fn server(&self) -> std::sync::Arc<SharedServer> {
        std::sync::Arc::clone(&self.server)
    }

    /// Readable when there is a new directive.
    pub fn fd(&self) -> RawFd {
        self.woken.as_raw_fd()
    }

    /// Writing here makes [`Self::fd`] readable.
    pub fn wake_fd(&self) -> RawFd {
        self.server.wake.as_raw_fd()
    }

    /// Carries out the last directive and observes the server. Returns whether its state has changed,
    /// and the time until the next call if a change is expected.
    pub fn run_once(&mut self) -> (bool, Option<Duration>) {
        let mut drained = [0; 64];
        while std::io::Read::read(&mut &self.woken, &mut drained).is_ok_and(|n| n > 0) {}
        let (direct, hurry) = lock(&self.server.directive).clone();
        if let Some(direct) = direct {
            self.carry_out(direct);
        }
        let observed = self.observed();
        let mut seen = lock(&self.server.seen);
        let changed = *seen != observed;
        *seen = observed;
        drop(seen);
        (changed, self.next_poll(hurry))
    }

    fn next_poll(&mut self, hurry: bool) -> Option<Duration> {
        if !hurry {
            self.fast_since = None;
            return None;
        }
        let since = *self.fast_since.get_or_insert_with(Instant::now);
        Some(if since.elapsed() < FAST_POLL_TIME { FAST_POLL } else { SLOW_POLL })
    }

    fn carry_out(&mut self, direct: ServerDirective) {
        match direct {
            ServerDirective::Close => {
                if !intake::is_closed() {
                    self.refusals_at_close = intake::refusals();
                    intake::close();
                }
                intake::stop_receiver();
            }
            ServerDirective::Follow(node, at, timeline) => {
                intake::open(at.host(), at.port(), timeline);
                self.following = Some(node);
            }
            ServerDirective::Promote(timeline, change, config) => {
                self.promote(timeline, change, &config);
            }
            ServerDirective::Names(change, config) if !server::is_standby() => {
                self.set_names(change, &config);
            }
            ServerDirective::Names(..) => {}
            ServerDirective::Stop => {
                gate::close();
                if self.stopped_at.is_none_or(|at| at.elapsed() >= STOP_RETRY) {
                    self.stopped_at = Some(Instant::now());
                    warning!(
                        "pgraft: this server is no longer the primary; stopping it immediately to restart it as a standby"
                    );
                    server::signal(Signal::SIGQUIT);
                }
            }
        }
    }

    /// Writes the names first: a walsender of logical replication that starts at the promotion must
    /// already know which standbys to wait for.
    fn promote(&mut self, timeline: u32, change: u64, config: &SyncConfig) {
        let from = lock(&self.server.seen).as_ref().map(|l| l.end.timeline);
        if let Some(from) = from
            && server::is_standby()
            && self.promoted_to != Some(timeline)
        {
            self.set_names(change, config);
            match server::promote(&self.data, from, timeline) {
                Ok(()) => self.promoted_to = Some(timeline),
                Err(error) => warning!("pgraft: could not promote this server: {error}"),
            }
        }
    }

    /// Writes the names to a file that the server's configuration includes, followed by the number of
    /// the change: a process that has loaded the number has loaded the names.
    fn set_names(&mut self, change: u64, config: &SyncConfig) {
        let value = sync_names(config);
        let wanted = Some((change, value.clone()));
        let slots = slots::to_wait_for(config, &self.slots, slots::is_in_use);
        if self.names == wanted && self.slots == slots {
            return;
        }
        let text = format!(
            "# Written by the pgraft worker. Do not edit this file; changes are overwritten.\nsynchronous_standby_names = '{value}'\n{}pgraft.sync_change = {}\n",
            slots::setting(&slots),
            number(change)
        );
        match replace(&self.names_file, &text) {
            Ok(()) => {
                (self.names, self.slots) = (wanted, slots);
                server::signal(Signal::SIGHUP);
            }
            Err(error) => {
                warning!("pgraft: could not write file \"{}\": {error}", self.names_file.display());
            }
        }
    }

    fn observed(&mut self) -> Option<ServerState> {
        let standby = server::is_standby();
        // The names before the position: the WAL up to the position was then written after all
        // processes had loaded the names.
        let names = self
            .names
            .as_ref()
            .filter(|_| !standby)
            .map(|(change, value)| (*change, have_all_loaded(*change, value)));
        // The intake before the position: once it is closed, nothing beyond the position is
        // confirmed.
        let intake = self.intake();
        let end = pg::wal::position()?;
        self.consistent = self.consistent || server::is_consistent(&self.data);
        if !standby && self.history.timeline != end.timeline {
            self.history = server::history(&self.data, end.timeline);
        }
        Some(ServerState {
            run: server::run(),
            consistent: self.consistent,
            standby,
            end,
            intake,
            newest_timeline: if standby {
                server::newest_timeline(&self.data)
            } else {
                end.timeline
            },
            history: if standby { History::default() } else { self.history.clone() },
            names,
        })
    }

    /// Closed if no receiver is running and the startup process has read all local WAL: it has
    /// received WAL before, or has requested a receiver that was refused.
    fn intake(&self) -> Intake {
        if !intake::is_closed() {
            let open = self
                .following
                .zip(intake::open_timeline())
                .map(|(from, timeline)| Intake::Open { from, timeline });
            return open.unwrap_or(Intake::Closing);
        }
        let at_the_end = server::has_received() || intake::refusals() > self.refusals_at_close;
        if intake::has_receiver() || !at_the_end { Intake::Closing } else { Intake::Closed }
    }
}

/// Whether all relevant processes have loaded these names.
fn have_all_loaded(change: u64, value: &str) -> bool {
    // If another file overrides the names, this process has loaded other ones.
    server::sync_names() == value
        && names::loaded_everywhere(number(change))
        && names::sync_defined() != value.is_empty()
}

fn number(change: u64) -> i32 {
    i32::try_from(change).unwrap_or(i32::MAX)
}

fn sync_names(config: &SyncConfig) -> String {
    if config.required == 0 {
        return String::new();
    }
    let names: Vec<String> =
        config.standbys.iter().map(|id| format!("\"{}\"", replication_name(*id))).collect();
    format!("ANY {} ({})", config.required, names.join(","))
}

/// Replaces a file atomically. It need not survive a crash, because it is written again before it is
/// needed.
fn replace(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, path)
}
