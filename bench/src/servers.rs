//! Real Postgres servers on loopback, each with its Raft member: bootstrapped, joined, and stopped
//! when they go out of scope.
//!
//! The Postgres is that of `PGRAFT_TEST_BINDIR`, into which the extension was installed (`just
//! bench` does both). It refuses to run as root: root's servers run as the user `postgres`.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::failure::BenchFailure;

/// For anything that takes milliseconds as a rule.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The programs of the Postgres into which the extension was installed.
pub fn bin_directory() -> Result<PathBuf, BenchFailure> {
    pgraft_testkit::bin_directory().ok_or_else(|| {
        BenchFailure::Wrong("PGRAFT_TEST_BINDIR names no Postgres with the extension".into())
    })
}

/// A directory below `parent` that whoever runs Postgres owns.
pub fn scratch(parent: &Path) -> Result<TempDir, BenchFailure> {
    let failed = |e| BenchFailure::Io { what: parent.display().to_string(), source: e };
    let dir =
        tempfile::Builder::new().prefix("pgraft-bench-").tempdir_in(parent).map_err(failed)?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).map_err(failed)?;
    if let Some(user) = runs_as()? {
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed)?;
    }
    Ok(dir)
}

/// A port that is free now.
pub fn free_port() -> Result<u16, BenchFailure> {
    // Below the ephemeral range, where no outgoing connection takes it meanwhile.
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(21_000);
    loop {
        let port = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if port >= 32_000 {
            return Err(BenchFailure::Wrong("no port between 21000 and 32000 is free".into()));
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

fn runs_as() -> Result<Option<User>, BenchFailure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").ok().flatten();
    user.map(Some)
        .ok_or_else(|| BenchFailure::Wrong("root's servers need a user named postgres".into()))
}

/// One of Postgres' programs on a data directory; what it and the server's log say where it fails.
pub fn run_program(
    bin: &Path,
    name: &str,
    data: &Path,
    log: &Path,
    arguments: &[&str],
) -> Result<(), BenchFailure> {
    let path = bin.join(name);
    let mut command = Command::new(&path);
    if let Some(user) = runs_as()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .arg("-D")
        .arg(data)
        .args(arguments);
    let output = command.output().map_err(BenchFailure::io(path.display().to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    Err(BenchFailure::Program(format!("{name}: {}{log}", String::from_utf8_lossy(&output.stderr))))
}

/// More lines for `postgresql.conf`.
pub fn configure(data: &Path, settings: &str) -> Result<(), BenchFailure> {
    let path = data.join("postgresql.conf");
    let appended = fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(settings.as_bytes()));
    appended.map_err(BenchFailure::io(path.display().to_string()))
}

/// The postmaster's process, while there is one.
pub fn postmaster(data: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    Some(Pid::from_raw(pid.lines().next()?.trim().parse().ok()?))
}

/// Ends the server of a directory that goes away with the bench: immediate.
pub fn end(data: &Path) {
    if let Some(pid) = postmaster(data) {
        let _ = kill(pid, Signal::SIGQUIT);
    }
}

/// A connection that stays open.
pub async fn connect(config: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
    tokio::spawn(connection); // ends with the client
    Ok(client)
}

/// Whether a condition comes true in time; looked at every few milliseconds.
pub async fn until<F: Future<Output = Result<bool, BenchFailure>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<(), BenchFailure> {
    let begun = Instant::now();
    while !look().await? {
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline { what: what.to_owned(), limit: TIMEOUT });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// One server and its Raft member.
pub struct BenchServer {
    bindir: PathBuf,
    dir: PathBuf,
    /// Node id.
    pub id: u16,
    port: u16,
    raft_port: u16,
}

impl BenchServer {
    fn make(parent: &Path, id: u16) -> Result<Self, BenchFailure> {
        let server = Self {
            bindir: bin_directory()?,
            dir: parent.join(format!("node-{id}")),
            id,
            port: free_port()?,
            raft_port: free_port()?,
        };
        server.run("initdb", &["-A", "trust", "-U", "postgres"])?;
        let settings = format!(
            "port = {}\nunix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\nfsync = on\n\
             shared_preload_libraries = 'pgraft'\npgraft.node_id = {id}\npgraft.port = {}\npgraft.listen_address = '127.0.0.1'\n\
             pgraft.data_dir = '{}'\n",
            server.port,
            server.raft_port,
            server.dir.join("raft").display()
        );
        configure(&server.pgdata(), &settings)?;
        server
            .run("pg_ctl", &["-l", &server.dir.join("log").display().to_string(), "-w", "start"])?;
        Ok(server)
    }

    fn pgdata(&self) -> PathBuf {
        self.dir.join("pgdata")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), BenchFailure> {
        run_program(&self.bindir, program, &self.pgdata(), &self.dir.join("log"), arguments)
    }

    /// How to connect to it.
    pub fn connection(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=5", self.port)
    }

    /// A connection that stays open.
    pub async fn connect(&self) -> Result<Client, BenchFailure> {
        connect(&self.connection()).await.map_err(BenchFailure::sql(self.id))
    }

    /// The postmaster's process, while there is one.
    pub fn postmaster(&self) -> Option<Pid> {
        postmaster(&self.pgdata())
    }
}

impl Drop for BenchServer {
    fn drop(&mut self) {
        end(&self.pgdata());
    }
}

/// Bootstrap node 1 and its voters up to `size`.
pub async fn cluster(parent: &Path, size: u16) -> Result<Vec<BenchServer>, BenchFailure> {
    let mut servers: Vec<BenchServer> = Vec::new();
    for id in 1..=size {
        let server = BenchServer::make(parent, id)?;
        let sql = BenchFailure::sql(id);
        server.connect().await?.batch_execute("create extension pgraft").await.map_err(&sql)?;
        if id == 1 {
            server.connect().await?.batch_execute("select pgraft_init()").await.map_err(&sql)?;
        } else {
            let bootstrap = servers[0].connect().await?;
            let add = format!("select pgraft_add_node({id}, '127.0.0.1', {})", server.raft_port);
            bootstrap.batch_execute(&add).await.map_err(&sql)?;
            let voters = i64::from(id);
            until("the vote of a new server", || async {
                let row = bootstrap
                    .query_one("select voters::bigint from pgraft_status()", &[])
                    .await
                    .map_err(&sql)?;
                Ok(row.get::<_, i64>(0) == voters)
            })
            .await?;
        }
        servers.push(server);
    }
    Ok(servers)
}
