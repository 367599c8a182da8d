//! Runs one Postgres server of a pgraft cluster: PID 1 of a pod, and as good a service of a plain
//! host.
//!
//! ```text
//!  main ▸ run ▸ settings, layout, host  checked once
//!               supervisor               pure: (state, event) -> (state, commands)
//!               driver                   commands out, events in
//!               ├─ jobs                  what takes time: one at most
//!               ├─ facts                 what is on the disk
//!               ├─ postgres/             initdb, clone, rewind, config (pure), process, leftovers, log (pure)
//!               ├─ stand                 the Raft member, while no server can run
//!               ├─ prepare               the files that Postgres reads
//!               ├─ configuration         what of the user's settings goes into them: Postgres judges it first
//!               ├─ duties                roles, databases, extension, slots: inside the running server
//!               ├─ watchdog              a primary whose worker is silent
//!               ├─ freshness             whether a standby may be read from
//!               ├─ liveness              a server that does not do what its clients need
//!               ├─ watch                 files that change
//!               ├─ tls                   the certificate, for this process's own way to the primary
//!               ├─ observe ▸ http        /livez /readyz /status /metrics /gateway
//!               ├─ gateway               a port that leads to the primary
//!               ├─ autogroup             a host whose kernel may starve the worker
//!               └─ reaper                every child's exit
//! ```
//!
//! It never decides who the primary is: that is `instance.json`'s word, which the Raft member
//! writes.

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
use settings::{GatewaySettings, Settings, SettingsError};
use supervisor::SupervisorPhase;
use view::MemberView;
use watch::Fingerprint;

/// Why the process can't do its work at all.
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
    /// Signals, or the reaper.
    #[error("could not set up signals: {0}")]
    Signals(#[from] std::io::Error),
}

impl RunError {
    /// 2 where somebody must change the configuration or the host first; 1 where another try may
    /// do.
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
    tracing::info!(node = %settings.node, version = env!("CARGO_PKG_VERSION"), data = %settings.paths.data.display(), "pgraft-instance starts");
    if settings.failover && autogroup::divides_postgres() {
        tracing::warn!(
            "this host's kernel divides its processors among Postgres' processes by session (kernel.sched_autogroup_enabled): when they are all busy the \
             worker may wait for longer than the lease lasts; give the service a CPUWeight, or turn that off (docs/hosts.md)"
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
    tracing::info!("pgraft-instance ends");
    Ok(())
}

async fn listen(name: &'static str, address: &str) -> Result<TcpListener, RunError> {
    // It was checked before that it has both.
    let (host, port) = settings::host_port(address).unwrap_or((address, 0));
    pgraft_raft::listen(host, port).await.map_err(|source| RunError::Listen {
        name,
        address: address.to_owned(),
        source,
    })
}

/// The read-write gateway, where there is one.
async fn gateway(
    settings: &Settings,
    view: &tokio::sync::watch::Receiver<MemberView>,
) -> Result<Option<Arc<Gateway>>, RunError> {
    let Some(wanted) = settings.gateway.clone() else { return Ok(None) };
    let listener = listen("gateway", &wanted.listen).await?;
    let most = gateway::make_disk_space(wanted.most)?;
    if most < wanted.most {
        tracing::warn!(
            most,
            "the system allows too few open files for gateway.maxConnections: there is room for so many"
        );
    }
    let gateway = Gateway::new(GatewaySettings { most, ..wanted }, view.clone());
    tokio::spawn(Arc::clone(&gateway).serve(listener));
    Ok(Some(gateway))
}
