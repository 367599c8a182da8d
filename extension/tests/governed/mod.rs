//! Servers with `pgraft.failover = on` and no running worker. The tests change their shared memory
//! through `pages.c`.

#![allow(dead_code, reason = "not every test uses everything")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio_postgres::{Client, Error};

use pgraft_testkit::server::{TestServer, text_rows};

/// Opens the gate for longer than any test.
pub const OPEN: &str = "select gate(3600000)";
pub const CLOSED: &str = "select gate(0)";

/// Compiles the SQL functions that change shared memory.
fn switches(bindir: &Path, dir: &Path) -> PathBuf {
    let library = dir.join("pages.so");
    let headers =
        Command::new(bindir.join("pg_config")).arg("--includedir-server").output().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages.c");
    let include = String::from_utf8(headers.stdout).unwrap();
    pgraft_testkit::compile(&source, &["-shared", "-fPIC", "-I", include.trim()], &library);
    library
}

/// A server with a table `t`, `pgraft.failover` on, no worker, and a closed gate.
pub async fn governed(bindir: &Path, dir: &Path) -> TestServer {
    let server = TestServer::new(bindir, dir, 1);
    let library = switches(bindir, dir);
    server.set(&format!(
        "unix_socket_directories = '{}'\nmax_prepared_transactions = 5\nwal_log_hints = on\npgraft.node_id = 0",
        server.dir.display()
    ));
    server.start();
    for (name, arguments, returned) in [
        ("gate", "bigint", "void"),
        ("intake", "text, integer, integer", "void"),
        ("words", "text, integer", "bigint"),
    ] {
        let as_what = format!("as '{}', '{name}'", library.display());
        server.rows(&format!("create function {name}({arguments}) returns {returned} language c volatile {as_what}")).await;
    }
    server.rows("create extension pgraft").await;
    server.rows("create table t(v int); insert into t values (1); create role client superuser login; create sequence s").await;
    server
        .rows("create role app login; grant all on s to app; alter table t owner to app; grant create on schema public to app; select lo_from_bytea(4711, 'large')")
        .await;
    server.stop();
    server.set("pgraft.failover = on");
    server.start();
    server
}

/// Opens the intake, for timeline 1.
pub fn open(to: &TestServer) -> String {
    open_on(to, 1)
}

/// Opens the intake.
pub fn open_on(to: &TestServer, timeline: u32) -> String {
    format!("select intake('127.0.0.1', {}, {timeline})", to.port)
}

/// Removes the primary_conninfo that `pg_basebackup` has written.
pub fn without_target(standby: &TestServer) {
    let auto = standby.pgdata().join("postgresql.auto.conf");
    let kept = fs::read_to_string(&auto)
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with("primary_conninfo"))
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(&auto, kept).unwrap();
}

/// A standby whose primary_conninfo does not name its primary.
pub fn standby(bindir: &Path, dir: &Path, id: u16, primary: &TestServer) -> TestServer {
    let standby = TestServer::standby_of(bindir, dir, id, primary);
    without_target(&standby);
    standby.set(&format!(
        "primary_conninfo = 'user=postgres application_name=node{id}'\npgraft.node_id = 0"
    ));
    standby.set(&format!(
        "wal_retrieve_retry_interval = '100ms'\nunix_socket_directories = '{}'",
        standby.dir.display()
    ));
    standby.start();
    standby
}

pub async fn run(client: &Client, sql: &str) -> Result<String, Error> {
    Ok(text_rows(client, sql).await?.iter().map(|row| row.join(",")).collect::<Vec<_>>().join(" "))
}

pub fn code(result: Result<String, Error>) -> String {
    match result {
        Ok(rows) => format!("succeeded: {rows}"),
        Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

/// A statement that waits for a standby that does not confirm.
pub struct WaitingStatement {
    pub pid: i32,
    answer: tokio::task::JoinHandle<(Client, Result<String, Error>)>,
}

impl WaitingStatement {
    pub async fn of(server: &TestServer, before: &str, statement: &str) -> Self {
        let client = server.connect_as("app").await;
        run(&client, before).await.unwrap();
        let pid = run(&client, "select pg_backend_pid()").await.unwrap().parse().unwrap();
        let statement = statement.to_owned();
        let answer = tokio::spawn(async move {
            let answer = run(&client, &statement).await;
            (client, answer)
        });
        server
            .until(&format!("select wait_event from pg_stat_activity where pid = {pid}"), "SyncRep")
            .await;
        Self { pid, answer }
    }

    /// Requests its cancellation several times.
    pub async fn cancelled(self, server: &TestServer) -> Self {
        for _ in 0..10 {
            server.rows(&format!("select pg_cancel_backend({})", self.pid)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self
    }

    pub async fn answer(self) -> (Client, Result<String, Error>) {
        self.answer.await.unwrap()
    }
}

pub fn wait_for(server: &TestServer, standbys: &str) {
    server.set(&format!("synchronous_standby_names = '{standbys}'"));
    server.reload();
}
