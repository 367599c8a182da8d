//! The operator: turns a `PgRaftCluster` into pods, volumes, Services and Secrets.
//!
//! ```text
//!  run, cli     the process
//!  cluster/     one pass over one PgRaftCluster: observe ▸ validate ▸ plan ▸ act ▸ status
//!  election/    which replica of the operator is active
//!  metrics/, http, telemetry
//!  kubernetes/  reads and writes single objects
//! ```
//!
//! Each part uses only parts below it.

pub mod cli;
pub mod cluster;
pub mod election;
pub mod http;
pub mod kubernetes;
pub mod metrics;
pub mod run;
pub mod telemetry;
