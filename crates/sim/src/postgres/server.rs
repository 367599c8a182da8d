//! One server: its processes, its shared memory, and the worker's main thread in it. As
//! `extension/src/worker/server.rs` does with the real one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::node::Intake;
use pgraft_core::failover::{History, SyncConfig};
use pgraft_core::status::WalPosition;
use pgraft_raft::sim::Rules;
use pgraft_raft::{ServerDirective, ServerState};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::disk::{PostgresDisk, WalRecord, lsn};
use super::member::{Desk, boot_time};
use crate::clock::Time;
use crate::net::millis;
use crate::note::Note;
use crate::numbers::node;

pub use super::run::{LoadedNames, ServerRun, SimServerMode};

/// The worker's main thread.
pub struct Worker {
    /// What it shares with the others.
    pub desk: Arc<Desk>,
    following: Option<NodeId>,
    refusals_at_close: u64,
    promoted_to: Option<u32>,
    names: Option<(u64, SyncConfig)>,
    next: Time,
}

impl Worker {
    /// Of that run.
    pub fn new(run: &ServerRun, booted: u64) -> Self {
        Self {
            desk: Arc::new(Desk::new(Arc::clone(&run.gate), booted)),
            following: None,
            refusals_at_close: 0,
            promoted_to: None,
            names: None,
            next: Time::ZERO,
        }
    }
}

/// What the instance manager does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The machine has no power, or nobody has started anything.
    Off,
    /// Starts the server then.
    Waiting(Time),
    /// Looks after it; when it asks next whether a rewind is wanted.
    Running(Time),
    /// Rewinds or clones.
    Copying {
        /// From that machine's server.
        from: u32,
        /// A rewind: the data that is there is changed.
        rewind: bool,
        /// Done then.
        until: Time,
    },
}

/// A machine's Postgres.
#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
pub struct SimPostgres {
    /// The machine.
    pub number: u32,
    /// PGDATA.
    pub disk: PostgresDisk,
    /// The server, while it runs.
    pub run: Option<ServerRun>,
    /// The worker in it, while that lives.
    pub worker: Option<Worker>,
    /// The instance manager.
    pub manager: Manager,
    /// Every process of the node is stopped.
    pub frozen: bool,
    /// Nothing is written to its disk.
    pub disk_stands: bool,
    /// The worker is stopped, and nothing else.
    pub worker_stands: bool,
    /// This node makes the cluster.
    pub bootstrap: bool,
    /// What its boot-time clock said when the simulation began.
    pub booted: u64,
    /// When it makes the next checkpoint.
    pub next_checkpoint: Time,
    /// Its chance.
    pub rng: SmallRng,
    /// What is in force.
    pub rules: Rules,
}

/// What a step of a server may need of the others.
pub struct ServerSurroundings<'a> {
    /// What time it is.
    pub now: Time,
    /// The last record's number.
    pub ids: &'a mut u64,
    /// Whether a walreceiver that was let in lives on this server.
    pub receiver_lives: bool,
    /// Whether every walsender that streams from this server goes by the names of that change.
    pub senders_loaded: &'a dyn Fn(u64) -> bool,
    /// What has happened.
    pub notes: &'a mut Vec<Note>,
}

impl SimPostgres {
    /// With an empty data directory, and off.
    pub fn new(number: u32, rng: SmallRng, rules: Rules) -> Self {
        Self {
            number,
            disk: PostgresDisk::default(),
            run: None,
            worker: None,
            manager: Manager::Off,
            frozen: false,
            disk_stands: false,
            worker_stands: false,
            bootstrap: false,
            booted: 0,
            next_checkpoint: Time::ZERO,
            rng,
            rules,
        }
    }

