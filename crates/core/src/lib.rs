//! The decisions of pgraft as pure functions of facts, and the types that its parts exchange. There
//! is no clock, IO or randomness here, nor in the dependencies.
//!
//! ```text
//!  command ──▶ ClusterState::apply ──▶ Outcome | Refusal        every member, in log order (state.rs)
//!  facts   ──▶ membership::next_step ──▶ Step                   the Raft leader (membership.rs)
//!  NodeStatus, Request/Response, InstanceFile, InstanceConfig   what the parts exchange
//! ```
//!
//! The modules have layers, from ids, addresses and WAL positions over the replicated state to the
//! decisions of membership and failover. Used by `pgraft-raft` (apply, next step), by the extension
//! and the instance manager (contracts), and by the operator (the instance manager's configuration).

pub mod address;
pub mod command;
pub mod configuration;
pub mod control;
pub mod defaults;
pub mod failover;
pub mod fence;
pub mod id;
pub mod instance_config;
pub mod instance_file;
pub mod liveness;
pub mod log_dedup;
pub mod membership;
pub mod primary_term;
pub mod primary_view;
pub mod quorum;
pub mod recovery;
pub mod refusal;
pub mod session;
pub mod sqlstate;
pub mod state;
pub mod status;
pub mod sync_config;
pub mod twophase;
pub mod wal;

pub use address::Address;
pub use command::Command;
pub use id::{ClusterId, InstanceId, NodeId};
pub use quorum::{MAX_MEMBERS, MAX_VOTERS};
pub use refusal::{Primary, Refusal};
pub use sqlstate::SqlState;
pub use state::{ClusterState, Member, Outcome, Role};
pub use status::{MemberStatus, NodeState, NodeStatus};
