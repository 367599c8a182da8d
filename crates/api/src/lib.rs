//! The contracts of pgraft: what its programs exchange, and what other programs may rely on. Types
//! and names only; nothing here decides anything or does IO.
//!
//! ```text
//!  cluster/        PgRaftCluster, its status, the CRD (feature `crd`)
//!  names           objects, labels, annotations, ports
//!  conditions      types and reasons of the conditions
//!  events          reasons of the Events
//!  instance        the body of the instance manager's /status
//!  pgraft_core::{control, instance_config, instance_file, primary_view}
//!                  control socket, instance.yaml, instance.json: pgraft_core interprets them, so they are defined there
//! ```

#[cfg(feature = "crd")]
pub mod cluster;
pub mod conditions;
pub mod events;
pub mod instance;
pub mod names;

pub use pgraft_core::{control, instance_config, instance_file, primary_view};
