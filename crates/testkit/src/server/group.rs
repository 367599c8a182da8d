//! Several servers: requests to the leader among them, and new clusters.

use std::borrow::Borrow;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::error::DbError;

use super::{STEADY, TIMEOUT, TestServer, text_rows};

/// Runs a statement on the leader among these servers. Tries again if the leader changes or an
/// answer is lost. Returns the index of the server that answered, and its answer.
pub async fn on_leader<S: Borrow<TestServer>>(
    servers: &[S],
    sql: &str,
) -> (usize, Result<String, DbError>) {
    let start = Instant::now();
    loop {
        for (n, server) in servers.iter().enumerate() {
            let server = server.borrow();
            let why = match text_rows(&server.connect().await, sql).await {
                Ok(rows) => return (n, Ok(rows[0][0].clone())),
                Err(error) => match error.as_db_error() {
                    Some(error) if !is_no_leader(error) => return (n, Err(error.clone())),
                    _ => error.to_string(),
                },
            };
            assert!(start.elapsed() < TIMEOUT, "{sql}: no leader: {why}\n{}", server.log());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether another server may be the leader: this one is not, has lost its majority, is in no
/// cluster, or has just lost its worker.
fn is_no_leader(error: &DbError) -> bool {
    ["PGR01", "PGR04", "PGR06", "57P01", "57P02", "57P03"].contains(&error.code().code())
        || error.message() == "this node is not a member of a pgraft cluster"
}

/// Makes a change that must succeed. Returns the index of the server that made it.
pub async fn change<S: Borrow<TestServer>>(servers: &[S], sql: &str) -> usize {
    let (n, answer) = on_leader(servers, sql).await;
    assert_eq!(answer.unwrap_or_else(|e| panic!("{sql}: {e:?}")), "t", "{sql}");
    n
}

/// Waits until the leader shows `wanted`, and returns its index. Only the leader knows which
/// members are reachable.
pub async fn until_on_leader<S: Borrow<TestServer>>(
    servers: &[S],
    sql: &str,
    wanted: &str,
) -> usize {
    let start = Instant::now();
    let leads =
        format!("select pgraft_is_leader() and coalesce(({sql})::text = '{wanted}', false)");
    loop {
        for (n, server) in servers.iter().enumerate() {
            let shown = text_rows(&server.borrow().connect().await, &leads).await;
            if shown.is_ok_and(|rows| rows == [["t"]]) {
                return n;
            }
        }
        assert!(start.elapsed() < TIMEOUT, "{sql} is not {wanted}\n{}", servers[0].borrow().log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster of `size` voters. Any of them may be the leader.
pub async fn cluster(bindir: &Path, parent: &Path, size: u16) -> Vec<TestServer> {
    cluster_of((1..=size).map(|id| TestServer::new(bindir, parent, id)).collect()).await
}

/// A cluster whose bootstrap node stays the leader while it runs.
pub async fn steady_cluster(bindir: &Path, parent: &Path, size: u16) -> Vec<TestServer> {
    let steady = |id| {
        let server = TestServer::new(bindir, parent, id);
        server.set(STEADY);
        server
    };
    cluster_of((1..=size).map(steady).collect()).await
}

/// A cluster of these servers, which were not started yet. The first is the bootstrap node.
pub async fn cluster_of(servers: Vec<TestServer>) -> Vec<TestServer> {
    for server in &servers {
        server.start();
        server.rows("create extension pgraft").await;
    }
    assert_eq!(servers[0].one("select pgraft_init()").await, "t");
    for n in 1..servers.len() {
        change(&servers[..=n], &servers[n].join()).await;
        servers[0].until("select voters from pgraft_status()", &(n + 1).to_string()).await;
    }
    servers
}
