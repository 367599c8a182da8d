//! What the operator decides, as pure functions: no client, no clock, no randomness.
//!
//! ```text
//!  PgRaftCluster ──▶ validate ──▶ Cluster ─┐
//!  pods, volumes, objects ──▶ Observed ────┼──▶ plan::next_step ──▶ Step ──▶ (controller::act) ──▶ Outcome
//!  answers over SQL ──▶ group::merge ──▶ Group                                                        │
//!                                           Observed + Outcome ──▶ status::derive ──▶ PgRaftClusterStatus
//! ```

pub mod absence;
pub mod certificates;
pub mod cluster;
pub mod events;
pub mod failing;
pub mod failover;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod group;
pub mod lease;
pub mod observed;
pub mod plan;
pub mod quantity;
pub mod render;
pub mod standby;
pub mod status;
pub mod step;
pub mod switchover_attempt;
pub mod validate;

pub use cluster::ClusterSpec;
pub use group::GroupView;
pub use observed::Observed;
pub use step::{Step, StepOutcome, WaitReason};
