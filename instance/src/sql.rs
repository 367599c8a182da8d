//! A connection to a Postgres server, and the words of an error without what only a debugger wants.

use std::error::Error;
use std::time::Duration;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};

use crate::settings::Settings;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The server said no, or the connection broke.
    #[error("{}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
}

/// tokio-postgres says "db error" and hides the rest in its source.
fn words(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Connects; the connection lives as long as the client.
pub async fn connect<T>(config: &Config, tls: T) -> Result<Client, SqlError>
where
    T: MakeTlsConnect<Socket> + 'static,
    T::Stream: Send,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        // A broken connection is the error of the call that was under way.
        let _ = connection.await;
    });
    Ok(client)
}

/// The local server, as superuser over the Unix socket.
pub async fn local(settings: &Settings, database: &str, deadline: Duration) -> Result<Client, SqlError> {
    let mut config = Config::new();
    config.host_path(&settings.paths.socket).port(settings.config.postgresql.port).user("postgres").dbname(database);
    config.application_name("pgraft-instance");
    match tokio::time::timeout(deadline, connect(&config, NoTls)).await {
        Ok(connected) => connected,
        Err(_) => Err(SqlError::Deadline),
    }
}
