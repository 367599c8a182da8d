//! A way in to the primary for whoever copies from it: a connection as the replication role, to a
//! server that is a primary now.

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

/// For everything that is asked of the primary.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Whoever was named is a standby itself.
    #[error("node {0} is not a primary now")]
    NotPrimary(NodeId),
    /// The secret isn't there.
    #[error("there is no replication-password in the secrets directory")]
    NoPassword,
    /// The primary does not let this node in, or not now.
    #[error("the primary at {at}: {source}", at = host_and_port(host, *port))]
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

/// Asks the primary something, all within [`DEADLINE`].
pub async fn ask<T>(
    settings: &Settings,
    secrets: &Secrets,
    primary: &Upstream,
    question: impl AsyncFnOnce(&Client) -> Result<T, LocalSqlError>,
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
        question(&client).await.map(Some)
    };
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(SourceError::NotPrimary(*node_id)),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(failed(LocalSqlError::Deadline)),
    }
}
