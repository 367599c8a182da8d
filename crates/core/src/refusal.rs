//! The errors that pgraft returns to callers: SQLSTATE, message and hint.
//!
//! The extension raises a refusal as an `ERROR`, the operator acts on the SQLSTATE, and
//! `docs/errors.md` lists all of them. Messages follow PostgreSQL's error message style guide.

use serde::{Deserialize, Serialize};

use crate::address::InvalidAddress;
use crate::id::InvalidNodeId;
use crate::{Address, ClusterId, NodeId, SqlState, defaults};

/// Why a command was not carried out. Nothing has changed, unless the hint says otherwise.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, strum::EnumDiscriminants,
)]
#[strum_discriminants(
    name(RefusalKind),
    doc = "The kinds of refusals, without their values.",
    derive(strum::EnumIter)
)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A node id outside 1..=2147483647.
    #[error(transparent)]
    InvalidNodeId(#[from] InvalidNodeId),
    /// A host or port that cannot be used.
    #[error(transparent)]
    InvalidAddress(#[from] InvalidAddress),
    /// The host name does not resolve on the leader.
    #[error("could not resolve address \"{0}\"")]
    Unresolvable(String),
    /// `pgraft_init()` on a member of a cluster.
    #[error("this node is already a member of cluster {0}")]
    AlreadyInitialized(ClusterId),
    /// A command other than `pgraft_init()` on a node without a cluster.
    #[error("this node is not a member of a pgraft cluster")]
    NotInitialized,
    /// `pgraft_add_node` on a node that is not the leader.
    #[error(
        "Cannot add node - this node is not the leader. Node addition must be performed on the leader."
    )]
    AddOnFollower {
        /// The leader, if this node knows it.
        leader: Option<(NodeId, Address)>,
    },
    /// `pgraft_remove_node` on a node that is not the leader.
    #[error(
        "Cannot remove node - this node is not the leader. Node removal must be performed on the leader."
    )]
    RemoveOnFollower {
        /// The leader, if this node knows it.
        leader: Option<(NodeId, Address)>,
    },
    /// `pgraft_set_address` on a node that is not the leader.
    #[error(
        "Cannot set address - this node is not the leader. Addresses must be changed on the leader."
    )]
    SetAddressOnFollower {
        /// The leader, if this node knows it.
        leader: Option<(NodeId, Address)>,
    },
    /// `pgraft_force_primary` on a node that is not the leader.
    #[error("Cannot force a primary - this node is not the leader. It must be done on the leader.")]
    ForceOnFollower {
        /// The leader, if this node knows it.
        leader: Option<(NodeId, Address)>,
    },
    /// The id belongs to a member with another address.
    #[error("node {node} is already a member with address {at}")]
    OtherAddress {
        /// The requested id.
        node: NodeId,
        /// The address of the member.
        at: Address,
    },
    /// The address belongs to a member with another id.
    #[error("address {address} is already used by node {node}")]
    AddressTaken {
        /// The requested address.
        address: Address,
        /// The member that has it.
        node: NodeId,
    },
    /// The id belonged to a member that was removed.
    #[error("node id {0} belonged to a removed node and cannot be reused")]
    IdRetired(NodeId),
    /// The Raft directory is not the one that the member registered.
    #[error("this Raft directory is not the one that the cluster knows as node {0}")]
    OtherDirectory(NodeId),
    /// No member has this id.
    #[error("node {0} is not a member of this cluster")]
    UnknownNode(NodeId),
    /// A new node is not a voter yet.
    #[error("a membership change is in progress: node {0} is joining")]
    JoinInProgress(NodeId),
    /// A member has not left yet.
    #[error("a membership change is in progress: node {0} is being removed")]
    RemovalInProgress(NodeId),
    /// The join timeout of a node that has joined after all.
    #[error("node {0} joined in the meantime and is not removed")]
    AlreadyJoined(NodeId),
    /// The primary can't be removed.
    #[error("node {0} is the primary and cannot be removed")]
    IsPrimary(NodeId),
    /// Without this node too few voters would be reachable.
    #[error(
        "removing node {node} would leave only {alive} of {voters} voters reachable, but {required} are required"
    )]
    NoMajorityLeft {
        /// The node to remove.
        node: NodeId,
        /// Remaining voters that are reachable.
        alive: usize,
        /// Remaining voters.
        voters: usize,
        /// The majority of the remaining voters.
        required: usize,
    },
    /// With this node as a voter too few voters would be reachable.
    #[error(
        "adding node {node} would leave only {alive} of {voters} voters reachable, but {required} are required"
    )]
    NoMajorityWith {
        /// The node to add.
        node: NodeId,
        /// Voters that would be reachable.
        alive: usize,
        /// Voters with the new one.
        voters: usize,
        /// The majority of them.
        required: usize,
    },
    /// The status page has no room for another member.
    #[error("the cluster already has the maximum of {0} members")]
    TooManyMembers(usize),
    /// No majority confirmed the entry in time. It may still be committed when a majority is
    /// available again.
    #[error("no majority of the voters confirmed the change within {seconds} s")]
    NoQuorum {
        /// The time limit.
        seconds: u64,
    },
    /// The change is committed and continues, but was not complete in time.
    #[error("the change is committed but not complete after {seconds} s")]
    NotComplete {
        /// The time limit.
        seconds: u64,
    },
    /// Without failover the bootstrap node stays the primary.
    #[error("cannot change the primary while pgraft.failover is off")]
    FailoverIsOff,
    /// Another change of the primary has not finished.
    #[error("another change of the primary is in progress")]
    PrimaryChanging,
    /// The node is not a voter.
    #[error("node {0} is not a voter and cannot be the primary")]
    HasNoVote(NodeId),
    /// The leader has not heard from the node, or it did not catch up in time.
    #[error("node {0} did not respond in time")]
    Unreachable(NodeId),
    /// Commits would wait until the node has caught up.
    #[error("node {node} is {bytes} bytes of WAL behind the primary")]
    Lags {
        /// The requested primary.
        node: NodeId,
        /// The missing WAL.
        bytes: u64,
    },
    /// The cluster has a primary.
    #[error("the cluster already has a primary")]
    PrimaryExists,
    /// The data loss was not accepted.
    #[error(
        "making node {node} the primary may lose acknowledged writes: no report from {}",
        any_of(missing)
    )]
    LosesData {
        /// The requested primary.
        node: NodeId,
        /// The nodes of which one report would be enough.
        missing: Vec<NodeId>,
    },
    /// A command of the failover protocol for a state that has passed.
    #[error("the command is outdated: the state of the cluster has changed")]
    OutdatedCommand,
    /// The Raft member is stopping or has stopped.
    #[error("the Raft member of this node is not running: {0}")]
    Stopped(String),
    /// A write without the primary's lease.
    #[error("cannot write because this server does not hold the primary's lease")]
    NoWrites(Primary),
    /// A read without the primary's lease.
    #[error(
        "cannot read because this server does not hold the primary's lease and its data may be out of date"
    )]
    NoReads(Primary),
    /// A commit that a failover could lose, under `pgraft.durability = strict`.
    #[error("cannot commit with synchronous_commit = {0} while pgraft.durability is strict")]
    NotDurable(String),
    /// A setting that the members decide.
    #[error("parameter \"{0}\" is managed by pgraft")]
    ManagedSetting(String),
    /// `pg_promote()`
    #[error("cannot promote this server manually while pgraft.failover is on")]
    ManualPromotion,
}

