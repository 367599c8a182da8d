//! The types that openraft is instantiated with, and the way between them and `pgraft-core`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use openraft::{EntryPayload, StoredMembership};
use pgraft_core::address::InvalidAddress;
use pgraft_core::state::RaftMembership;
use pgraft_core::{Address, Command, NodeId, Outcome, Refusal};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// pgraft's Raft: the log carries [`Command`]s, applying one gives an [`AppliedEntry`].
    pub TypeConfig:
        D = LogCommand,
        R = AppliedEntry,
        NodeId = u64,
        Node = Endpoint,
        // Raft as in the paper: one leader a term. (Openraft's default lets a later candidate of
        // the same term win over an earlier one.)
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::machine::Runtime,
);

pub type Raft = openraft::Raft<TypeConfig, crate::store::StateMachine>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Payload = EntryPayload<LogCommand, u64, Endpoint>;
pub type Membership =
    StoredMembership<openraft::alias::CommittedLeaderIdOf<TypeConfig>, u64, Endpoint>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// What comes of applying an entry; Raft's own entries give "nothing".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppliedEntry {
    /// A blank or a membership entry.
    Raft,
    /// A command.
    Command(Result<Outcome, Refusal>),
}

/// A [`Command`] as openraft wants it: with a `Display`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogCommand(pub Command);

impl fmt::Display for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind())
    }
}

impl fmt::Display for AppliedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raft => f.write_str("applied"),
            Self::Command(Ok(outcome)) => write!(f, "{outcome:?}"),
            Self::Command(Err(refusal)) => write!(f, "refused: {refusal}"),
        }
    }
}

/// Where a member listens, as Raft's membership entries carry it. (`Address` has no default, which
/// openraft's conformance suite needs.)
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl From<&Address> for Endpoint {
    fn from(a: &Address) -> Self {
        Self { host: a.host().to_owned(), port: a.port() }
    }
}

impl Endpoint {
    /// The same as an address; a membership entry from elsewhere may hold one that is none.
    pub fn address(&self) -> Result<Address, InvalidAddress> {
        Address::new(&self.host, i64::from(self.port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Raft's number of a node.
pub fn raft_id(id: NodeId) -> u64 {
    u64::from(id.get())
}

/// The node behind Raft's number; None for a number that no node can have.
pub fn node_id(id: u64) -> Option<NodeId> {
    NodeId::new(i64::try_from(id).ok()?).ok()
}

/// Raft's membership in the words of `pgraft-core`.
pub fn core_membership(m: &Membership) -> RaftMembership {
    let voters: BTreeSet<NodeId> = m.voter_ids().filter_map(node_id).collect();
    let learners = m.membership().learner_ids().filter_map(node_id).collect();
    let addresses: BTreeMap<NodeId, Address> =
        m.nodes().filter_map(|(id, at)| Some((node_id(*id)?, at.address().ok()?))).collect();
    RaftMembership {
        voters,
        learners,
        joint: m.membership().get_joint_config().len() > 1,
        addresses,
    }
}
