//! Real Postgres servers for tests: made by `initdb`, with the built extension loaded, stopped and
//! removed when they go out of scope.
//!
//! They run where `PGRAFT_TEST_BINDIR` names a Postgres `bin` directory into whose installation the
//! extension was put (`just test` does both). Postgres refuses to run as root: root's tests run it
//! as the user `postgres`.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::borrow::Borrow;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// For everything that a test waits for: generous, since a condition ends the wait.
pub const TIMEOUT: Duration = Duration::from_secs(90);
/// A leader that is alive leads on, however busy the machine is; one that is dead is missed after
/// this time.
pub const STEADY: &str = "pgraft.election_timeout = '5s'";

/// The `bin` directory, or None with a word why nothing is tested.
pub fn bindir() -> Option<PathBuf> {
    let bindir = std::env::var_os("PGRAFT_TEST_BINDIR").map(PathBuf::from);
    if bindir.is_none() {
        eprintln!("skipped: PGRAFT_TEST_BINDIR names no Postgres to test with");
    }
    bindir
}

/// A free port below the ephemeral range.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + u16::try_from(std::process::id() % 150).unwrap() * 60;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory of a test's own, owned by whoever runs Postgres.
pub fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("pgraft-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if let Some(user) = runs_as() {
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    dir
}

fn runs_as() -> Option<User> {
    geteuid().is_root().then(|| {
        User::from_name("postgres").unwrap().expect("root's tests need a user named postgres")
    })
}

/// One of Postgres' programs, in the network namespace of another process.
fn program_inside(namespace: u32, bindir: &Path, name: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{namespace}/ns/net"));
    if let Some(user) = runs_as() {
        command.arg(format!("--setgid={}", user.gid)).arg(format!("--setuid={}", user.uid));
    }
    command.arg(bindir.join(name)).env("LC_ALL", "C.UTF-8").current_dir("/").stdin(Stdio::null());
    command
}

