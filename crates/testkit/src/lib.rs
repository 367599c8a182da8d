//! What tests and benches share: free ports, certificates, and with the feature `servers` real
//! servers on one host, networks that can be split, and a client that records each acknowledgement.
//!
//! Every failure to set something up is a panic, which ends the test or the bench.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "used by tests and benches only"
)]

pub mod certificates;
mod ports;

pub use ports::free_port;

#[cfg(feature = "servers")]
mod clients;
#[cfg(feature = "servers")]
pub mod cluster;
#[cfg(feature = "servers")]
pub mod disk;
#[cfg(feature = "servers")]
pub mod ledger;
#[cfg(feature = "servers")]
pub mod network;
#[cfg(feature = "servers")]
mod node;
#[cfg(feature = "servers")]
pub mod postgres;
#[cfg(feature = "servers")]
mod processes;
#[cfg(feature = "servers")]
mod requirements;
#[cfg(feature = "servers")]
pub mod server;
#[cfg(feature = "servers")]
pub mod tls;
#[cfg(feature = "servers")]
mod wait;

#[cfg(feature = "servers")]
pub use {
    node::{Nodes, TestNode},
    processes::child_of,
    requirements::{bin_directory, compile, may_mount, unmet, unprivileged},
    wait::{TIMEOUT, until},
};
