//! Who is the primary, as one member has applied it: what the read-write gateways go by, and tell
//! each other.
//!
//! Every member applies the same entries in the same order, so that of two words about one cluster
//! the one that has applied more is right.

use serde::{Deserialize, Serialize};

use crate::primary_term::{Phase, PrimaryTerm};
use crate::{Address, ClusterId, ClusterState, NodeId};

/// Who sits in primary view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryView {
    /// Of which cluster. A word about another one says nothing about this one.
    pub cluster_id: ClusterId,
    /// The last log index that was applied where this was said.
    pub applied_index: u64,
    /// Counts the primaries.
    pub epoch: u64,
    /// Who is the primary, or (while a successor is looked for) was.
    pub primary: NodeId,
    /// Its Postgres server, once it has told the group.
    pub postgres: Option<Address>,
    /// Whether it takes writes: false while a successor is looked for, and until its standbys have
    /// what it has. A member that has heard of the primary's end says no before the log does.
    pub settled: bool,
}

impl PrimaryView {
    /// None before there is a cluster.
    pub fn of(state: &ClusterState, applied_index: u64) -> Option<Self> {
        let PrimaryTerm { epoch, phase, primary, settled, .. } = state.primary_term.as_ref()?;
        let info = state.members.get(primary).and_then(|m| m.info.as_ref());
        Some(Self {
            cluster_id: state.cluster?,
            applied_index,
            epoch: *epoch,
            primary: *primary,
            postgres: info.map(|t| t.postgres.clone()),
            settled: *phase == Phase::Steady && *settled,
        })
    }

    /// Whether this is the later word of the two.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.epoch, self.applied_index) > (other.epoch, other.applied_index)
    }

    /// Whether both say the same, however much of the log they have.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { cluster_id, applied_index: _, epoch, primary, postgres, settled } = self;
        (cluster_id, epoch, primary, postgres, settled)
            == (&other.cluster_id, &other.epoch, &other.primary, &other.postgres, &other.settled)
    }
}

/// What one member says to its own instance manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryUpdate {
    /// None before it is in a cluster.
    pub primary_view: Option<PrimaryView>,
    /// Whether its own gate is open, where it is the primary and the members decide who is.
    pub gate: Option<bool>,
}

impl PrimaryUpdate {
    /// Whether somebody who knows `old` has heard all of it.
    pub fn says_the_same_as(&self, old: &Self) -> bool {
        let seats = match (&self.primary_view, &old.primary_view) {
            (None, None) => true,
            (Some(new), Some(old)) => new.says_the_same_as(old),
            _ => false,
        };
        seats && self.gate == old.gate
    }
}
