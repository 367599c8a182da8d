//! The scenarios and their tools, for `main.rs` and for the benches on a real cluster.

pub mod cluster;
pub mod command;
pub mod cut;
pub mod data;
pub mod evidence;
pub mod failure;
pub mod host_job;
pub mod primary_term;
pub mod report;
pub mod scenario;
pub mod scenarios;
pub mod served;
pub mod sql;
pub mod wait;
pub mod writer;
