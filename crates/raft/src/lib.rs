//! A Raft member of a pgraft cluster. The only crate that names openraft: everybody else sees
//! [`Node`] and the types of `pgraft-core`.
//!
//! ```text
//!  control.sock ─▶ control ─▶ node::commands ─▶ openraft ─▶ transport ─▶ the other members
//!                                  ▲               │
//!            node::driver (leader) ┘               ├─▶ store::log            raft-log: log, vote, commit index
//!            node::tell   (member) ┘               └─▶ store::state_machine  core::ClusterState, snapshot.json
//!                                                          │ applied
//!                          node::publish ◀─────────────────┘ ─▶ NodeStatus (shared memory), instance.json
//! ```
//!
//! It decides nothing about membership: `pgraft_core::state` and `pgraft_core::membership` do, this
//! crate carries it out.

mod clock;
mod control;
mod files;
#[cfg(all(any(test, feature = "fuzz"), not(feature = "sim")))]
pub mod fuzz;
mod identity;
mod listen;
mod machine;
mod node;
mod settings;
#[cfg(feature = "sim")]
pub mod sim;
mod store;
mod transport;
pub mod twophase;
mod types;

pub use clock::boot_time;
pub use control::call as control_call;
pub use identity::{Identity, IdentityError};
pub use listen::{is_any, listen};
pub use node::{
    Hooks, Node, PROMISES_FILE, PostgresControl, Publish, ServerDirective, ServerRepair,
    ServerState, StartError,
};
pub use settings::{Protection, RaftSettings, RaftSettingsError, RaftTlsFiles, SNAPSHOT_EVERY};
pub use transport::{BoxStream, Listener, MaterialError, Network, RaftStream, Which};