    /// So long, by chance.
    pub fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        millis(&mut self.rng, Duration::from_millis(least_ms), Duration::from_millis(most_ms))
    }

    /// Short as a rule, and now and then long.
    pub fn delay(&mut self, short_ms: u64, long_ms: u64) -> Duration {
        if self.rng.random_range(0..20) == 0 {
            self.between(short_ms, long_ms)
        } else {
            self.between(1, short_ms)
        }
    }

    /// Whether the gate is open now.
    pub fn is_open(&self, now: Time) -> bool {
        let until = self
            .run
            .as_ref()
            .filter(|r| r.mode == SimServerMode::Primary)
            .map_or(0, |r| r.gate.load(Ordering::SeqCst));
        until > boot_time(now, self.booted)
    }

    /// The end of its WAL, as the worker says it.
    pub fn end(&self) -> WalPosition {
        let run = self.run.as_ref();
        let timeline = match run {
            Some(run) if run.mode == SimServerMode::Primary => run.timeline,
            Some(run) => run.received_timeline.max(self.disk.timeline()),
            None => self.disk.timeline(),
        };
        WalPosition { timeline, lsn: lsn(self.disk.flushed) }
    }

    /// Writes a record, unflushed; where it ends.
    pub fn write(&mut self, ids: &mut u64, row: Option<u32>) -> usize {
        *ids += 1;
        let timeline = self.run.as_ref().map_or(1, |r| r.timeline);
        self.disk.wal.push(WalRecord { id: *ids, timeline, row });
        self.disk.wal.len()
    }

    /// What is under way by itself: recovery, a promotion, configuration files that are read.
    pub fn go_on(&mut self, around: &mut ServerSurroundings<'_>) {
        let now = around.now;
        self.change_mode(around);
        self.checkpoint(now);
        let file = self.disk.names.clone();
        let Some(run) = &mut self.run else { return };
        // What the postmaster is told it passes on.
        let passes_on = !run.stuck.postmaster;
        for (loaded, reads) in [
            (&mut run.postmaster, passes_on),
            (&mut run.checkpointer, passes_on && !run.stuck.checkpointer),
        ] {
            if reads && loaded.due.is_some_and(|due| due <= now) {
                *loaded = LoadedNames { names: file.clone(), due: None };
            }
        }
    }

    fn change_mode(&mut self, around: &mut ServerSurroundings<'_>) {
        let now = around.now;
        let stands = self.disk_stands;
        let Some(run) = self.run.as_mut().filter(|r| !stands && !r.stuck.postmaster) else {
            return;
        };
        match run.mode {
            SimServerMode::Starting { until, primary } if until <= now => {
                run.mode = if primary { SimServerMode::Primary } else { SimServerMode::Standby };
                run.timeline = self.disk.timeline();
                run.began = self.disk.wal.len();
                run.visible =
                    self.disk.rows(run.began).filter(|row| !run.lost.contains(row)).collect();
            }
            SimServerMode::Promoting { to, begins: Some(begins), until } if begins <= now => {
                run.mode = SimServerMode::Promoting { to, begins: None, until };
                run.timeline = to;
                let left = self.disk.left(to);
                self.disk.histories.insert(to, left);
                around.notes.push(Note::Promotes { node: self.number, timeline: to });
            }
            SimServerMode::Promoting { to, begins: None, until } if until <= now => {
                run.mode = SimServerMode::Primary;
                let began = self.write(around.ids, None);
                self.disk.flushed = began;
                if let Some(run) = &mut self.run {
                    run.began = began;
                    run.visible =
                        self.disk.rows(began).filter(|row| !run.lost.contains(row)).collect();
                }
                around.notes.push(Note::Promoted { node: self.number, timeline: to, upto: began });
            }
            _ => {}
        }
    }

    /// The main thread of the worker: carries out the last order and looks. Whether the look is
    /// news.
    pub fn tend(&mut self, around: &mut ServerSurroundings<'_>) -> bool {
        if self.worker_stands {
            return false;
        }
        let next = around.now + self.delay(9, 250);
        let Some(worker) = self.worker.as_mut().filter(|w| w.next <= around.now) else {
            return false;
        };
        worker.next = next;
        if let Some(direct) = worker.desk.ordered() {
            self.carry_out(direct, around);
        }
        let observed = self.observed(around);
        self.worker.as_ref().is_some_and(|w| w.desk.saw(observed))
    }

    fn carry_out(&mut self, direct: ServerDirective, around: &mut ServerSurroundings<'_>) {
        let (Some(worker), Some(run)) = (&mut self.worker, &mut self.run) else { return };
        match direct {
            ServerDirective::Close => {
                if run.takes() {
                    worker.refusals_at_close = run.refusals;
                    run.shut();
                }
            }
            ServerDirective::Follow(node, at, timeline) => {
                if let Ok(machine) = crate::net::machine(at.host()) {
                    run.open((machine, timeline));
                    worker.following = Some(node);
                }
            }
            ServerDirective::Promote(timeline, change, config) => {
                self.promote(timeline, (change, config), around);
            }
            ServerDirective::Names(..) if run.is_standby() => {}
            ServerDirective::Names(change, config) => self.set_names(change, config, around),
            ServerDirective::Stop => {
                run.gate.store(0, Ordering::SeqCst);
                around.notes.push(Note::Stops { node: self.number });
            }
        }
    }

    fn promote(
        &mut self,
        timeline: u32,
        (change, config): (u64, SyncConfig),
        around: &mut ServerSurroundings<'_>,
    ) {
        let from = self.end().timeline;
        let (begins, takes) = (around.now + self.delay(15, 200), self.delay(60, 900));
        let (Some(worker), Some(run)) = (&mut self.worker, &mut self.run) else { return };
        if run.mode != SimServerMode::Standby || worker.promoted_to == Some(timeline) {
            return;
        }
        worker.promoted_to = Some(timeline);
        self.set_names(change, config, around);
        let Some(run) = &mut self.run else { return };
        if self.rules.timelines {
            for between in from + 1..timeline {
                self.disk.histories.entry(between).or_default();
            }
        }
        let to = self.disk.free_timeline(from);
        run.mode = SimServerMode::Promoting { to, begins: Some(begins), until: begins + takes };
    }

    /// The names in the file, and every process hears that there is one. Walsenders see it in
    /// [`super::stream`].
    fn set_names(
        &mut self,
        change: u64,
        mut config: SyncConfig,
        around: &mut ServerSurroundings<'_>,
    ) {
        if !self.rules.sync_waits {
            config.required = 0;
        }
        let wanted = Some((change, config));
        let (soon, later) = (around.now + self.delay(9, 60), around.now + self.delay(30, 400));
        let (Some(worker), Some(run)) = (&mut self.worker, &mut self.run) else { return };
        if worker.names == wanted {
            return;
        }
        worker.names.clone_from(&wanted);
        self.disk.names = wanted;
        run.postmaster.due = Some(soon);
        run.checkpointer.due = Some(later);
        around.notes.push(Note::NamesChange { node: self.number });
    }

    fn observed(&self, around: &ServerSurroundings<'_>) -> Option<ServerState> {
        let (worker, run) = (self.worker.as_ref()?, self.run.as_ref()?);
        let standby = run.is_standby();
        let loaded = |change: u64, config: &SyncConfig| {
            let defined = run.checkpointer.config().is_some();
            run.postmaster.is_of(change)
                && run.checkpointer.is_of(change)
                && (around.senders_loaded)(change)
                && defined == (config.required > 0)
        };
        let names = worker
            .names
            .as_ref()
            .filter(|_| !standby)
            .map(|(change, config)| (*change, loaded(*change, config)));
        Some(ServerState {
            run: run.id,
            consistent: !matches!(run.mode, SimServerMode::Starting { .. }),
            standby,
            end: self.end(),
            intake: self.intake(around),
            newest_timeline: if standby { self.disk.newest_timeline() } else { run.timeline },
            history: if standby { History::default() } else { self.disk.history(run.timeline) },
            names,
        })
        .filter(|observed| observed.end.lsn > 0)
    }

    fn intake(&self, around: &ServerSurroundings<'_>) -> Intake {
        let (Some(worker), Some(run)) = (&self.worker, &self.run) else { return Intake::Closing };
        if run.takes() {
            let open = worker
                .following
                .zip(run.target)
                .map(|(from, (_, timeline))| Intake::Open { from, timeline });
            return open.unwrap_or(Intake::Closing);
        }
        let at_the_end = run.has_received || run.refusals > worker.refusals_at_close;
        let gone = !around.receiver_lives || !self.rules.intake;
        if gone && at_the_end { Intake::Closed } else { Intake::Closing }
    }

    /// The gate as backends find it has opened: what is to be told of it.
    pub fn opened(&mut self, now: Time) -> Option<Note> {
        let open = self.is_open(now);
        let name = node(self.number);
        let run = self.run.as_mut()?;
        let (before, ever) = run.was_open;
        run.was_open = (open, open || ever);
        if before || !open {
            return None;
        }
        // One that was open shows nothing new: whom it waits for may be changing.
        let config = self
            .worker
            .as_ref()
            .and_then(|w| w.names.clone())
            .map(|(_, config)| config)
            .filter(|_| !ever);
        let last = self.disk.wal.get(run.began.checked_sub(1)?)?.id;
        Some(Note::GateOpens {
            node: name.get(),
            timeline: run.timeline,
            began: last,
            config,
            rows: run.visible.clone(),
        })
    }

    /// Every process of the server ends at once. What was written and is not on disk stays with the
    /// kernel, but for what was in its own buffers.
    pub fn end_processes(&mut self) {
        self.break_off_checkpoint();
        if let Some(run) = self.run.take()
            && run.mode == SimServerMode::Primary
        {
            let kept = self.rng.random_range(self.disk.flushed..=self.disk.wal.len());
            self.disk.wal.truncate(kept);
        }
        self.worker = None;
    }

    /// The power goes.
    pub fn lose_power(&mut self) {
        self.end_processes();
        let kept = self.rng.random_range(self.disk.flushed..=self.disk.wal.len());
        self.disk.wal.truncate(kept);
        self.manager = Manager::Off;
        self.frozen = false;
    }

    /// A process was killed: the postmaster ends the others, and recovers in shared memory of that
    /// number.
    pub fn recover_in_place(&mut self, id: i64, now: Time) {
        let until = now + self.delay(100, 900);
        self.break_off_checkpoint();
        let Some(primary) = self.run.as_ref().map(|run| run.mode == SimServerMode::Primary) else {
            return;
        };
        if primary {
            let kept = self.rng.random_range(self.disk.flushed..=self.disk.wal.len());
            self.disk.wal.truncate(kept);
        }
        self.disk.flushed = self.disk.wal.len();
        let lost = self.begin_recovery();
        let Some(run) = &mut self.run else { return };
        let names = run.postmaster.names.clone();
        let round = run.round + 1;
        *run = ServerRun {
            round,
            lost,
            ..ServerRun::new(id, names, SimServerMode::Starting { until, primary })
        };
        self.worker = None;
    }
}

/// By machine.
pub type Servers = BTreeMap<u32, SimPostgres>;