/// One of Postgres' programs.
fn program(bindir: &Path, name: &str) -> Command {
    let mut command = Command::new(bindir.join(name));
    if let Some(user) = runs_as() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.env("LC_ALL", "C.UTF-8").current_dir("/").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// One server and its Raft member.
pub struct TestServer {
    bindir: PathBuf,
    pub dir: PathBuf,
    pub id: u16,
    pub port: u16,
    pub raft_port: u16,
    /// Where it listens.
    pub host: String,
    /// The process whose network namespace it runs in, when that is not the test's own: it is
    /// reached by its Unix socket then.
    namespace: Option<u32>,
    /// More of its processes' environment.
    pub environment: Vec<(String, String)>,
}

impl TestServer {
    /// `initdb`, configuration, not started.
    pub fn new(bindir: &Path, parent: &Path, id: u16) -> Self {
        Self::bare(bindir, parent, id).made()
    }

    /// The same, in the network namespace of that process, where it has this address.
    pub fn inside(bindir: &Path, parent: &Path, id: u16, namespace: u32, host: &str) -> Self {
        let mut server = Self::bare(bindir, parent, id);
        (server.port, server.raft_port) = (5432, 7001);
        (server.host, server.namespace) = (host.to_owned(), Some(namespace));
        server.made()
    }

    fn made(self) -> Self {
        run(program(&self.bindir, "initdb").arg("-D").arg(self.pgdata()).args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-sync",
        ]));
        self.configure();
        self
    }

    /// A copy of another server's data, as its standby.
    pub fn standby_of(bindir: &Path, parent: &Path, id: u16, primary: &Self) -> Self {
        let server = Self::bare(bindir, parent, id);
        run(program(bindir, "pg_basebackup")
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
        self.set("pgraft.heartbeat_interval = '50ms'\npgraft.election_timeout = '1s'");
    }

    /// Appends to the configuration; the last word counts.
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

    /// Whether it comes up at all.
    pub fn starts(&self) -> bool {
        self.pg_ctl_start().output().unwrap().status.success()
    }

    fn pg_ctl_start(&self) -> Command {
        let mut pg_ctl = match self.namespace {
            Some(namespace) => program_inside(namespace, &self.bindir, "pg_ctl"),
            None => program(&self.bindir, "pg_ctl"),
        };
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
        run(program(&self.bindir, "pg_ctl")
            .arg("-D")
            .arg(self.pgdata())
            .args(["-m", "fast", "-w", "stop"]));
    }

    /// What `pg_rewind` says, without a change.
    pub fn rewind(&self, source: &str) -> std::process::Output {
        program(&self.bindir, "pg_rewind")
            .arg("-D")
            .arg(self.pgdata())
            .args(["--dry-run", "--source-server", source])
            .output()
            .unwrap()
    }

    /// Has it read its configuration again.
    pub fn reload(&self) {
        run(program(&self.bindir, "pg_ctl").arg("-D").arg(self.pgdata()).arg("reload"));
    }

    /// The postmaster's process, while there is one.
    pub fn postmaster(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        Some(Pid::from_raw(pid.lines().next()?.trim().parse().ok()?))
    }

    /// The worker's process, while there is one. (`pg_stat_activity` does not show workers without
    /// a database.)
    pub fn worker(&self) -> Option<Pid> {
        let postmaster = self.postmaster()?.to_string();
        let is_worker = |pid: &str| {
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1))
                .map(str::to_owned);
            title.starts_with("postgres: pgraft") && parent.as_ref() == Some(&postmaster)
        };
        let pids =
            fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
        pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
            .find(|pid| is_worker(pid))
            .map(|pid| Pid::from_raw(pid.parse().unwrap()))
    }

    /// Until the worker is what is wanted.
    pub async fn until_worker(&self, what: &str, wanted: impl Fn(Option<Pid>) -> bool) {
        let start = Instant::now();
        while !wanted(self.worker()) {
            assert!(start.elapsed() < TIMEOUT, "node {}: no {what}\n{}", self.id, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn connect_as(&self, user: &str) -> Client {
        let host = if self.namespace.is_some() {
            self.dir.display().to_string()
        } else {
            "127.0.0.1".into()
        };
        let config =
            format!("host={host} port={} user={user} dbname=postgres connect_timeout=5", self.port);
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

    /// Over the Unix socket in its directory, where it was told to have one there.
    pub async fn connect_locally(&self) -> Client {
        let config =
            format!("host={} port={} user=postgres dbname=postgres", self.dir.display(), self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// What `psql` says.
    pub fn psql(&self, conninfo: &str, sql: &str) -> std::process::Output {
        program(&self.bindir, "psql")
            .args(["-X", "-q", "-A", "-t", "-d", conninfo, "-c", sql])
            .output()
            .unwrap()
    }

    /// All rows as text; "" for NULL.
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
            Ok(rows) => panic!("{sql} went through: {rows:?}"),
            Err(error) => error.as_db_error().cloned().unwrap_or_else(|| panic!("{sql}: {error}")),
        }
    }

    /// Until `sql` gives `wanted` on this server.
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

    /// What adds this server, on the leader.
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

/// The answer of whoever leads among these: asked again where the lead goes over meanwhile, or an
/// answer is lost. Who has answered, and what.
pub async fn asked<S: Borrow<TestServer>>(
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
            assert!(start.elapsed() < TIMEOUT, "{sql}: nobody leads: {why}\n{}", server.log());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether another server is to be asked: this one does not lead, has lost its majority, is in no
/// cluster, or has just lost its worker.
fn is_no_leader(error: &DbError) -> bool {
    ["PGR01", "PGR04", "PGR06", "57P01", "57P02", "57P03"].contains(&error.code().code())
        || error.message() == "this node is not a member of a pgraft cluster"
}

/// The same for a change that must go through. Who has made it.
pub async fn change<S: Borrow<TestServer>>(servers: &[S], sql: &str) -> usize {
    let (n, answer) = asked(servers, sql).await;
    assert_eq!(answer.unwrap_or_else(|e| panic!("{sql}: {e:?}")), "t", "{sql}");
    n
}

/// Until whoever leads shows this. (Who answers is known to the leader alone.) Who that is.
pub async fn until_leading<S: Borrow<TestServer>>(servers: &[S], sql: &str, wanted: &str) -> usize {
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

/// Bootstrap node 1 and its voters up to `size`. Any of them may lead, if only because the machine
/// is busy.
pub async fn cluster(bindir: &Path, parent: &Path, size: u16) -> Vec<TestServer> {
    cluster_of((1..=size).map(|id| TestServer::new(bindir, parent, id)).collect()).await
}

/// The same, and the bootstrap node leads for as long as it lives.
pub async fn steady_cluster(bindir: &Path, parent: &Path, size: u16) -> Vec<TestServer> {
    let steady = |id| {
        let server = TestServer::new(bindir, parent, id);
        server.set(STEADY);
        server
    };
    cluster_of((1..=size).map(steady).collect()).await
}

/// The same of servers that were made to one's liking; the first is the bootstrap node.
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
