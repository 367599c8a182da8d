//! The command line: the settings that differ from node to node.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs one Postgres server of a pgraft cluster
#[derive(Debug, Parser)]
#[command(name = "pgraft-instance", version, about)]
pub struct InstanceCli {
    /// The command.
    #[command(subcommand)]
    pub verb: InstanceCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum InstanceCommand {
    /// Prepare the data directory and run Postgres until SIGTERM
    Run(InstanceRunArgs),
}

/// The options of `pgraft-instance run`.
#[derive(Debug, Clone, Args)]
pub struct InstanceRunArgs {
    /// Configuration file (YAML), the same on every node
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Id of this node, 1 or greater; must never be reused within a cluster
    #[arg(long, value_name = "N")]
    pub node_id: i64,
    /// Host name or address at which the other nodes reach this node
    #[arg(long, value_name = "HOST")]
    pub advertise_address: String,
    /// Create the cluster if the data directory is empty: run initdb and pgraft_init()
    #[arg(long)]
    pub bootstrap: bool,
    /// Time in seconds that a fast shutdown may take before Postgres is shut down immediately
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub stop_timeout: u64,
    /// For tests: run without the extension
    #[arg(long, hide = true)]
    pub without_extension: bool,
    /// For tests: turn fsync off; a crash of the machine loses data
    #[arg(long, hide = true)]
    pub unsafe_without_fsync: bool,
}
