//! A connection to a Postgres server, and the words of an error without what only a debugger wants.

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

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LocalSqlError {
    /// The server said no, or the connection broke.
    #[error("{}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
}

impl LocalSqlError {
    /// Whether the server refused the statement, and will do so again: no connection that broke,
    /// nothing that a server which starts, stops, is fenced or has too many sessions says.
    pub fn is_refusal(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        let Some(db) = error.as_db_error() else { return false };
        let class = db.code().code().get(..2).unwrap_or_default();
        !["08", "25", "40", "53", "55", "57", "58"].contains(&class)
    }
}

/// tokio-postgres says "db error" and hides the rest in its source.
fn words(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Connects; the connection lives as long as the client. Where the server's version is not known,
/// the newest one is tried first.
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
        // An older server that does not know one of the settings.
        Err(error) if major.is_none() && error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
            config.options(session.options(session::OLDEST)).connect(tls).await?
        }
        connected => connected?,
    };
    tokio::spawn(async move {
        // A broken connection is the error of the call that was under way.
        let _ = connection.await;
    });
    Ok(client)
}

/// The local server's database `postgres`, as superuser over the Unix socket. No session of a
/// superuser's is in any other database: what is in those belongs to others, and is never run with
/// a superuser's rights.
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
    fn the_version_is_the_data_directorys() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().into(), ..crate::settings::tests::example().paths };
        assert_eq!(major(&paths), None);
        std::fs::write(dir.path().join("PG_VERSION"), "16\n").unwrap();
        assert_eq!(major(&paths), Some(16));
    }
}
