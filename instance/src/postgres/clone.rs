//! Makes a standby's PGDATA: a base backup of the primary in a fresh directory, renamed into place when it is whole.

use pgraft_core::instance_config::{REPLICATION_ROLE, replication_name};
use std::time::Duration;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

use crate::files::{self, FileError};
use crate::logging::Sink;
use crate::paths;
use crate::peers;
use crate::postgres::config;
use crate::postgres::initdb::{empty_fresh, put_in_place};
use crate::postgres::process::{self, ProcessError};
use crate::reaper::Reaper;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql::{self, SqlError};
use crate::tls::{TlsError, TlsFiles};
use crate::upstream::{self, Upstream, UpstreamError};

/// For everything that is asked of the primary before the copy.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no PGDATA yet.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// Nobody says who the primary is.
    #[error("no primary is known yet: neither instance.json nor any of the {asked} peers that answered names one")]
    NoPrimary {
        /// How many answered.
        asked: usize,
    },
    /// Whoever was named is a standby itself.
    #[error("node {0} is not a primary now")]
    NotPrimary(pgraft_core::NodeId),
    /// The secret isn't there.
    #[error("there is no replication-password in the secrets directory")]
    NoPassword,
    /// The primary does not let this node in, or not now.
    #[error("the primary at {host}:{port}: {source}")]
    Primary {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// Why.
        source: SqlError,
    },
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// What the disk says.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// `pg_basebackup`.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Finds the primary and copies it.
pub async fn make(settings: &Settings, reaper: &Reaper, sink: &Sink) -> Result<(), CloneError> {
    let secrets = Secrets::read(&settings.paths.secrets)?;
    let primary = reachable_primary(settings, &secrets).await?;
    tracing::info!(primary = %primary.node_id, host = %primary.host, port = primary.port, "cloning the primary");
    files::write_whole(&settings.paths.passfile(), config::passfile(secrets.replication.as_deref()).as_bytes())?;
    let fresh = empty_fresh(settings)?;
    let mut command = process::program(settings, "pg_basebackup", &fresh);
    command.arg("-D").arg(&fresh);
    command.arg("-d").arg(config::primary_conninfo(settings, &primary));
    command.arg(format!("--slot={}", replication_name(settings.node)));
    command.args(["--wal-method=stream", "--checkpoint=fast", "--no-password", "--label=pgraft clone"]);
    process::run(reaper, sink, "pg_basebackup", command).await?;
    // What belongs to the primary's own disk and not to a copy of it.
    files::remove_file(&paths::founding_mark(&fresh))?;
    files::write_whole(&paths::standby_signal(&fresh), b"")?;
    upstream::remember(&settings.paths, &primary)?;
    put_in_place(&fresh, &settings.paths.data)?;
    Ok(())
}

/// The first of those named that answers as a primary and has this node's slot: `instance.json`'s, the peers', the one followed last.
async fn reachable_primary(settings: &Settings, secrets: &Secrets) -> Result<Upstream, CloneError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    let last = upstream::last(&settings.paths)?;
    let answers = peers::ask_all(&settings.config.peers).await;
    let mut named: Vec<Upstream> = upstream::named_by_peers(settings.node, &answers).into_iter().collect();
    named.extend(upstream::follow(settings.node, file.as_ref(), last));
    named.dedup();
    let mut error = CloneError::NoPrimary { asked: answers.len() };
    for candidate in named {
        match ensure_slot(settings, secrets, &candidate).await {
            Ok(()) => return Ok(candidate),
            Err(e) => error = e,
        }
    }
    Err(error)
}

/// Sees that the server is a primary and has this node's slot: made when it is missing, or has lost its WAL; kept when it is there.
pub async fn ensure_slot(settings: &Settings, secrets: &Secrets, primary: &Upstream) -> Result<(), CloneError> {
    let password = secrets.replication.as_deref().ok_or(CloneError::NoPassword)?;
    let Upstream { node_id, host, port } = primary;
    let failed = |source| CloneError::Primary { host: host.clone(), port: *port, source };
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(*port).user(REPLICATION_ROLE).password(password).dbname("postgres");
    config.application_name(replication_name(settings.node)).connect_timeout(DEADLINE);
    let tls = TlsFiles::read(settings)?.map(|files| files.connector()).transpose()?;
    let work = async {
        let client = match tls {
            Some(tls) => sql::connect(config.ssl_mode(SslMode::Require), tls).await?,
            None => sql::connect(&config, NoTls).await?,
        };
        if client.query_one("SELECT pg_is_in_recovery()", &[]).await?.try_get(0)? {
            return Ok(false);
        }
        let name = replication_name(settings.node);
        let lost = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                    WHERE slot_name = $1 AND NOT active AND (wal_status = 'lost' OR slot_type <> 'physical')";
        client.execute(lost, &[&name]).await?;
        let missing = "SELECT pg_create_physical_replication_slot($1, true) \
                       WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
        client.execute(missing, &[&name]).await?;
        Ok(true)
    };
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(CloneError::NotPrimary(*node_id)),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(failed(SqlError::Deadline)),
    }
}
