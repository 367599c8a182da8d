//! This server under the failover protocol: the member's threads leave orders and read the last
//! look; the main thread carries out and looks.

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
use pgraft_core::instance_config::replication_name;
use pgraft_raft::{PostgresControl, ServerDirective, ServerState};
use pgrx::warning;

use crate::fence::gate;
use crate::pg::{self, intake, names, server, slots};

/// While something is expected to happen.
const FAST_POLL: Duration = Duration::from_millis(5);
/// ... for longer than this.
const PATIENT_AFTER: Duration = Duration::from_secs(10);
const PATIENT: Duration = Duration::from_millis(50);
/// A server that was told to stop and lives is told again.
const STOP_AGAIN: Duration = Duration::from_secs(2);
/// What the names of the standbys are written to, in the Raft directory; the server's configuration
/// includes it.
const NAMES_FILE: &str = "names.conf";

/// The end that the member's threads hold.
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
        BootTime(u64::try_from(pg::monotonic_ms()).unwrap_or(0))
    }

    fn observed(&self) -> Option<ServerState> {
        lock(&self.seen).clone()
    }

    fn refresh(&self) {
        // A full pipe wakes as well.
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

/// The end that the main thread holds.
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
    /// Whose slots logical replication waits for.
    slots: Vec<String>,
    history: History,
    stopped_at: Option<Instant>,
    hurries_since: Option<Instant>,
}

impl ServerController {
    /// For the server of this data directory.
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
            hurries_since: None,
        })
    }

    /// For the member's threads.
    pub fn server(&self) -> std::sync::Arc<SharedServer> {
        std::sync::Arc::clone(&self.server)
    }

    /// Readable when there is a new order.
    pub fn fd(&self) -> RawFd {
        self.woken.as_raw_fd()
    }

    /// What makes [`Self::fd`] readable.
    pub fn wake_fd(&self) -> RawFd {
        self.server.wake.as_raw_fd()
    }

    /// Carries out the last order, looks, and says whether the look is news, and when the next one
    /// is due; None when nothing is expected.
    pub fn tend(&mut self) -> (bool, Option<Duration>) {
        let mut drained = [0; 64];
        while std::io::Read::read(&mut &self.woken, &mut drained).is_ok_and(|n| n > 0) {}
        let (direct, hurry) = lock(&self.server.directive).clone();
        if let Some(direct) = direct {
            self.carry_out(direct);
        }
        let observed = self.observed();
        let mut seen = lock(&self.server.seen);
        let news = *seen != observed;
        *seen = observed;
        drop(seen);
        (news, self.due(hurry))
    }

    fn due(&mut self, hurry: bool) -> Option<Duration> {
        if !hurry {
            self.hurries_since = None;
            return None;
        }
        let since = *self.hurries_since.get_or_insert_with(Instant::now);
        Some(if since.elapsed() < PATIENT_AFTER { FAST_POLL } else { PATIENT })
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
                if self.stopped_at.is_none_or(|at| at.elapsed() >= STOP_AGAIN) {
                    self.stopped_at = Some(Instant::now());
                    warning!(
                        "pgraft: this server is the primary no longer: it ends at once, and is to come back as a standby"
                    );
                    server::signal(Signal::SIGQUIT);
                }
            }
        }
    }

    /// The names first: a walsender of logical replication that starts at the promotion is to know
    /// already whom it waits for.
    fn promote(&mut self, timeline: u32, change: u64, config: &SyncConfig) {
        let from = lock(&self.server.seen).as_ref().map(|l| l.end.timeline);
        if let Some(from) = from
            && server::is_standby()
            && self.promoted_to != Some(timeline)
        {
            self.set_names(change, config);
            match server::promote(&self.data, from, timeline) {
                Ok(()) => self.promoted_to = Some(timeline),
                Err(error) => warning!("pgraft: can't promote this server: {error}"),
            }
        }
    }

    /// The names in a file that the server's configuration includes, and behind them the number of
    /// the change: whoever has loaded that has loaded the names. Logical replication sends what as
    /// many standbys have as a commit waits for: no more than a failover keeps.
    fn set_names(&mut self, change: u64, config: &SyncConfig) {
        let value = sync_names(config);
        let wanted = Some((change, value.clone()));
        let slots = slots::to_wait_for(config, &self.slots, slots::is_in_use);
        if self.names == wanted && self.slots == slots {
            return;
        }
        let text = format!(
            "# Written by pgraft's worker: whose confirmation commits wait for. Changes are lost.\nsynchronous_standby_names = '{value}'\n{}pgraft.sync_change = {}\n",
            slots::setting(&slots),
            number(change)
        );
        match replace(&self.names_file, &text) {
            Ok(()) => {
                (self.names, self.slots) = (wanted, slots);
                server::signal(Signal::SIGHUP);
            }
            Err(error) => warning!("pgraft: can't write {}: {error}", self.names_file.display()),
        }
    }

    fn observed(&mut self) -> Option<ServerState> {
        let standby = server::is_standby();
        // First the names, then the position: what is noted as the end of the WAL was written when
        // everybody went by these names already.
        let names = self
            .names
            .as_ref()
            .filter(|_| !standby)
            .map(|(change, value)| (*change, have_all_loaded(*change, value)));
        // First the intake, then the position: when it is seen closed nothing is confirmed any more
        // that is not within this position.
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

    /// Closed once no receiver lives and the startup process has read all WAL that there is: it has
    /// received before, or has asked for a receiver and got none.
    fn intake(&self) -> Intake {
        if !intake::is_closed() {
            let open = self
                .following
                .zip(intake::timeline())
                .map(|(from, timeline)| Intake::Open { from, timeline });
            return open.unwrap_or(Intake::Closing);
        }
        let at_the_end = server::has_received() || intake::refusals() > self.refusals_at_close;
        if intake::receiver_lives() || !at_the_end { Intake::Closing } else { Intake::Closed }
    }
}

/// Whether every process that matters goes by these names.
fn have_all_loaded(change: u64, value: &str) -> bool {
    // What this process has read, the others read as well: another file that outranks ours would
    // show here.
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

/// The old file or the new one, whatever happens. It need not survive a crash: it is written again
/// before anybody relies on it.
fn replace(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, path)
}
