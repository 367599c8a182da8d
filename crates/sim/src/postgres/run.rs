//! One run of a server: what it is doing, and its shared memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use pgraft_core::failover::SyncConfig;

use super::liveness::{LivenessObservation, StuckProcesses};
use super::session::Backend;
use crate::clock::Time;

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimServerMode {
    /// Recovers what was there; a primary again afterwards, or a standby.
    Starting {
        /// Until then.
        until: Time,
        /// After a crash of its processes, or of a bootstrap node.
        primary: bool,
    },
    /// In recovery, and consistent.
    Standby,
    /// On its way to be a primary.
    Promoting {
        /// The timeline that it takes.
        to: u32,
        /// When the history file is written, until it is.
        begins: Option<Time>,
        /// When it is one.
        until: Time,
    },
    /// Takes writes, as far as the gate lets it.
    Primary,
}

/// Which `synchronous_standby_names` a process goes by, and when it reads the ones in the file.
#[derive(Debug, Clone, Default)]
pub struct LoadedNames {
    /// The change, and the names.
    pub names: Option<(u64, SyncConfig)>,
    /// When the next ones are read.
    pub due: Option<Time>,
}

impl LoadedNames {
    /// Of that change.
    pub fn is_of(&self, change: u64) -> bool {
        self.names.as_ref().is_some_and(|(loaded, _)| *loaded == change)
    }

    /// How many standbys must confirm, of these.
    pub fn config(&self) -> Option<&SyncConfig> {
        self.names.as_ref().map(|(_, config)| config).filter(|c| c.required > 0)
    }
}

/// One run of the server: a postmaster, and its shared memory.
pub struct ServerRun {
    /// When its shared memory was made; no two are alike.
    pub id: i64,
    /// Counts the crashes of its processes that its postmaster survived.
    pub round: u32,
    /// What it is doing.
    pub mode: SimServerMode,
    /// The postmaster is dead, and until then its processes are not.
    pub orphans_until: Option<Time>,
    /// Until when the gate is open; see [`super::member::Desk`].
    pub gate: Arc<AtomicU64>,
    /// Whether it was open when it was looked at last, and ever.
    pub was_open: (bool, bool),
    /// Counts openings and closings of the intake: odd is open.
    pub generation: u64,
    /// Where WAL is taken from, while it is open, and on which timeline.
    pub target: Option<(u32, u32)>,
    /// How many walreceivers have found it closed.
    pub refusals: u64,
    /// Whether a walreceiver was ever asked for.
    pub has_received: bool,
    /// The timeline that was asked for last.
    pub received_timeline: u32,
    /// When the startup process asks for the next walreceiver.
    pub next_receiver: Time,
    /// What new processes inherit.
    pub postmaster: LoadedNames,
    /// It says whether commits wait at all.
    pub checkpointer: LoadedNames,
    /// As a primary: its timeline.
    pub timeline: u32,
    /// Where its WAL ended when it became a primary, or came up as one.
    pub began: usize,
    /// The rows that a read shows.
    pub visible: BTreeSet<u32>,
    /// The prepared transactions that its recovery has lost, by row.
    pub lost: BTreeSet<u32>,
    /// Clients' sessions.
    pub backends: Vec<Backend>,
    /// Which of its processes are stopped.
    pub stuck: StuckProcesses,
    /// What its instance manager has seen of it.
    pub observed: LivenessObservation,
}

impl ServerRun {
    /// Shared memory as a postmaster makes it.
    pub fn new(id: i64, names: Option<(u64, SyncConfig)>, mode: SimServerMode) -> Self {
        let loaded = LoadedNames { names, due: None };
        Self {
            id,
            round: 0,
            mode,
            orphans_until: None,
            gate: Arc::default(),
            was_open: (false, false),
            generation: 0,
            target: None,
            refusals: 0,
            has_received: false,
            received_timeline: 0,
            next_receiver: Time::ZERO,
            checkpointer: loaded.clone(),
            postmaster: loaded,
            timeline: 0,
            began: 0,
            visible: BTreeSet::new(),
            lost: BTreeSet::new(),
            backends: Vec::new(),
            stuck: StuckProcesses::default(),
            observed: LivenessObservation::default(),
        }
    }

    /// Whether it is in recovery.
    pub fn is_standby(&self) -> bool {
        self.mode != SimServerMode::Primary
    }

    /// Whether it takes connections.
    pub fn accepts(&self) -> bool {
        !matches!(self.mode, SimServerMode::Starting { .. })
            && self.orphans_until.is_none()
            && !self.stuck.postmaster
    }

    /// Whether the intake is open.
    pub const fn takes(&self) -> bool {
        self.generation % 2 == 1
    }

    /// Lets no walreceiver in.
    pub fn shut(&mut self) {
        self.generation += self.generation % 2;
        self.target = None;
    }

    /// Lets one in that goes there.
    pub fn open(&mut self, target: (u32, u32)) {
        if !self.takes() || self.target != Some(target) {
            self.shut();
            self.generation += 1;
            self.target = Some(target);
        }
    }
}
