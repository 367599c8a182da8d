//! The operator: keeps every `PgRaftCluster` as it is described.
//!
//! ```text
//!  api/         what users write, and the CRD
//!  core/        what is decided: validate, plan, render, status. Pure
//!  controller/  observe ▸ validate ▸ plan ▸ act ▸ publish, and what is needed for that: Kubernetes, SQL, Events
//! ```

pub mod api;
pub mod cli;
pub mod controller;
pub mod core;
