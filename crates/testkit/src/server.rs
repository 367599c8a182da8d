//! Real Postgres servers with the extension, made by `initdb`. Without an instance manager: tests
//! start and stop them with `pg_ctl`. They are stopped when they go out of scope.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

mod group;

use crate::ports::free_port;
use crate::postgres::{postmaster, program, run};
use crate::processes::child_of;

pub use group::{change, cluster, cluster_of, on_leader, steady_cluster, until_on_leader};

/// The limit of every wait for a condition.
pub const TIMEOUT: Duration = Duration::from_secs(90);
/// Long enough that a running leader stays the leader on a busy machine.
pub const STEADY: &str = "pgraft.election_timeout = '5s'";

/// A server and its Raft member.
pub struct TestServer {
    bindir: PathBuf,
    pub dir: PathBuf,
    pub id: u16,
    pub port: u16,
    pub raft_port: u16,
    /// The address on which it listens.
    pub host: String,
    /// The process that holds its network namespace, if it has one of its own. Then the test
    /// connects through its Unix socket.
    namespace: Option<u32>,
    /// Additional environment variables of its processes.
    pub environment: Vec<(String, String)>,
}

impl TestServer {
    /// Creates a server and configures it. It is not started.
    pub fn new(bindir: &Path, parent: &Path, id: u16) -> Self {
        let server = Self::with_default_timing(bindir, parent, id);
        server.set_fast_timing();
        server
    }

    /// Creates a server with the default heartbeat interval and election timeout.
    pub fn with_default_timing(bindir: &Path, parent: &Path, id: u16) -> Self {
        Self::bare(bindir, parent, id).initialized()
    }

    /// Creates a server in the network namespace of a process, in which it has the address `host`.
    pub fn inside(bindir: &Path, parent: &Path, id: u16, namespace: u32, host: &str) -> Self {
        let mut server = Self::bare(bindir, parent, id);
        (server.port, server.raft_port) = (5432, 7001);
        (server.host, server.namespace) = (host.to_owned(), Some(namespace));
        let server = server.initialized();
        server.set_fast_timing();
        server
    }

