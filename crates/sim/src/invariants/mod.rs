//! What must hold at every step. Each file is one invariant and opens with its source; each sees
//! everything that happens, in order, and says what is wrong the moment it is.

mod acknowledged_add;
mod committed_stays;
mod confirmed_gate;
mod fresh_timelines;
mod kept_rows;
mod nobody_dies;
mod one_change;
mod one_confirms;
mod one_history;
mod one_leader_a_term;
mod one_open_gate;
mod reads_in_time;
mod refused_add;
mod same_order;
mod spent_ids;

use std::collections::BTreeSet;

use pgraft_core::NodeId;
use pgraft_raft::sim::{LogLine, MachineEvent};

use crate::clock::Time;
use crate::note::Note;

/// One thing that happened.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A member has done something.
    Did {
        /// The machine that it runs on.
        machine: u32,
        /// Its node id.
        node: u32,
        /// What it did.
        event: &'a MachineEvent,
    },
    /// A member has become leader, with this log: the last entry that was purged, and those behind
    /// it.
    Leads {
        /// Its node id.
        node: u32,
        /// In this term; a later one may have a leader already, when it was slow to hear of its
        /// election.
        term: u64,
        /// The last index that is only in its snapshot.
        purged: u64,
        /// The entries behind.
        log: &'a [LogLine],
    },
    /// A machine's disk was emptied, or has become a copy: what was known of it is void.
    NewDisk {
        /// The machine.
        machine: u32,
    },
    /// A member starts on a machine, from what its disk has.
    Starts {
        /// The machine.
        machine: u32,
    },
    /// A client calls for this newcomer.
    AddCalled(NodeId),
    /// A client was told that this newcomer is in.
    AddAcknowledged(NodeId),
    /// A client was told that this newcomer is not in, and why. `certain` when nothing can come of
    /// the call any more.
    AddRefused {
        /// Who was to join.
        node: NodeId,
        /// Nothing can come of the call any more.
        certain: bool,
    },
    /// A client calls for this member to leave.
    RemoveCalled(NodeId),
    /// Something has happened to the databases.
    Postgres(&'a Note),
    /// The group has a primary: the epoch, and the timeline that it was given.
    Appointed {
        /// The epoch.
        epoch: u64,
        /// Its timeline.
        timeline: u32,
    },
    /// A commit is confirmed: see [`Note::Confirms`]; since then so many of the standbys that must
    /// have it have it on disk.
    Confirmed {
        /// By this primary.
        node: u32,
        /// On this timeline.
        timeline: u32,
        /// Since when.
        since: Time,
    },
    /// A gate opens: see [`Note::GateOpens`].
    GateOpens {
        /// Whose.
        node: u32,
        /// How many standbys of its config have all of its WAL.
        confirmed: usize,
        /// How many must.
        required: usize,
        /// What a read shows.
        rows: &'a BTreeSet<u32>,
    },
    /// A member has stopped without anybody having stopped it.
    Died {
        /// Its node id.
        node: u32,
        /// In its own words.
        why: &'a str,
    },
}

/// One invariant.
pub trait Invariant {
    /// Its name, as its file is called.
    fn name(&self) -> &'static str;

    /// Looks at what has happened.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String>;
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(one_leader_a_term::OneLeaderATerm::default()),
        Box::new(committed_stays::CommittedStays::default()),
        Box::new(same_order::SameOrder::default()),
        Box::new(acknowledged_add::AcknowledgedAdd::default()),
        Box::new(refused_add::RefusedAdd::default()),
        Box::new(spent_ids::SpentIds::default()),
        Box::new(one_change::OneChange::default()),
        Box::new(nobody_dies::NobodyDies),
        Box::new(one_confirms::OneConfirms::default()),
        Box::new(kept_rows::KeptRows::default()),
        Box::new(reads_in_time::ReadsInTime::default()),
        Box::new(one_open_gate::OneOpenGate),
        Box::new(fresh_timelines::FreshTimelines::default()),
        Box::new(confirmed_gate::ConfirmedGate),
        Box::new(one_history::OneHistory),
    ]
}
