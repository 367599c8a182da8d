//! The command line. Every setting can come from the environment too; nothing else is read from
//! there.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;

use crate::cluster::validate::Defaults;
use crate::election::LeaseLocation;
use crate::run::OperatorSettings;
use crate::telemetry::Format;

/// Keeps PgRaftClusters as they are described.
#[derive(Debug, Parser)]
#[command(name = "pgraft-operator", version, about)]
pub struct OperatorCli {
    /// What to do; `run` when nothing is said
    #[command(subcommand)]
    pub verb: Option<OperatorCommand>,
    /// Settings of `run`
    #[command(flatten)]
    pub run: OperatorRunArgs,
}

/// What to do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum OperatorCommand {
    /// Watch and act until SIGTERM
    Run,
    /// Print the CustomResourceDefinition
    Crd,
}

/// Settings of `run`.
#[derive(Debug, Clone, Args)]
pub struct OperatorRunArgs {
    /// The one namespace to watch; all of them when it is empty
    #[arg(long, env = "WATCH_NAMESPACE", default_value = "", global = true)]
    pub watch_namespace: String,
    /// The image of clusters that name none
    #[arg(long, env = "POSTGRES_IMAGE", default_value = concat!("pgraft/postgres:", env!("CARGO_PKG_VERSION")), global = true)]
    pub postgres_image: String,
    /// Where /healthz, /readyz and /metrics listen
    #[arg(long, env = "HTTP_LISTEN", default_value = "[::]:8080", global = true)]
    pub http_listen: SocketAddr,
    /// The Lease by which one of several replicas works and the others stand by; none when it is
    /// empty
    #[arg(long, env = "LEASE_NAME", default_value = "", global = true)]
    pub lease_name: String,
    /// The namespace of the Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default", global = true)]
    pub lease_namespace: String,
    /// What this replica is called in the Lease
    #[arg(long, env = "POD_NAME", default_value = "pgraft-operator", global = true)]
    pub name: String,
    /// What is logged, in tracing's words
    #[arg(long, env = "LOG_LEVEL", default_value = "info,kube=warn", global = true)]
    pub log_level: String,
    /// How a line of log looks
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "json", global = true)]
    pub log_format: Format,
}

impl OperatorRunArgs {
    /// As the controller wants it.
    pub fn settings(&self) -> OperatorSettings {
        OperatorSettings {
            namespace: Some(self.watch_namespace.clone()).filter(|name| !name.is_empty()),
            listen: self.http_listen,
            lease: (!self.lease_name.is_empty()).then(|| LeaseLocation {
                namespace: self.lease_namespace.clone(),
                name: self.lease_name.clone(),
                // A container that is started again in its pod is another holder: the one before
                // may not be quite gone.
                me: format!("{}_{:08x}", self.name, rand::random::<u32>()),
            }),
            defaults: Defaults { image: self.postgres_image.clone() },
        }
    }
}