    fn initialized(self) -> Self {
        run(self.program("initdb").arg("-D").arg(self.pgdata()).args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
        ]));
        self.configure();
        self
    }

    /// Creates a standby from a base backup of another server.
    pub fn standby_of(bindir: &Path, parent: &Path, id: u16, primary: &Self) -> Self {
        let server = Self::bare(bindir, parent, id);
        run(server
            .program("pg_basebackup")
            .arg("-D")
            .arg(server.pgdata())
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-R",
                "-X",
                "stream",
                "--checkpoint=fast",
                "-p",
            ])
            .arg(primary.port.to_string()));
        server.configure();
        server.set_fast_timing();
        server
    }

    fn bare(bindir: &Path, parent: &Path, id: u16) -> Self {
        Self {
            bindir: bindir.to_owned(),
            dir: parent.join(format!("node-{id}")),
            id,
            port: free_port(),
            raft_port: free_port(),
            host: "127.0.0.1".into(),
            namespace: None,
            environment: Vec::new(),
        }
    }

    fn configure(&self) {
        let sockets = self.namespace.map(|_| self.dir.display().to_string()).unwrap_or_default();
        let listen =
            format!("unix_socket_directories = '{sockets}'\nlisten_addresses = '{}'", self.host);
        self.set(&format!("port = {}\n{listen}\nfsync = on", self.port));
        self.set(&format!(
            "shared_preload_libraries = 'pgraft'\npgraft.node_id = {}\npgraft.port = {}\npgraft.listen_address = '{}'\npgraft.data_dir = '{}'",
            self.id,
            self.raft_port,
            self.host,
            self.raft_dir().display()
        ));
    }

    /// Shortens the heartbeat interval, so that tests need not wait for it.
    fn set_fast_timing(&self) {
        self.set("pgraft.heartbeat_interval = '50ms'\npgraft.election_timeout = '1s'");
    }

    /// Appends to the configuration. The last setting of a name applies.
    pub fn set(&self, lines: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(self.pgdata().join("postgresql.conf"))
            .unwrap();
        writeln!(file, "{lines}").unwrap();
    }

    pub fn pgdata(&self) -> PathBuf {
        self.dir.join("pgdata")
    }

    pub fn raft_dir(&self) -> PathBuf {
        self.dir.join("raft")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn start(&self) {
        run(&mut self.pg_ctl_start());
    }

    /// Starts it, and returns whether it started.
    pub fn starts(&self) -> bool {
        self.pg_ctl_start().output().unwrap().status.success()
    }

    fn pg_ctl_start(&self) -> Command {
        let mut pg_ctl = program(&self.bindir, "pg_ctl", self.namespace);
        pg_ctl.envs(self.environment.iter().cloned());
        pg_ctl
            .arg("-D")
            .arg(self.pgdata())
            .arg("-l")
            .arg(self.dir.join("log"))
            .args(["-w", "start"]);
        pg_ctl
    }

    pub fn stop(&self) {
        run(self.program("pg_ctl").arg("-D").arg(self.pgdata()).args(["-m", "fast", "-w", "stop"]));
    }

    /// The output of `pg_rewind --dry-run`.
    pub fn rewind(&self, source: &str) -> std::process::Output {
        self.program("pg_rewind")
            .arg("-D")
            .arg(self.pgdata())
            .args(["--dry-run", "--source-server", source])
            .output()
            .unwrap()
    }

    /// Reloads its configuration.
    pub fn reload(&self) {
        run(self.program("pg_ctl").arg("-D").arg(self.pgdata()).arg("reload"));
    }

    /// The postmaster's process id, if it runs.
    pub fn postmaster(&self) -> Option<Pid> {
        postmaster(&self.pgdata())
    }

    fn program(&self, name: &str) -> Command {
        program(&self.bindir, name, None)
    }

    /// The worker's process id, if it runs. `pg_stat_activity` does not show workers without a
    /// database.
    pub fn worker(&self) -> Option<Pid> {
        child_of(self.postmaster()?.as_raw(), "pgraft").map(Pid::from_raw)
    }

    /// Waits for a condition on the worker's process id.
    pub async fn until_worker(&self, what: &str, wanted: impl Fn(Option<Pid>) -> bool) {
        let start = Instant::now();
        while !wanted(self.worker()) {
            assert!(start.elapsed() < TIMEOUT, "node {}: no {what}\n{}", self.id, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn connection(&self, host: &str, user: &str) -> String {
        format!("host={host} port={} user={user} dbname=postgres connect_timeout=5", self.port)
    }

    /// The connection string of the superuser, over TCP.
    pub fn conninfo(&self) -> String {
        self.connection(&self.host, "postgres")
    }

    pub async fn connect_as(&self, user: &str) -> Client {
        let host = if self.namespace.is_some() {
            self.dir.display().to_string()
        } else {
            "127.0.0.1".into()
        };
        let config = self.connection(&host, user);
        let start = Instant::now();
        loop {
            match tokio_postgres::connect(&config, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) if start.elapsed() > TIMEOUT => {
                    panic!("node {}: {error}\n{}", self.id, self.log())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub async fn connect(&self) -> Client {
        self.connect_as("postgres").await
    }

    /// Connects through the Unix socket in its directory. `unix_socket_directories` must name it.
    pub async fn connect_locally(&self) -> Client {
        let config =
            format!("host={} port={} user=postgres dbname=postgres", self.dir.display(), self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The output of `psql`.
    pub fn psql(&self, conninfo: &str, sql: &str) -> std::process::Output {
        self.program("psql")
            .args(["-X", "-q", "-A", "-t", "-d", conninfo, "-c", sql])
            .output()
            .unwrap()
    }

    /// All rows as text, with "" for NULL.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        text_rows(&self.connect().await, sql)
            .await
            .unwrap_or_else(|e| panic!("node {}: {sql}: {e}\n{}", self.id, self.log()))
    }

    pub async fn one(&self, sql: &str) -> String {
        self.rows(sql).await[0][0].clone()
    }

    /// The error of a statement that must fail.
    pub async fn error(&self, sql: &str) -> DbError {
        match text_rows(&self.connect().await, sql).await {
            Ok(rows) => panic!("{sql} succeeded: {rows:?}"),
            Err(error) => error.as_db_error().cloned().unwrap_or_else(|| panic!("{sql}: {error}")),
        }
    }

    /// Waits until `sql` returns `wanted` on this server.
    pub async fn until(&self, sql: &str, wanted: &str) {
        let start = Instant::now();
        let mut client = self.connect().await;
        loop {
            if client.is_closed() {
                client = self.connect().await; // the server has restarted its processes
            }
            let found = text_rows(&client, sql).await;
            let shown = found
                .as_ref()
                .map(|rows| rows.iter().map(|r| r.join(",")).collect::<Vec<_>>().join(" "));
            match shown {
                Ok(ref text) if text == wanted => return,
                _ if start.elapsed() > TIMEOUT => {
                    panic!("node {}: {sql} is {shown:?}, not {wanted}\n{}", self.id, self.log())
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub async fn add(&self, other: &Self) -> String {
        self.one(&other.join()).await
    }

    /// The statement that adds this server, for the leader.
    pub fn join(&self) -> String {
        format!("select pgraft_add_node({}, '{}', {})", self.id, self.host, self.raft_port)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster() {
            // Immediate: the directory goes away with the test.
            let _ = kill(pid, Signal::SIGQUIT);
        }
    }
}

pub async fn text_rows(
    client: &Client,
    sql: &str,
) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let text = |row: &tokio_postgres::SimpleQueryRow| {
        (0..row.len()).map(|n| row.get(n).unwrap_or("").to_owned()).collect()
    };
    Ok(messages
        .iter()
        .filter_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(text(row)) } else { None })
        .collect())
}
