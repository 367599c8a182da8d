//! The primary view of a member: which server is the primary, as the member has applied it. The
//! gateways route by it and exchange it.
//!
//! All members apply the same entries in the same order, so of two views of a cluster the one with
//! the higher epoch and applied index is right.

use serde::{Deserialize, Serialize};

use crate::primary_term::{Phase, PrimaryTerm};
use crate::{Address, ClusterId, ClusterState, NodeId};

/// Which server is the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryView {
    /// The cluster. Views of different clusters are not comparable.
    pub cluster_id: ClusterId,
    /// The last log index that the member had applied.
    pub applied_index: u64,
    /// The epoch of the primary.
    pub epoch: u64,
    /// The primary, or the last one while a successor is being determined.
    pub primary: NodeId,
    /// Its Postgres server, if it has registered.
    pub postgres: Option<Address>,
    /// Whether it takes writes: false while a successor is being determined, and until its standbys
    /// have confirmed its WAL. A member that knows that the primary has ended reports false earlier.
    pub settled: bool,
}

impl PrimaryView {
    /// The view of a state; None before there is a cluster.
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

    /// Whether this view is later than the other one.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.epoch, self.applied_index) > (other.epoch, other.applied_index)
    }

    /// Whether the views are equal, apart from the applied index.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { cluster_id, applied_index: _, epoch, primary, postgres, settled } = self;
        (cluster_id, epoch, primary, postgres, settled)
            == (&other.cluster_id, &other.epoch, &other.primary, &other.postgres, &other.settled)
    }
}

/// What a member reports to its own instance manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryUpdate {
    /// None before it is in a cluster.
    pub primary_view: Option<PrimaryView>,
    /// Whether its gate is open; None if it is not the primary or `pgraft.failover` is off.
    pub gate: Option<bool>,
}

impl PrimaryUpdate {
    /// Whether this update has nothing new for a receiver of `old`.
    pub fn says_the_same_as(&self, old: &Self) -> bool {
        let same_view = match (&self.primary_view, &old.primary_view) {
            (None, None) => true,
            (Some(new), Some(old)) => new.says_the_same_as(old),
            _ => false,
        };
        same_view && self.gate == old.gate
    }
}