/// The server that takes writes, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Primary {
    /// There is none at the moment.
    Unknown,
    /// This server, when it has the lease.
    This,
    /// Another server.
    Other {
        /// Its id.
        node: NodeId,
        /// The address of its Postgres server, if it has registered.
        at: Option<Address>,
    },
}

impl Primary {
    fn hint(&self) -> String {
        match self {
            Self::Unknown => "A new primary is being chosen. Try again.".into(),
            Self::This => {
                "This server is the primary and is waiting for a majority of the members. Try again."
                    .into()
            }
            Self::Other { node, at: Some(at) } => format!("The primary is node {node} ({at})."),
            Self::Other { node, at: None } => format!("The primary is node {node}."),
        }
    }
}

/// `node 1 or node 3`.
fn any_of(ids: &[NodeId]) -> String {
    ids.iter().map(|id| format!("node {id}")).collect::<Vec<_>>().join(" or ")
}

impl Refusal {
    /// The SQLSTATE. It never changes, so that drivers and the operator can act on it.
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::InvalidNodeId(_) | Self::InvalidAddress(_) | Self::Unresolvable(_) => {
                SqlState::INVALID_PARAMETER_VALUE
            }
            Self::AlreadyInitialized(_)
            | Self::NotInitialized
            | Self::FailoverIsOff
            | Self::NotDurable(_)
            | Self::ManualPromotion => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::AddOnFollower { .. }
            | Self::RemoveOnFollower { .. }
            | Self::SetAddressOnFollower { .. }
            | Self::ForceOnFollower { .. } => SqlState::NOT_LEADER,
            Self::OtherAddress { .. } | Self::AddressTaken { .. } => SqlState::DUPLICATE_OBJECT,
            Self::IdRetired(_) | Self::OtherDirectory(_) => SqlState::NODE_ID_RETIRED,
            Self::UnknownNode(_) => SqlState::UNDEFINED_OBJECT,
            Self::JoinInProgress(_) | Self::RemovalInProgress(_) => {
                SqlState::MEMBERSHIP_CHANGE_IN_PROGRESS
            }
            Self::IsPrimary(_)
            | Self::NoMajorityLeft { .. }
            | Self::NoMajorityWith { .. }
            | Self::AlreadyJoined(_) => SqlState::OBJECT_IN_USE,
            Self::PrimaryChanging
            | Self::HasNoVote(_)
            | Self::Unreachable(_)
            | Self::Lags { .. }
            | Self::PrimaryExists
            | Self::LosesData { .. } => SqlState::PRIMARY_CHANGE_REFUSED,
            Self::TooManyMembers(_) => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Self::NoQuorum { .. } => SqlState::NO_QUORUM,
            Self::OutdatedCommand => SqlState::OUTDATED_COMMAND,
            Self::NotComplete { .. } => SqlState::CHANGE_NOT_COMPLETE,
            Self::Stopped(_) => SqlState::MEMBER_NOT_RUNNING,
            Self::NoWrites(_) => SqlState::READ_ONLY_SQL_TRANSACTION,
            Self::NoReads(_) => SqlState::CANNOT_CONNECT_NOW,
            Self::ManagedSetting(_) => SqlState::CANT_CHANGE_RUNTIME_PARAM,
        }
    }

    /// What the caller can do, in full sentences.
    pub fn hint(&self) -> String {
        match self {
            Self::InvalidNodeId(_) => "Use a number that no node of this cluster has had.".into(),
            Self::InvalidAddress(InvalidAddress::Port(_)) => {
                format!("Use the node's pgraft.port ({} by default).", defaults::RAFT_PORT)
            }
            Self::InvalidAddress(_) => {
                "Use a host name or an IP address that every member can reach.".into()
            }
            Self::Unresolvable(_) => "Every member must be able to resolve the name. Check it on this host, or use an IP address.".into(),
            Self::AlreadyInitialized(_) => "To add another node, call pgraft_add_node() on the leader.".into(),
            Self::NotInitialized => {
                "To create a cluster, call pgraft_init(). To join an existing cluster, call pgraft_add_node() for this node on its leader.".into()
            }
            Self::AddOnFollower { leader }
            | Self::RemoveOnFollower { leader }
            | Self::SetAddressOnFollower { leader }
            | Self::ForceOnFollower { leader } => match leader {
                Some((id, address)) => format!("The leader is node {id} ({address})."),
                None => "There is no leader at the moment. Try again when pgraft_get_leader() returns one.".into(),
            },
            Self::OtherAddress { node, .. } => {
                format!("Use a new node id. If node {node} has moved, call pgraft_set_address({node}, ...) instead.")
            }
            Self::AddressTaken { node, .. } => format!("Use another address, or remove node {node} first."),
            Self::IdRetired(_) => "Use a new node id. A node that returned under its old id could vote twice.".into(),
            Self::OtherDirectory(id) => {
                format!("A node that has lost its directory needs a new id: call pgraft_remove_node({id}), then pgraft_add_node() with an unused id.")
            }
            Self::UnknownNode(_) => "Call pgraft_get_nodes() to list the members.".into(),
            Self::JoinInProgress(id) => {
                format!("Only one node can join at a time. Wait until pgraft_members shows node {id} as a voter, or remove it with pgraft_remove_node({id}).")
            }
            Self::RemovalInProgress(id) => format!("Wait until node {id} has disappeared from pgraft_members."),
            Self::AlreadyJoined(id) => format!("To remove it, call pgraft_remove_node({id})."),
            Self::IsPrimary(_) => "Make another node the primary first.".into(),
            Self::NoMajorityLeft { .. } => "Restore or remove the unreachable voters first. pgraft_members shows which members are reachable.".into(),
            Self::NoMajorityWith { .. } => {
                "Start the new node first, or restore or remove the unreachable voters. pgraft_members shows which members are reachable.".into()
            }
            Self::TooManyMembers(_) => "Remove members that are no longer needed.".into(),
            Self::NoQuorum { .. } => {
                "The change may still be made when a majority is available. Check pgraft_get_nodes() before you try again. Repeating the call is safe.".into()
            }
            Self::NotComplete { .. } => {
                "It continues in the background; pgraft_members shows the progress. Repeating the call is safe.".into()
            }
            Self::FailoverIsOff => "Set pgraft.failover = on on every node and restart the servers.".into(),
            Self::PrimaryChanging => "Try again later. pgraft_failover() shows what the change is waiting for.".into(),
            Self::HasNoVote(_) => "pgraft_members shows which members are voters.".into(),
            Self::Unreachable(id) => format!("Nothing has changed. pgraft_members on the leader shows when node {id} last responded."),
            Self::Lags { .. } => "Nothing has changed. Try again when the node has caught up; pgraft_members shows lag_bytes.".into(),
            Self::PrimaryExists => "To make another node the primary, call pgraft_switchover().".into(),
            Self::LosesData { node, .. } => {
                format!("If one of these nodes returns, a primary is chosen without data loss. If none can return, call pgraft_force_primary({node}, accept_data_loss => true).")
            }
            Self::OutdatedCommand => "No action is needed; the request is already satisfied or obsolete.".into(),
            Self::Stopped(_) => "The server log shows the reason. The worker is restarted within a second.".into(),
            Self::NoWrites(primary) | Self::NoReads(primary) => primary.hint(),
            Self::NotDurable(_) => "Set synchronous_commit to on or remote_apply.".into(),
            Self::ManagedSetting(_) => "It can be changed only while pgraft.failover is off.".into(),
            Self::ManualPromotion => "The members promote a standby when the primary is lost. For a planned change, call pgraft_switchover().".into(),
        }
    }
}
