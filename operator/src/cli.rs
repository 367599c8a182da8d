//! The command line. Every setting can come from the environment too; nothing else is read from there.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;

use crate::controller::run::Settings;
use crate::core::validate::Defaults;

/// Keeps PgRaftClusters as they are described.
#[derive(Debug, Parser)]
#[command(name = "pgraft-operator", version, about)]
pub struct Cli {
    /// What to do; `run` when nothing is said
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Settings of `run`
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Verb {
    /// Watch and act until SIGTERM
    Run,
    /// Print the CustomResourceDefinition
    Crd,
}

/// Settings of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The one namespace to watch; all of them when it is empty
    #[arg(long, env = "WATCH_NAMESPACE", default_value = "", global = true)]
    pub watch_namespace: String,
    /// The image of clusters that name none
    #[arg(long, env = "POSTGRES_IMAGE", default_value = concat!("pgraft/postgres:", env!("CARGO_PKG_VERSION")), global = true)]
    pub postgres_image: String,
    /// Where /healthz and /readyz listen
    #[arg(long, env = "HEALTH_LISTEN", default_value = "0.0.0.0:8080", global = true)]
    pub health_listen: SocketAddr,
    /// What is logged, in tracing's words
    #[arg(long, env = "LOG_LEVEL", default_value = "info,kube=warn", global = true)]
    pub log_level: String,
}

impl RunArgs {
    /// As the controller wants it.
    pub fn settings(&self) -> Settings {
        Settings {
            namespace: Some(self.watch_namespace.clone()).filter(|name| !name.is_empty()),
            health: self.health_listen,
            defaults: Defaults { image: self.postgres_image.clone() },
        }
    }
}
