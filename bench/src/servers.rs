//! What the benches need around the servers of `pgraft-testkit`: their programs, connections, and
//! waits that end in a failure of the bench.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgraft_testkit::server::{TestServer, cluster_of};
use tokio_postgres::{Client, NoTls};

use crate::failure::BenchFailure;

/// The limit of every wait.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The directory of the Postgres programs, into whose installation `just bench` installs the
/// extension.
pub fn bin_directory() -> Result<PathBuf, BenchFailure> {
    let set = std::env::var_os("PGRAFT_TEST_BINDIR").map(PathBuf::from);
    set.ok_or_else(|| BenchFailure::Wrong("PGRAFT_TEST_BINDIR is not set".into()))
}

/// A connection that stays open.
pub async fn connect(config: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
    tokio::spawn(connection); // ends with the client
    Ok(client)
}

/// Checks a condition every few milliseconds until it is true.
pub async fn until<F: Future<Output = Result<bool, BenchFailure>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> Result<(), BenchFailure> {
    let begun = Instant::now();
    while !check().await? {
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline { what: what.to_owned(), limit: TIMEOUT });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A cluster of `size` voters with the default timing, fsync on.
pub async fn cluster(parent: &Path, size: u16) -> Result<Vec<TestServer>, BenchFailure> {
    let bin = bin_directory()?;
    let server = |id| TestServer::with_default_timing(&bin, parent, id);
    Ok(cluster_of((1..=size).map(server).collect()).await)
}
