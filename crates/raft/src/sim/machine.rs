//! One machine: what a member finds on it, what `crates/sim` does to it, and what it hears of the
//! member.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgraft_core::ClusterState;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::Instant;
use uuid::Uuid;

use super::Rules;
use super::disk::{LogLine, SimDisk};

thread_local! {
    static HERE: RefCell<Option<Arc<Machine>>> = const { RefCell::new(None) };
}

/// Asks the machine that this thread is; None when it is none.
pub fn here<T>(ask: impl FnOnce(&Arc<Machine>) -> T) -> Option<T> {
    HERE.with(|here| here.borrow().clone()).map(|machine| ask(&machine))
}

/// Tells the machine that this thread is what has happened.
pub fn note(what: impl FnOnce() -> MachineEvent) {
    if let Some(machine) = HERE.with(|here| here.borrow().clone()) {
        machine.note(what());
    }
}

/// A term and the node that leads or wants to lead in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// The number.
    pub number: u64,
    /// Who leads or stands.
    pub candidate: u32,
}

/// What a member has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// It wrote a vote: for a candidate, or (confirmed) for whom a majority has made leader. Its
    /// own, confirmed, means that it leads.
    Voted {
        /// For whom, and when.
        term: Term,
        /// A majority has given it.
        confirmed: bool,
    },
    /// It wrote an entry to its log.
    Appended(LogLine),
    /// It took the entries from this index on out of its log.
    TruncatedFrom(u64),
    /// It applied an entry, and this is the state that came of it.
    Applied {
        /// The entry.
        entry: LogLine,
        /// What came of it, in words.
        outcome: String,
        /// All that is replicated.
        state: Box<ClusterState>,
    },
    /// It took over a snapshot, another member's or at start its own: the state after this index.
    Installed {
        /// The last entry in it.
        index: u64,
        /// All that is replicated.
        state: Box<ClusterState>,
    },
}

/// What a crash has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Writes that were not synced and are gone.
    pub lost: usize,
    /// Writes that were not synced and are there all the same.
    pub kept: usize,
}

/// A simulated machine. It outlives its member's crashes.
pub struct Machine {
    inner: Mutex<SimMachineState>,
}

struct SimMachineState {
    rng: SmallRng,
    disk: SimDisk,
    rules: Rules,
    fsync: (Duration, Duration),
    /// What the wall clock said when the machine's own clock said `since`.
    wall: (Instant, i64),
    events: Vec<MachineEvent>,
}

/// While it lives, this thread is the machine.
pub struct EnteredMachine(Option<Arc<Machine>>);

impl Drop for EnteredMachine {
    fn drop(&mut self) {
        HERE.with(|here| *here.borrow_mut() = self.0.take());
    }
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(seed: u64, rules: Rules) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(SimMachineState {
                rng: SmallRng::seed_from_u64(seed),
                disk: SimDisk::default(),
                rules,
                fsync: (Duration::from_millis(1), Duration::from_millis(4)),
                wall: (Instant::now(), 0),
                events: Vec::new(),
            }),
        })
    }

    /// Makes this thread the machine.
    pub fn enter(self: &Arc<Self>) -> EnteredMachine {
        EnteredMachine(HERE.with(|here| here.borrow_mut().replace(Arc::clone(self))))
    }

    /// What the member has done since the last call.
    pub fn events(&self) -> Vec<MachineEvent> {
        std::mem::take(&mut self.lock().events)
    }

    /// From now on an fsync takes between `from` and `to`.
    pub fn set_fsync(&self, from: Duration, to: Duration) {
        self.lock().fsync = (from, to);
    }

    /// Sets the wall clock, in microseconds since the epoch. Call it with the machine's own clock
    /// in force.
    pub fn set_wall_clock(&self, us: i64) {
        self.lock().wall = (Instant::now(), us);
    }

    /// The power goes. Of the writes that were not synced, a prefix that chance decides is there
    /// all the same.
    pub fn crash(&self) -> Crash {
        let mut inner = self.lock();
        let unsynced = inner.disk.unsynced();
        let kept = if unsynced == 0 { 0 } else { inner.rng.random_range(0..=unsynced) };
        let lost = inner.disk.crash(kept);
        Crash { lost, kept }
    }

    /// Takes everything off the disk.
    pub fn wipe(&self) {
        self.lock().disk = SimDisk::default();
    }

    /// Makes this disk a copy of another, as far as that one is synced.
    pub fn copy_from(&self, other: &Self) {
        let mut copy = other.lock().disk.clone();
        copy.crash(0);
        self.lock().disk = copy;
    }

    /// The log as it can be read now, purged entries excepted, and the index of the last that was
    /// purged.
    pub fn log(&self) -> (u64, Vec<LogLine>) {
        let inner = self.lock();
        let log = &inner.disk.log;
        (log.purged.map_or(0, |id| id.index), log.entries.values().map(LogLine::of).collect())
    }

    /// A number by this machine's chance.
    pub fn random(&self) -> u64 {
        self.lock().rng.next_u64()
    }

    pub(crate) fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.lock().rng.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    pub(crate) fn wall_clock_us(&self) -> i64 {
        let (since, us) = self.lock().wall;
        us.saturating_add(i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// What is in force on it.
    pub fn rules(&self) -> Rules {
        self.lock().rules
    }

    pub(crate) fn replace_file(&self, path: &Path, bytes: &[u8]) {
        self.lock().disk.files.insert(PathBuf::from(path), bytes.to_vec());
    }

    /// A small file, for whoever else reads what a member writes.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.lock().disk.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn fsync_takes(&self) -> Duration {
        let mut inner = self.lock();
        let (from, to) = inner.fsync;
        inner.rng.random_range(from..=to)
    }

    pub(super) fn with_disk<T>(&self, act: impl FnOnce(&mut SimDisk) -> T) -> T {
        act(&mut self.lock().disk)
    }

    pub(super) fn note(&self, event: MachineEvent) {
        self.lock().events.push(event);
    }

    fn lock(&self) -> MutexGuard<'_, SimMachineState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
