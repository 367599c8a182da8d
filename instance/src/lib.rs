//! Runs one Postgres server of a pgraft cluster, as PID 1 of a pod or as a service of a host.
//!
//! ```text
//!  main ▸ run ▸ settings, layout, host  checked once
//!               supervisor               pure: (state, event) -> (state, commands)
//!               driver                   carries out commands, collects events
//!               ├─ jobs                  long-running commands, one at a time
//!               ├─ facts                 the state of the disk
//!               ├─ postgres/             initdb, clone, rewind, config (pure), process, leftovers, log (pure)
//!               ├─ standin               the Raft member while no server can run
//!               ├─ prepare               the files that Postgres reads
//!               ├─ configuration         the user's settings, checked by Postgres
//!               ├─ provisioning          roles, databases, extension and slots of the running server
//!               ├─ watchdog              a primary whose worker does not answer
//!               ├─ freshness             whether a standby is ready for reads
//!               ├─ liveness              a server that runs and does not serve
//!               ├─ watch                 changed files
//!               ├─ tls                   the certificate for connections to the primary
//!               ├─ observe ▸ http        /livez /readyz /status /metrics /gateway
//!               ├─ gateway               the port that forwards to the primary
//!               ├─ autogroup             a host whose kernel may starve the worker
//!               └─ reaper                exits of child processes
//! ```
//!
//! It never decides which node is the primary. The Raft member does, and writes it to
//! `instance.json`.

mod autogroup;
pub mod cli;
pub mod configuration;
pub mod control;
mod disk_space;
pub mod driver;
pub mod facts;
pub mod files;
pub mod freshness;
pub mod gateway;
pub mod heartbeat;
pub mod host;
pub mod http;
pub mod jobs;
pub mod layout;
mod liveness;
pub mod logging;
pub mod metrics;
pub mod observe;
pub mod paths;
pub mod peers;
pub mod postgres;
pub mod prepare;
pub mod provisioning;
pub mod reaper;
pub mod secrets;
pub mod settings;
pub mod sql;
pub mod standin;
pub use pgraft_api::instance as status;
pub mod supervisor;
pub mod tls;
pub mod upstream;
pub mod view;
pub mod watch;
pub mod watchdog;

use std::sync::Arc;
use tokio::net::TcpListener;

use cli::InstanceRunArgs;
use configuration::Configuration;
use driver::Driver;
use gateway::Gateway;
use heartbeat::HeartbeatFile;
use host::HostError;
use http::InstanceHttp;
use layout::LayoutError;
use logging::Sink;
use reaper::Reaper;
use settings::{Settings, SettingsError};
use supervisor::SupervisorPhase;
use view::MemberView;
use watch::Fingerprint;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line or the configuration file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The directories.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The HTTP listener, or the gateway's.
    #[error("{name} {address}: {source}")]
    Listen {
        /// The key.
        name: &'static str,
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Signal handlers or the reaper.
    #[error("could not set up signal handlers: {0}")]
    Signals(#[from] std::io::Error),
}

impl RunError {
    /// 2 if the configuration or the host must be changed first, 1 if a restart may help.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Host(HostError::Locked(_) | HostError::File(_))
            | Self::Listen { .. }
            | Self::Signals(_) => 1,
            Self::Settings(_) | Self::Layout(_) | Self::Host(_) => 2,
        }
    }
}

/// `pgraft-instance run`, until SIGTERM or SIGINT.
pub async fn run(args: InstanceRunArgs, sink: Sink) -> Result<(), RunError> {
    let settings = layout::resolve(Settings::load(&args)?)?;
    let os_user = host::check(&settings)?;
    let _lock = host::lock(&settings.paths)?;
    let seen = Fingerprint::take(&args.config, &settings);
    let reaper = Reaper::start()?;
    let listener = listen("httpListen", &settings.config.http_listen).await?;
    tracing::info!(node = %settings.node, version = env!("CARGO_PKG_VERSION"), data = %settings.paths.data.display(), "starting pgraft-instance");
    if settings.failover && autogroup::divides_postgres() {
        tracing::warn!(
            "kernel.sched_autogroup_enabled is on: on a busy host the pgraft worker may get no processor for longer than the lease timeout. \
             Set CPUWeight for the service, or turn the setting off (docs/hosts.md)"
        );
    }

    let (view, shown) = tokio::sync::watch::channel(MemberView {
        settings: Arc::new(settings.clone()),
        phase: SupervisorPhase::Clearing,
        reason: None,
        verdict: freshness::FreshnessVerdict::default(),
        concern: None,
        killed_for: None,
        killed_at: None,
        configuration: Configuration::default(),
    });
    let heartbeat = HeartbeatFile::default();
    let gateway = gateway(&settings, &shown).await?;
    tokio::spawn(http::serve(
        listener,
        InstanceHttp { view: shown, heartbeat: heartbeat.clone(), gateway: gateway.clone() },
    ));
    let driver = Driver::new(args.clone(), os_user, reaper, sink, view, heartbeat, gateway);
    tokio::spawn(watch::watch(args.config, settings, seen, driver.events()));
    driver.run().await?;
    tracing::info!("pgraft-instance has stopped");
    Ok(())
}

async fn listen(name: &'static str, address: &str) -> Result<TcpListener, RunError> {
    // `Settings::check` has verified the format.
    let (host, port) = settings::host_port(address).unwrap_or((address, 0));
    pgraft_raft::listen(host, port).await.map_err(|source| RunError::Listen {
        name,
        address: address.to_owned(),
        source,
    })
}

/// The read-write gateway, if one is configured.
async fn gateway(
    settings: &Settings,
    view: &tokio::sync::watch::Receiver<MemberView>,
) -> Result<Option<Arc<Gateway>>, RunError> {
    let Some(wanted) = settings.gateway.clone() else { return Ok(None) };
    let listener = listen("gateway", &wanted.listen).await?;
    let gateway = Gateway::new(wanted, view.clone());
    tokio::spawn(Arc::clone(&gateway).serve(listener));
    Ok(Some(gateway))
}
