//! The command line: what differs from node to node.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs one Postgres server of a pgraft cluster.
#[derive(Debug, Parser)]
#[command(name = "pgraft-instance", version, about)]
pub struct InstanceCli {
    /// What to do.
    #[command(subcommand)]
    pub verb: InstanceCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum InstanceCommand {
    /// Prepare the data directory, run Postgres and keep it running until SIGTERM
    Run(InstanceRunArgs),
}

/// `pgraft-instance run`.
#[derive(Debug, Clone, Args)]
pub struct InstanceRunArgs {
    /// The configuration file (YAML), the same on every node
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// This node's id: 1 or more, never used twice in a cluster
    #[arg(long, value_name = "N")]
    pub node_id: i64,
    /// The host name or address under which the other nodes reach this one
    #[arg(long, value_name = "HOST")]
    pub advertise_address: String,
    /// This node makes the cluster: initdb and pgraft_init() where its disk is empty
    #[arg(long)]
    pub bootstrap: bool,
    /// How long a fast shutdown of Postgres may take, in seconds, before it is stopped at once
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub stop_timeout: u64,
    /// For this crate's tests on a Postgres that has no pgraft: run without the extension
    #[arg(long, hide = true)]
    pub without_extension: bool,
    /// For tests: a crash of the machine loses data, and Postgres starts and stops faster
    #[arg(long, hide = true)]
    pub unsafe_without_fsync: bool,
}
