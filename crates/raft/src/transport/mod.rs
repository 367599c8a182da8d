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
mod complaints;
mod frame;
mod handshake;
mod net;
mod peek;
mod resolve;
mod server;
mod tls;

pub use client::{Peer, PeerFactory};
pub use complaints::Complaints;
pub use frame::{read_json, write_json};
pub use handshake::Local;
pub use net::{BoxStream, Listener, Network, Stream, Tcp};
use resolve::Resolver;
pub use server::{Server, WalSource, serve};
pub use tls::{Guard, MaterialError, Which, follow};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use pgraft_core::Command;
use pgraft_core::status::WalPosition;
use serde::{Deserialize, Serialize};

use crate::types::{Applied, SnapshotMeta, TypeConfig, Vote};

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
}

/// What it hears back.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Snapshot(SnapshotResponse<TypeConfig>),
    Transfer(Result<(), TransferLeaderError<TypeConfig>>),
    Proposed(Applied),
    Probe {
        wal: Option<WalPosition>,
    },
    /// The member could not do it; in its own words.
    Failed(String),
}
