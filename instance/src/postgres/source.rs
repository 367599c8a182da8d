//! Connects to the primary as the replication role. A server that is not a primary is refused.

use pgraft_core::NodeId;
use pgraft_core::instance_config::REPLICATION_ROLE;
use pgraft_core::session::Session;
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls};

use crate::files::FileError;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};
use crate::status::{Upstream, host_and_port};
use crate::tls::{PostgresTlsFiles, TlsError};

/// The time limit for one connection and its queries.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the primary could not be queried.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server is a standby.
    #[error("node {0} is not a primary")]
    NotPrimary(NodeId),
    /// The password is missing.
    #[error("the secrets directory does not contain replication-password")]
    NoPassword,
    /// The connection or a query failed.
    #[error("could not query the primary at {at}: {source}", at = host_and_port(host, *port))]
    Primary {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// Why.
        source: LocalSqlError,
    },
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Runs queries on the primary, within [`DEADLINE`].
pub async fn ask<T>(
    settings: &Settings,
    secrets: &Secrets,
    primary: &Upstream,
    query: impl AsyncFnOnce(&Client) -> Result<T, LocalSqlError>,
) -> Result<T, SourceError> {
    let password = secrets.replication.as_deref().ok_or(SourceError::NoPassword)?;
    let Upstream { node_id, host, port } = primary;
    let failed = |source| SourceError::Primary { host: host.clone(), port: *port, source };
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(*port).user(REPLICATION_ROLE).password(password).dbname(sql::DATABASE);
    config
        .application_name(format!("pgraft-instance of node {}", settings.node))
        .connect_timeout(DEADLINE);
    let tls = PostgresTlsFiles::read(settings)?.map(|files| files.connector()).transpose()?;
    let work = async {
        let client = match tls {
            Some(tls) => {
                sql::connect(config.ssl_mode(SslMode::Require), Session::Source, None, tls).await?
            }
            None => sql::connect(&mut config, Session::Source, None, NoTls).await?,
        };
        if client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?.try_get(0)? {
            return Ok(None);
        }
        query(&client).await.map(Some)
    };
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(SourceError::NotPrimary(*node_id)),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(failed(LocalSqlError::Deadline)),
    }
}
