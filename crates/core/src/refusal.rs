//! Every "no" that a caller can hear, with its SQLSTATE, its words and the next step to take.
//!
//! One place for all of them: the extension turns a refusal into an `ERROR`, the operator reads the
//! SQLSTATE, the docs list them.

use serde::{Deserialize, Serialize};

use crate::{Address, ClusterId, NodeId};

/// Why a command was not carried out. Nothing has changed when one of these comes back, except
/// where its own words say otherwise.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, strum::EnumDiscriminants,
)]
#[strum_discriminants(
    name(RefusalKind),
    doc = "The refusals without what they carry.",
    derive(strum::EnumIter)
)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A node id outside 1..=2147483647.
    #[error("invalid node_id {0}: it must be between 1 and 2147483647")]
    BadNodeId(i64),
    /// A host that is no host.
    #[error("invalid address \"{host}\": {why}")]
    BadAddress {
        /// What was given (at most its first 64 characters).
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// A port outside 1..=65535.
    #[error("invalid port {0}: it must be between 1 and 65535")]
    BadPort(i64),
    /// The host name does not resolve on the leader.
    #[error("could not resolve address \"{0}\"")]
    Unresolvable(String),
    /// `pgraft_init()` where a cluster is.
    #[error("this node is already a member of cluster {0}")]
    AlreadyInitialized(ClusterId),
    /// Anything but `pgraft_init()` where no cluster is.
    #[error("this node is in no pgraft cluster yet")]
    NotInitialized,
    /// `pgraft_add_node` on another node than the leader: the words that users know.
    #[error(
        "Cannot add node - this node is not the leader. Node addition must be performed on the leader."
    )]
    AddOnFollower {
        /// The leader, when this node knows one.
        leader: Option<(NodeId, Address)>,
    },
    /// `pgraft_remove_node` on another node than the leader.
    #[error(
        "Cannot remove node - this node is not the leader. Node removal must be performed on the leader."
    )]
    RemoveOnFollower {
        /// The leader, when this node knows one.
        leader: Option<(NodeId, Address)>,
    },
    /// `pgraft_set_address` on another node than the leader.
    #[error(
        "Cannot set address - this node is not the leader. Addresses must be changed on the leader."
    )]
    SetAddressOnFollower {
        /// The leader, when this node knows one.
        leader: Option<(NodeId, Address)>,
    },
    /// `pgraft_force_primary` on another node than the leader.
    #[error("Cannot force a primary - this node is not the leader. It must be done on the leader.")]
    ForceOnFollower {
        /// The leader, when this node knows one.
        leader: Option<(NodeId, Address)>,
    },
    /// The id belongs to a member that lives elsewhere.
    #[error("node {node} is already a member, at {at}")]
    OtherAddress {
        /// The id that was asked for.
        node: NodeId,
        /// Where its member is.
        at: Address,
    },
    /// The address belongs to a member with another id.
    #[error("address {address} already belongs to node {node}")]
    AddressTaken {
        /// The address that was asked for.
        address: Address,
        /// Whose it is.
        node: NodeId,
    },
    /// The id belonged to a member that was removed.
    #[error("node id {0} was removed from this cluster, and an id is never used again")]
    IdRetired(NodeId),
    /// Another directory than the one that the member has told.
    #[error("this is not the directory that the cluster knows as node {0}")]
    OtherDirectory(NodeId),
    /// Nobody has this id.
    #[error("node {0} is not a member of this cluster")]
    UnknownNode(NodeId),
    /// A newcomer that is not a voter yet.
    #[error("a membership change is under way: node {0} is joining")]
    JoinUnderWay(NodeId),
    /// A member that is not out yet.
    #[error("a membership change is under way: node {0} is being removed")]
    RemovalUnderWay(NodeId),
    /// A newcomer that was to be given up, and that came after all.
    #[error("node {0} has come and is not given up")]
    HasCome(NodeId),
    /// The primary can't be removed.
    #[error("node {0} is the primary and can't be removed")]
    IsPrimary(NodeId),
    /// Removing this node would leave a group that can't decide anything.
    #[error(
        "removing node {node} would leave {alive} reachable of {voters} voters, and {required} are needed"
    )]
    NoMajorityLeft {
        /// Who was to leave.
        node: NodeId,
        /// Voters that answer, of those that would remain.
        alive: usize,
        /// Voters that would remain.
        voters: usize,
        /// The majority of them.
        required: usize,
    },
    /// With this node as a voter the group could not decide anything: too many do not answer, the
    /// newcomer among them.
    #[error(
        "adding node {node} would make {alive} reachable of {voters} voters, and {required} are needed"
    )]
    NoMajorityWith {
        /// Who was to join.
        node: NodeId,
        /// Voters that answer.
        alive: usize,
        /// Voters that there would be.
        voters: usize,
        /// The majority of them.
        required: usize,
    },
    /// More members than the status page has room for.
    #[error("the cluster already has {0} members, which is the most it can have")]
    TooManyMembers(usize),
    /// No majority confirmed the entry in time. It may still be committed later, once a majority is
    /// back.
    #[error("no majority of the voters confirmed the change within {seconds} s")]
    NoQuorum {
        /// How long was waited.
        seconds: u64,
    },
    /// The change is committed and goes on by itself, but was not complete in time.
    #[error(
        "the change is committed but not complete after {seconds} s: it goes on in the background"
    )]
    StillUnderWay {
        /// How long was waited.
        seconds: u64,
    },
    /// The primary is fixed: the bootstrap node.
    #[error("pgraft.failover is off: the primary does not change")]
    FailoverIsOff,
    /// One change of the primary at a time.
    #[error("the primary is changing, or has just changed")]
    PrimaryChanging,
    /// A learner, or nobody yet.
    #[error("node {0} has no vote, and only a voter can be the primary")]
    HasNoVote(NodeId),
    /// The leader has not heard it lately, or it did not catch up in time.
    #[error("node {0} does not answer, or not in time")]
    Unreachable(NodeId),
    /// Commits would wait until it has caught up.
    #[error("node {node} is {bytes} bytes of WAL behind the primary")]
    Lags {
        /// Who was to become the primary.
        node: NodeId,
        /// What it lacks.
        bytes: u64,
    },
    /// There is a primary, as far as anybody knows.
    #[error("there is a primary: another one can be had by a switchover")]
    NothingToForce,
    /// Somebody must say that this is accepted.
    #[error(
        "writes that were acknowledged may be lost when node {node} becomes the primary now: it is not known what {} had",
        nodes(unheard)
    )]
    LosesData {
        /// Who was to become the primary.
        node: NodeId,
        /// Whose word would make it certain.
        unheard: Vec<NodeId>,
    },
    /// A command of the failover protocol that was made for a state that is no more.
    #[error("the state has moved on")]
    MovedOn,
    /// The Raft member is stopping or has stopped.
    #[error("the Raft member of this node is not running: {0}")]
    Stopped(String),
    /// A write where the primary's lease is not.
    #[error("pgraft takes no writes here: this server does not hold the lease of the primary")]
    NoWrites(Primary),
    /// A read where the primary's lease is not.
    #[error(
        "pgraft answers no reads here: this server does not hold the lease of the primary, and what it knows may be out of date"
    )]
    NoReads(Primary),
    /// A commit that a failover could lose, under `pgraft.durability = strict`.
    #[error(
        "pgraft.durability is strict, and a commit with synchronous_commit = {0} does not wait for a standby's disk"
    )]
    TooWeak(String),
    /// A setting that the group decides.
    #[error("\"{0}\" is pgraft's to set")]
    OurSetting(String),
    /// `pg_promote()` by hand.
    #[error("a standby is promoted by the decision of the group, and not by hand")]
    PromotedByHand,
}

