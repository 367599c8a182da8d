//! Who is the primary, and why nothing that was acknowledged is lost: the protocol as pure
//! functions of facts.
//!
//! ```text
//!  voters  ──▶ lease     promise: no recruit while a lease that it carries may stand
//!  leader  ──▶ leader    Ask ▸ Recruit ▸ (reports: report::enough, report::choose) ▸ Appoint
//!  server  ──▶ start     as a standby, but for the bootstrap node's first runs
//!  members ──▶ node      durable epoch ▸ intake closed ▸ report ▸ follow | rewind | promote
//!  primary ──▶ primary   names ▸ barrier ▸ Settle ▸ gate
//!  all     ──▶ primary term     what the log makes of Recruit, Appoint, Retarget, Settle
//! ```
//!
//! The idea is to **recruit before comparing** (docs/internals/protocol.md#the-idea). A failover
//! first closes the WAL intake of every node that it counts, durably and for this epoch, and only
//! then asks where the WAL of each one ends. Once every set of nodes that could have confirmed a
//! commit has a recruited member, no further commit of the old epoch can be confirmed, and the most
//! advanced recruit has all that were. Time, that is the lease, protects reads; no write depends on
//! it.
//!
//! Nothing here looks at a clock or at Postgres: facts come in, a step comes out.
//! `tests/failover/main.rs` runs these very functions in a model with crashes, lost messages and
//! slow nodes, and shows for each rule the trace that its absence permits.

pub mod force;
pub mod history;
pub mod leader;
pub mod lease;
pub mod node;
pub mod primary;
pub mod report;
pub mod start;
pub mod switchover;

pub use crate::primary_term::{LastFailover, Phase, PrimaryTerm, TermEndReason};
pub use crate::sync_config::SyncConfig;
pub use history::History;
pub use report::{Holds, Report};
