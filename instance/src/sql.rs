//! Connections to Postgres servers, and their errors in one line.

use pgraft_core::session::{self, Session};
use std::error::Error;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};

use crate::paths::Paths;
use crate::settings::Settings;

/// The database that pgraft connects to, and the only one.
pub const DATABASE: &str = "postgres";

/// A failed connection or query.
#[derive(Debug, thiserror::Error)]
pub enum LocalSqlError {
    /// An error of the server, or a broken connection.
    #[error("{}", message(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
}

impl LocalSqlError {
    /// Whether the server rejected the statement and will do so again. False for a broken connection,
    /// and for errors of a server that is starting, stopping, fenced or out of sessions.
    pub fn is_refusal(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        let Some(db) = error.as_db_error() else { return false };
        let class = db.code().code().get(..2).unwrap_or_default();
        !["08", "25", "40", "53", "55", "57", "58"].contains(&class)
    }
}

/// The message of an error. tokio-postgres prints "db error" and has the rest in the source.
fn message(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Connects. The connection lives as long as the client. If the server's version is unknown, the
/// options of the newest one are tried first.
pub async fn connect<T>(
    config: &mut Config,
    session: Session<'_>,
    major: Option<u32>,
    tls: T,
) -> Result<Client, LocalSqlError>
where
    T: MakeTlsConnect<Socket> + Clone + 'static,
    T::Stream: Send,
{
    let first = config
        .options(session.options(major.unwrap_or(session::NEWEST)))
        .connect(tls.clone())
        .await;
    let (client, connection) = match first {
        // An older server does not have one of the settings.
        Err(error) if major.is_none() && error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
            config.options(session.options(session::OLDEST)).connect(tls).await?
        }
        connected => connected?,
    };
    tokio::spawn(async move {
        // The pending call returns the error of a broken connection.
        let _ = connection.await;
    });
    Ok(client)
}

/// Connects to the local server's database `postgres` as superuser over the Unix socket. Superuser
/// sessions use no other database, so code of other owners never runs with a superuser's rights.
pub async fn local(
    settings: &Settings,
    session: Session<'_>,
    deadline: Duration,
) -> Result<Client, LocalSqlError> {
    let mut config = Config::new();
    config
        .host_path(&settings.paths.socket)
        .port(settings.config.postgresql.port)
        .user("postgres")
        .dbname(DATABASE);
    config.application_name("pgraft-instance");
    let connected = tokio::time::timeout(
        deadline,
        connect(&mut config, session, major(&settings.paths), NoTls),
    )
    .await;
    connected.unwrap_or(Err(LocalSqlError::Deadline))
}

/// The major version of the server that the data directory belongs to.
fn major(paths: &Paths) -> Option<u32> {
    std::fs::read_to_string(paths.data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().into(), ..crate::settings::tests::example().paths };
        assert_eq!(major(&paths), None);
        std::fs::write(dir.path().join("PG_VERSION"), "16\n").unwrap();
        assert_eq!(major(&paths), Some(16));
    }
}