/// Where writes go, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Primary {
    /// To nobody at the moment.
    Nobody,
    /// To this very server, once it has the lease.
    This,
    /// To that one.
    Other {
        /// Its id.
        node: NodeId,
        /// Its Postgres server, when it has told.
        at: Option<Address>,
    },
}

impl Primary {
    fn hint(&self) -> String {
        match self {
            Self::Nobody => "The members are choosing a primary; try again.".into(),
            Self::This => {
                "This server is the primary, and waits for a majority of the members; try again."
                    .into()
            }
            Self::Other { node, at: Some(at) } => format!("The primary is node {node} ({at})."),
            Self::Other { node, at: None } => format!("The primary is node {node}."),
        }
    }
}

/// `node 1 and node 3`.
fn nodes(ids: &[NodeId]) -> String {
    ids.iter().map(|id| format!("node {id}")).collect::<Vec<_>>().join(" and ")
}

impl Refusal {
    /// Stable, so that drivers and the operator can act on it. Class 55 and 22 are Postgres' own;
    /// `PGR..` are ours.
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Self::BadNodeId(_)
            | Self::BadAddress { .. }
            | Self::BadPort(_)
            | Self::Unresolvable(_) => "22023",
            Self::AlreadyInitialized(_)
            | Self::NotInitialized
            | Self::FailoverIsOff
            | Self::TooWeak(_)
            | Self::PromotedByHand => "55000",
            Self::AddOnFollower { .. }
            | Self::RemoveOnFollower { .. }
            | Self::SetAddressOnFollower { .. }
            | Self::ForceOnFollower { .. } => "PGR01",
            Self::OtherAddress { .. } | Self::AddressTaken { .. } => "42710",
            Self::IdRetired(_) | Self::OtherDirectory(_) => "PGR02",
            Self::UnknownNode(_) => "42704",
            Self::JoinUnderWay(_) | Self::RemovalUnderWay(_) => "PGR03",
            Self::IsPrimary(_)
            | Self::NoMajorityLeft { .. }
            | Self::NoMajorityWith { .. }
            | Self::HasCome(_) => "55006",
            Self::PrimaryChanging
            | Self::HasNoVote(_)
            | Self::Unreachable(_)
            | Self::Lags { .. }
            | Self::NothingToForce
            | Self::LosesData { .. } => "PGR08",
            Self::TooManyMembers(_) => "54000",
            Self::NoQuorum { .. } => "PGR04",
            Self::MovedOn => "PGR07",
            Self::StillUnderWay { .. } => "PGR05",
            Self::Stopped(_) => "PGR06",
            // What drivers and poolers know as "not here, try the next server".
            Self::NoWrites(_) => "25006",
            // Postgres' own for a server that can't answer at the moment: poolers drop the
            // connection.
            Self::NoReads(_) => "57P03",
            Self::OurSetting(_) => "55P02",
        }
    }

    /// The next step, in words.
    pub fn hint(&self) -> String {
        match self {
            Self::BadNodeId(_) => "A new node gets a number that no node of this cluster has had.".into(),
            Self::BadAddress { .. } => "Give a host name or an IP address that every member can reach.".into(),
            Self::BadPort(_) => "The port is the node's pgraft.port, 7001 unless it was changed.".into(),
            Self::Unresolvable(_) => "Every member must be able to resolve the name; check it on this host, or give an IP address.".into(),
            Self::AlreadyInitialized(_) => "Other nodes join with pgraft_add_node() on the leader.".into(),
            Self::NotInitialized => {
                "Call pgraft_init() on the first node of a new cluster, or have the leader of an existing one call pgraft_add_node() for this node.".into()
            }
            Self::AddOnFollower { leader }
            | Self::RemoveOnFollower { leader }
            | Self::SetAddressOnFollower { leader }
            | Self::ForceOnFollower { leader } => match leader {
                Some((id, address)) => format!("The leader is node {id} ({address})."),
                None => "There is no leader at the moment; try again when pgraft_get_leader() returns one.".into(),
            },
            Self::OtherAddress { node, .. } => {
                format!("Use a new node id. If node {node} itself has moved, call pgraft_set_address({node}, ...) instead.")
            }
            Self::AddressTaken { node, .. } => format!("Remove node {node} first, or give the node's own address."),
            Self::IdRetired(_) => "Use a new node id: a returning id could vote twice.".into(),
            Self::OtherDirectory(id) => {
                format!("A node that has lost its directory comes back under a new id: pgraft_remove_node({id}), then pgraft_add_node with a new one.")
            }
            Self::UnknownNode(_) => "SELECT * FROM pgraft_get_nodes() lists the members.".into(),
            Self::JoinUnderWay(id) => {
                format!("One node joins at a time. Try again when pgraft_members shows node {id} as a voter, or take it out with pgraft_remove_node({id}).")
            }
            Self::RemovalUnderWay(id) => format!("Try again when node {id} is gone from pgraft_members."),
            Self::IsPrimary(_) => "The primary leaves the cluster last.".into(),
            Self::NoMajorityLeft { .. } => "Bring unreachable voters back first, or remove those; pgraft_members shows who is reachable.".into(),
            Self::HasCome(id) => format!("pgraft_members shows node {id}."),
            Self::NoMajorityWith { .. } => {
                "Start the new node first, so that it answers; or bring unreachable voters back, or remove those. pgraft_members shows who is reachable.".into()
            }
            Self::TooManyMembers(_) => "Remove members that are no longer needed.".into(),
            Self::NoQuorum { .. } => {
                "The change may still be made when a majority is back: look at pgraft_get_nodes() before you try again. The same call again is safe.".into()
            }
            Self::StillUnderWay { .. } => "pgraft_members shows how far it is. The same call again is safe.".into(),
            Self::FailoverIsOff => "Set pgraft.failover = on on every node, and restart them.".into(),
            Self::PrimaryChanging => "Try again in a moment; pgraft_failover() shows what is waited for.".into(),
            Self::HasNoVote(_) => "pgraft_members shows who votes.".into(),
            Self::Unreachable(id) => format!("pgraft_members on the leader shows when node {id} was last heard. Nothing has changed."),
            Self::Lags { .. } => "Try again when it has caught up: pgraft_members shows lag_bytes. Nothing has changed.".into(),
            Self::NothingToForce => "SELECT pgraft_switchover(node_id).".into(),
            Self::LosesData { node, .. } => {
                format!("Bring one of them back, and the primary is found without loss. If none ever will: SELECT pgraft_force_primary({node}, accept_data_loss => true).")
            }
            Self::MovedOn => "Nothing is to be done: what it was for is done or is no longer wanted.".into(),
            Self::Stopped(_) => "The server log says why; the worker is started again within a second.".into(),
            Self::NoWrites(primary) | Self::NoReads(primary) => primary.hint(),
            Self::TooWeak(_) => "SET synchronous_commit = on, or above.".into(),
            Self::OurSetting(_) => "The members set it from what they have agreed on; pgraft.failover = off leaves it to you.".into(),
            Self::PromotedByHand => "Where the primary is gone the members promote another by themselves.".into(),
        }
    }
}
