//! The operator: keeps every `PgRaftCluster` as it is described.
//!
//! ```text
//!  core/        what is decided: validate, plan, render, status. Pure
//!  controller/  observe ▸ validate ▸ plan ▸ act ▸ publish, and what is needed for that: Kubernetes, SQL, Events
//! ```

pub mod cli;
pub mod controller;
pub mod core;
