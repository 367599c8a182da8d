//! What a primary does before it takes writes, and whenever its standbys change.
//!
//! ```text
//!  Raft read ▸ names ▸ every process has loaded them ▸ note the end of the WAL ▸ the target has confirmed it ▸ Settle ▸ gate
//! ```

use std::collections::BTreeSet;

use crate::NodeId;
use crate::primary_term::PrimaryTerm;

/// `synchronous_standby_names` of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NamesState {
    /// Not of the protocol's making yet.
    Unset,
    /// The target of that change, and some process still goes by other ones.
    Loading(u64),
    /// The target of that change, in every walsender, every backend and the checkpointer.
    Loaded(u64),
}

/// What a primary knows. All of it is of this run of its Postgres.
#[derive(Debug, Clone, Copy)]
pub struct PrimaryFacts<'a> {
    /// The applied state; this node is its primary, and runs on its timeline.
    pub primary_term: &'a PrimaryTerm,
    /// Whether the state was brought to the present by a Raft read since this run began: a
    /// restarted node has applied less than it has acknowledged under.
    pub read: bool,
    /// What `synchronous_standby_names` is.
    pub names: NamesState,
    /// The change that the end of the WAL was noted for, after its names were loaded everywhere.
    pub noted: Option<u64>,
    /// Who has confirmed that position.
    pub confirmed: &'a BTreeSet<NodeId>,
    /// Whether the lease stands.
    pub lease: bool,
    /// Whether the gate is open.
    pub open: bool,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrimaryStep {
    /// Nothing until something changes.
    Nothing,
    /// Come to the present.
    Read,
    /// Make `synchronous_standby_names` the target of that change.
    SetNames(u64),
    /// Some process still goes by the old names.
    WaitForNames,
    /// Note the end of the WAL.
    Note(u64),
    /// These have not confirmed it yet.
    WaitFor(BTreeSet<NodeId>),
    /// Propose that the target alone is in force.
    CommitSyncConfig {
        /// The epoch that it is for.
        epoch: u64,
        /// The change that it is for.
        change: u64,
    },
    /// No majority has acknowledged a heartbeat of this run yet.
    WaitForLease,
    /// Take writes.
    OpenGate,
}

/// The next step. The gate opens only where one config is in force and has confirmed all that this
/// server can show; it is not closed here: the deadline of the lease does that, without anybody's
/// help.
pub fn next_step(facts: &PrimaryFacts<'_>) -> PrimaryStep {
    let PrimaryFacts { primary_term, read, names, noted, confirmed, lease, open } = *facts;
    let Some(target) = primary_term.target() else { return PrimaryStep::Nothing };
    if !read {
        return PrimaryStep::Read;
    }
    match names {
        NamesState::Loaded(change) if change == primary_term.change => {}
        NamesState::Loading(change) if change == primary_term.change => {
            return PrimaryStep::WaitForNames;
        }
        _ => return PrimaryStep::SetNames(primary_term.change),
    }
    if noted != Some(primary_term.change) {
        return PrimaryStep::Note(primary_term.change);
    }
    if !target.is_confirmed_by(|id| confirmed.contains(&id)) {
        return PrimaryStep::WaitFor(target.standbys.difference(confirmed).copied().collect());
    }
    if !primary_term.is_settled() {
        return PrimaryStep::CommitSyncConfig {
            epoch: primary_term.epoch,
            change: primary_term.change,
        };
    }
    match (open, lease) {
        (true, _) => PrimaryStep::Nothing,
        (false, true) => PrimaryStep::OpenGate,
        (false, false) => PrimaryStep::WaitForLease,
    }
}

/// The standbys that the target should have, when it should have others: every voter but the
/// primary. Someone who is unwell stays: `required` counts a majority, and waiting for one that is
/// away costs nothing while the others confirm.
pub fn wanted(primary_term: &PrimaryTerm, voters: &BTreeSet<NodeId>) -> Option<BTreeSet<NodeId>> {
    let wanted: BTreeSet<NodeId> =
        voters.iter().copied().filter(|id| *id != primary_term.primary).collect();
    (primary_term.target().is_some_and(|t| t.standbys != wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::new(i64::from(n)).unwrap()
    }

    #[test]
    fn step_by_step_to_an_open_gate() {
        let mut primary_term = PrimaryTerm::bootstrap(id(1));
        primary_term.recruit(2).unwrap();
        primary_term.appoint(2, id(2), &[1, 2, 3].map(id).into()).unwrap();
        let nobody = BTreeSet::new();
        let third = BTreeSet::from([id(3)]);
        let change = primary_term.change;
        let mut facts = PrimaryFacts {
            primary_term: &primary_term,
            read: false,
            names: NamesState::Unset,
            noted: None,
            confirmed: &nobody,
            lease: true,
            open: false,
        };
        assert_eq!(next_step(&facts), PrimaryStep::Read);
        facts.read = true;
        assert_eq!(next_step(&facts), PrimaryStep::SetNames(change));
        facts.names = NamesState::Loading(change);
        assert_eq!(next_step(&facts), PrimaryStep::WaitForNames);
        facts.names = NamesState::Loaded(change);
        assert_eq!(next_step(&facts), PrimaryStep::Note(change));
        facts.noted = Some(change);
        assert_eq!(next_step(&facts), PrimaryStep::WaitFor([1, 3].map(id).into()));
        facts.confirmed = &third;
        assert_eq!(next_step(&facts), PrimaryStep::CommitSyncConfig { epoch: 2, change });
        let mut settled = primary_term.clone();
        settled.commit_sync_config(2, change).unwrap();
        facts.primary_term = &settled;
        assert_eq!(next_step(&PrimaryFacts { lease: false, ..facts }), PrimaryStep::WaitForLease);
        assert_eq!(next_step(&facts), PrimaryStep::OpenGate);
        assert_eq!(next_step(&PrimaryFacts { open: true, ..facts }), PrimaryStep::Nothing);
        // A change of the standbys: the gate stays, the steps begin anew.
        let mut changed = settled.clone();
        changed.propose_sync_config(2, change, [3].map(id).into()).unwrap();
        assert_eq!(
            next_step(&PrimaryFacts { primary_term: &changed, open: true, ..facts }),
            PrimaryStep::SetNames(change + 1)
        );
    }

    #[test]
    fn the_target_follows_the_voters() {
        let primary_term = PrimaryTerm::bootstrap(id(1));
        assert_eq!(wanted(&primary_term, &[1].map(id).into()), None);
        assert_eq!(wanted(&primary_term, &[1, 2].map(id).into()), Some([2].map(id).into()));
    }
}
