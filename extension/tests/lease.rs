//! The fence with the real protocol: three servers without instance managers. What clients see
//! while the primary's worker is stopped, without a majority, and without standbys.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

mod governed;

use std::path::Path;
use std::time::{Duration, Instant};

use governed::{WaitingStatement, code, run, without_target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{TIMEOUT, TestServer};
use tokio_postgres::Client;

const GATE: &str = "select gate from pgraft_status()";

fn configure(server: &TestServer) {
    server.set(&format!("unix_socket_directories = '{}'", server.dir.display()));
    server
        .set(&format!("include_if_exists = '{}'", server.raft_dir().join("names.conf").display()));
    server.set(
        "wal_retrieve_retry_interval = '100ms'\npgraft.failover = on\npgraft.lease_timeout = '6s'",
    );
}

async fn bootstrap(bindir: &Path, dir: &Path) -> TestServer {
    let bootstrap = TestServer::new(bindir, dir, 1);
    configure(&bootstrap);
    bootstrap.start();
    let admin = bootstrap.connect_locally().await;
    for statement in ["create extension pgraft", "select pgraft_init()"] {
        run(&admin, statement).await.unwrap();
    }
    bootstrap.until(GATE, "open").await;
    bootstrap
}

/// A bootstrap node and two voters that stream from it, with a table `t`.
async fn three(bindir: &Path, dir: &Path) -> Vec<TestServer> {
    let bootstrap = bootstrap(bindir, dir).await;
    bootstrap
        .rows("create table t(v int); create role app login; alter table t owner to app")
        .await;
    let mut servers = vec![bootstrap];
    for id in 2..=3 {
        let standby = TestServer::standby_of(bindir, dir, id, &servers[0]);
        without_target(&standby);
        configure(&standby);
        standby.set(&format!("primary_conninfo = 'user=postgres application_name=pgraft_{id}'"));
        standby.start();
        add(&servers, &standby).await;
        servers[0].until("select voters from pgraft_status()", &id.to_string()).await;
        servers.push(standby);
    }
    servers[0].until("select sync_standbys || sync_required from pgraft_status()", "2,31").await;
    servers[0]
        .until("select count(*) from pg_stat_replication where sync_state = 'quorum'", "2")
        .await;
    servers
}

/// Adds a server on the current leader. The primary transfers the leadership.
async fn add(servers: &[TestServer], newcomer: &TestServer) {
    let start = Instant::now();
    let sql = format!(
        "select pgraft_add_node({}, '{}', {})",
        newcomer.id, newcomer.host, newcomer.raft_port
    );
    for server in servers.iter().cycle() {
        match run(&server.connect().await, &sql).await {
            Ok(_) => return,
            Err(error) => assert!(start.elapsed() < TIMEOUT, "{error:?}"),
        }
    }
}

/// Repeats a statement until it fails with a SQLSTATE. Returns how often it succeeded.
async fn until_refused(client: &Client, sql: &str, wanted: &str) -> usize {
    let (start, mut done) = (Instant::now(), 0);
    loop {
        match run(client, sql).await {
            Ok(_) => done += 1,
            refused => {
                assert_eq!(code(refused), wanted, "{sql}");
                return done;
            }
        }
        assert!(start.elapsed() < TIMEOUT, "{sql} goes through for ever");
    }
}

/// Repeats a statement until it succeeds.
async fn until_done(client: &Client, sql: &str) {
    let start = Instant::now();
    while let Err(error) = run(client, sql).await {
        assert!(start.elapsed() < TIMEOUT, "{sql}: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn stop(server: &TestServer) -> Pid {
    let worker = server.worker().unwrap();
    kill(worker, Signal::SIGSTOP).unwrap();
    worker
}

#[tokio::test]
async fn the_gate_closes_when_the_worker_is_stopped() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = three(&bindir, dir.path()).await;
    let app = servers[0].connect_as("app").await;
    run(&app, "insert into t values (0)").await.unwrap();
    let worker = stop(&servers[0]);
    let acknowledged = 1 + until_refused(&app, "insert into t values (1)", "25006").await;
    assert_eq!(code(run(&app, "table t").await), "57P03");
    // The other members have chosen a primary with all acknowledged rows.
    let successor = until_primary(&servers[1..]).await;
    let client = successor.connect_as("app").await;
    until_done(&client, "insert into t values (2)").await;
    let rows: usize = successor.one("select count(*) from t where v < 2").await.parse().unwrap();
    assert!(rows >= acknowledged, "{rows} of {acknowledged}");
    assert_eq!(code(run(&app, "insert into t values (1)").await), "25006");
    // When it learns of the new primary term, its server ends, to come back as a standby.
    kill(worker, Signal::SIGCONT).unwrap();
    let start = Instant::now();
    while !app.is_closed() {
        assert!(start.elapsed() < TIMEOUT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn conninfo(server: &TestServer) -> String {
    format!("host=127.0.0.1 port={} user=app dbname=postgres", server.port)
}

/// Waits for a server that is not a standby.
async fn until_primary(servers: &[TestServer]) -> &TestServer {
    let start = Instant::now();
    loop {
        for server in servers {
            if server.psql(&conninfo(server), "select pg_is_in_recovery()").stdout == b"f\n" {
                return server;
            }
        }
        assert!(start.elapsed() < TIMEOUT, "no primary\n{}", servers[0].log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_primary_without_its_majority_is_fenced_until_it_is_back() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = three(&bindir, dir.path()).await;
    let app = servers[0].connect_as("app").await;
    run(&app, "insert into t values (1)").await.unwrap();
    let workers = [stop(&servers[1]), stop(&servers[2])];
    until_refused(&app, "table t", "57P03").await;
    let start = Instant::now();
    loop {
        let refused = run(&app, "insert into t values (2)").await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "25006");
        if refused.hint().unwrap().starts_with("This server is the primary and is waiting") {
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "{refused:?}");
    }
    let admin = servers[0].connect_locally().await;
    assert_eq!(run(&admin, "table t").await.unwrap(), "1");
    assert_eq!(
        run(&app, "select gate from pgraft_status()").await.unwrap_err().code().unwrap().code(),
        "42501",
        "app may not, and is not fenced"
    );
    assert_eq!(servers[0].one(GATE).await, "closed");
    for worker in workers {
        kill(worker, Signal::SIGCONT).unwrap();
    }
    // The primary, whichever it is, has the confirmed row and not the refused one.
    let start = Instant::now();
    loop {
        let primary = until_primary(&servers).await;
        let done =
            primary.psql(&conninfo(primary), "insert into t values (3); select string_agg(distinct v::text, ' ' order by v::text) from t");
        if done.status.success() {
            assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "1 3");
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "{done:?}");
    }
}

#[tokio::test]
async fn a_cancelled_commit_waits_for_its_standbys() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = three(&bindir, dir.path()).await;
    let mut receivers = Vec::new();
    for standby in &servers[1..] {
        receivers.push(Pid::from_raw(
            standby.one("select pid from pg_stat_wal_receiver").await.parse().unwrap(),
        ));
    }
    for receiver in &receivers {
        kill(*receiver, Signal::SIGSTOP).unwrap();
    }
    let waiting = WaitingStatement::of(&servers[0], "", "insert into t values (1)")
        .await
        .cancelled(&servers[0])
        .await;
    assert_eq!(servers[0].one("select count(*) from t").await, "0");
    for receiver in &receivers {
        kill(*receiver, Signal::SIGCONT).unwrap();
    }
    waiting.answer().await.1.unwrap();
}

#[tokio::test]
async fn a_node_without_its_promises_does_not_start() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = bootstrap(&bindir, dir.path()).await;
    server.rows("create table t(v int)").await;
    let promised = server.raft_dir().join("failover.json");
    let content = std::fs::read(&promised).unwrap();
    server.stop();
    server.set("pgraft.failover = off");
    assert!(!server.starts(), "it would take writes that others don't know of");
    assert!(
        server.log().contains(
            "pgraft.failover cannot be switched off on a member of a cluster with failover"
        ),
        "{}",
        server.log()
    );
    server.set("pgraft.failover = on");

    std::fs::remove_file(&promised).unwrap();
    refuses(&server, "failover.json is gone, and with it what this node has promised in failovers. Nothing was changed").await;
    assert!(!promised.exists());
    std::fs::write(&promised, &content[..content.len() / 2]).unwrap();
    refuses(&server, "EOF while parsing").await;
    std::fs::write(
        &promised,
        String::from_utf8(content.clone()).unwrap().replace("\"format\": 1", "\"format\": 2"),
    )
    .unwrap();
    refuses(&server, "failover.json has format 2, and this version reads format 1").await;

    std::fs::write(&promised, &content).unwrap();
    server.start();
    server.until(GATE, "open").await;
}

/// Asserts that the worker does not start, logs the reason, and leaves the gate closed.
async fn refuses(server: &TestServer, words: &str) {
    server.start();
    server.until_worker(words, |_| server.log().contains(words)).await;
    let refused =
        run(&server.connect_locally().await, "insert into t values (1)").await.unwrap_err();
    assert_eq!(
        refused.code().map(tokio_postgres::error::SqlState::code),
        Some("25006"),
        "{refused}"
    );
    server.stop();
}
