//! How members talk: length-prefixed JSON frames over TCP, after a handshake that says who is who.
//!
//! ```text
//!  dialler                                   listener
//!    TLS, where the members have certificates  ◀─▶
//!    Hello { version, cluster, from, to } ─▶  handshake::admit (pure): right version, cluster, node, directory?
//!    ◀─ Welcome | Refused { why }
//!    Rpc ─▶ ◀─ Reply   (one at a time, as often as wanted)
//! ```
//!
//! Every connection has deadlines of its own: a frozen peer's kernel goes on accepting.

mod client;
mod confirmed;
mod contact;
mod frame;
mod handshake;
mod log_dedup;
mod net;
mod peek;
mod resolve;
mod server;
mod tls;

pub use client::{Peer, PeerFactory};
pub use confirmed::Confirmed;
pub use contact::LeaderContact;
pub use frame::{read_json, write_json};
pub use handshake::Local;
pub use log_dedup::LogDedup;
pub use net::{BoxStream, Listener, Network, RaftStream, Tcp};
use resolve::Resolver;
pub use server::{FailoverEnd, RaftServer, WalSource, serve};
pub use tls::{Guard, MaterialError, Which, follow};
#[cfg(all(any(test, feature = "fuzz"), not(feature = "sim")))]
pub use {
    handshake::{Hello, Welcome, admit},
    server::MAX_HELLO,
};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use pgraft_core::failover::lease::{Heartbeat, StartNumber};
use pgraft_core::failover::{History, Report};
use pgraft_core::status::WalPosition;
use pgraft_core::{Command, NodeId, Refusal};
use serde::{Deserialize, Serialize};

use crate::types::{AppliedEntry, SnapshotMeta, TypeConfig, Vote};

/// The version of the wire format. A peer with another one is refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest frame, in bytes: 64 log entries or a snapshot of 64 members fit in it many times.
pub const MAX_FRAME: usize = 4 << 20;

/// What a member asks of another.
#[derive(Debug, Serialize, Deserialize)]
pub enum Rpc {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        data: Vec<u8>,
    },
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// To the leader: append this command.
    Propose(Command),
    /// Are you there, and how far is your WAL?
    Probe,
    /// From the primary: I am still it, and my WAL came through these timelines.
    Lease {
        heartbeat: Heartbeat,
        history: History,
        /// The primary's `pgraft.lease_timeout` in milliseconds: a voter promises no less.
        lease_ms: u64,
    },
    /// From the leader: do you owe the primary a lease, and are you recruited?
    Ask,
    /// That run of the epoch's primary has ended, and nothing of it lives.
    Release {
        epoch: u64,
        start: StartNumber,
    },
    /// To the leader: have that node be the primary.
    Switchover {
        target: NodeId,
    },
    /// From the leader to the primary of that epoch: give it up as soon as that node has all of
    /// your WAL.
    StepDown {
        epoch: u64,
        target: NodeId,
    },
    /// To the leader: up to which log index is everything applied that was committed before this
    /// question?
    Read,
}

/// What a voter says when the leader asks about the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterReply {
    /// The epoch that it has on disk.
    pub epoch: u64,
    /// The latest primary that it has heard of: the epoch and its timeline.
    pub knows: Option<(u64, u32)>,
    /// Whether it owes nobody a lease.
    pub free: bool,
    /// Whether it knows that the primary's Postgres has ended.
    pub released: bool,
    /// Whether it started less than a lease ago, and so can't be recruited yet whatever is
    /// released.
    #[serde(default)]
    pub just_started: bool,
    /// Its word as a recruit, once it is one.
    pub report: Option<Report>,
}

/// What it hears back.
#[derive(Debug, Serialize, Deserialize)]
pub enum RpcReply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Snapshot(SnapshotResponse<TypeConfig>),
    Transfer(Result<(), TransferLeaderError<TypeConfig>>),
    Proposed(AppliedEntry),
    Probe {
        wal: Option<WalPosition>,
        /// As a standby: the end of what it has replayed.
        #[serde(default)]
        replayed: Option<u64>,
    },
    /// The lease is carried, or why not; and the end of the WAL that was taken from the one who
    /// asks.
    Lease {
        carried: Result<(), String>,
        confirmed: Option<WalPosition>,
    },
    VoterReply(VoterReply),
    Switchover(Result<Option<String>, Refusal>),
    SteppedDown(Result<(), Refusal>),
    /// Nothing to say but that it was heard.
    Heard,
    Read {
        index: u64,
    },
    /// The member could not do it; in its own words.
    Failed(String),
}
