//! Real nodes on one host: each with its own directories, ports and instance manager, all run as
//! `postgres` where the tests run as root.
//!
//! What can't be set up panics: that is a test's or a bench's end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "serves tests through and through"
)]
#![allow(clippy::missing_panics_doc, reason = "all of it panics where a test can't go on")]

pub mod certificates;
mod clients;
pub mod cluster;
pub mod disk;
pub mod ledger;
pub mod network;
mod ports;
mod processes;

use certificates::IssuedCertificate;
use clients::{connect, connect_from_afar};
use network::NamespaceHost;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use pgraft_instance::status::{Status, host_and_port};
use ports::free_ports;
use processes::descendants;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream as TcpSocketStream;
use tokio_postgres::tls::MakeTlsConnect;

pub use processes::child_of;

/// For everything that a test waits for: generous, since a condition ends the wait.
pub const TIMEOUT: Duration = Duration::from_mins(3);

/// Where Postgres's programs are, or None with a word on why nothing is tested.
pub fn bin_directory() -> Option<PathBuf> {
    let Some(directory) = std::env::var_os("PGRAFT_TEST_BINDIR") else {
        eprintln!(
            "skipped: PGRAFT_TEST_BINDIR does not name the programs of a Postgres that has the pgraft extension"
        );
        return None;
    };
    Some(directory.into())
}

/// Whether the installation has the extension; without it, everything but the Raft member is
/// tested.
pub fn without_extension() -> bool {
    std::env::var_os("PGRAFT_TEST_WITHOUT_EXTENSION").is_some()
}

/// Waits for a condition.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a test may make namespaces of its own: as root, where somebody has said so.
pub fn namespaces() -> bool {
    geteuid().is_root() && std::env::var_os("PGRAFT_TEST_NAMESPACES").is_some()
}

/// Some nodes that know of each other.
pub struct Nodes {
    directory: Option<tempfile::TempDir>,
    pub nodes: Vec<TestNode>,
}

/// One node.
pub struct TestNode {
    pub id: u32,
    pub directory: PathBuf,
    /// Postgres' programs.
    pub bin: PathBuf,
    ports: [u16; 4],
    peers: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    /// Over everything else in the configuration, key by key.
    pub config: BTreeMap<String, Value>,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
    /// Whether what is committed is on the disk.
    pub fsync: bool,
    /// The members choose the primary.
    pub failover: bool,
    /// Of the instance manager, and so of its server: over this process's own.
    pub environment: Vec<(String, String)>,
    /// How long the gateway holds a client.
    pub hold: &'static str,
    /// How long no client has come when the gateway of a node that stops ends.
    pub drain: Option<&'static str>,
    /// How often `tls` was written; 0 is without TLS.
    tls: u32,
    manager: Option<Child>,
    /// It sees the first directory in the place of the second one.
    pub bound: Option<[PathBuf; 2]>,
    /// The network namespace that it runs in, if not in the test's own.
    inside: Option<NamespaceHost>,
}

impl Nodes {
    pub fn new(bin: &Path, count: u32) -> Self {
        let directory = tempfile::Builder::new().prefix("pgraft-test-").tempdir().unwrap();
        give(directory.path());
        let ports: Vec<[u16; 4]> = (0..count).map(|_| free_ports()).collect();
        let peers: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{}", p[2])).collect();
        let nodes = (1..=count)
            .zip(ports)
            .map(|(id, ports)| TestNode::new(id, directory.path(), bin, ports, peers.clone()))
            .collect();
        Self { directory: Some(directory), nodes }
    }

    /// One on each host of a network.
    pub fn inside(bin: &Path, network: &network::TestNetwork) -> Self {
        let mut nodes = Self::new(bin, u32::try_from(network.hosts.len()).unwrap());
        let of =
            |(node, host): (&TestNode, &NamespaceHost)| host_and_port(&host.address, node.ports[2]);
        let peers: Vec<String> = nodes.nodes.iter().zip(&network.hosts).map(of).collect();
        for (node, host) in nodes.nodes.iter_mut().zip(&network.hosts) {
            (node.peers, node.inside) = (peers.clone(), Some(host.clone()));
        }
        nodes
    }

    /// Where a client reaches their Postgres servers.
    pub fn servers(&self) -> Vec<(String, u16)> {
        self.nodes.iter().map(|node| (node.client_address().to_owned(), node.ports[0])).collect()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.stop_hard();
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            let kept = directory.keep();
            for node in &self.nodes {
                eprintln!("--- the last records of node {} ({})", node.id, kept.display());
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

impl TestNode {
    fn new(id: u32, base: &Path, bin: &Path, ports: [u16; 4], peers: Vec<String>) -> Self {
        let directory = base.join(format!("node{id}"));
        fs::create_dir(&directory).unwrap();
        give(&directory);
        let small = [("shared_buffers", "16MB"), ("max_connections", "30")];
        let parameters = small.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let (bin, hold, config) = (bin.to_owned(), "10s", BTreeMap::new());
        let node = Self {
            id,
            directory,
            bin,
            ports,
            peers,
            parameters,
            config,
            hba: vec![],
            fsync: false,
            failover: false,
            environment: vec![],
            hold,
            drain: None,
            tls: 0,
            manager: None,
            bound: None,
            inside: None,
        };
        node.furnish();
        node
    }

    /// What it finds when it is started for the first time.
    fn furnish(&self) {
        for name in ["secrets", "socket"] {
            fs::create_dir(self.directory.join(name)).unwrap();
            give(&self.directory.join(name));
        }
        for name in ["replication", "operator", "owner", "superuser"] {
            self.set_password(name, &format!("{name}-1"));
        }
    }

    pub fn set_password(&self, whose: &str, password: &str) {
        let file = self.directory.join(format!("secrets/{whose}-password"));
        fs::write(&file, password).unwrap();
        give(&file);
    }

    /// The files of `tls`, all three at once, as the kubelet does it: a link is swapped.
    pub fn set_certificate(&mut self, issued: &IssuedCertificate, ca: &str) {
        self.tls += 1;
        let (files, link, temp) = (
            self.directory.join(format!("tls-{}", self.tls)),
            self.directory.join("tls"),
            self.directory.join("tls.new"),
        );
        fs::create_dir(&files).unwrap();
        give(&files);
        for (name, text) in
            [("tls.crt", issued.cert.as_str()), ("tls.key", &issued.key), ("ca.crt", ca)]
        {
            let file = files.join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            give(&file);
        }
        symlink(&files, &temp).unwrap();
        fs::rename(&temp, &link).unwrap();
    }

    pub fn write_config(&self) -> PathBuf {
        let at = |name: &str| self.directory.join(name).display().to_string();
        // What clients reach it by is another interface than the members' one.
        let (members, all) =
            (self.address(), if self.inside.is_some() { "*" } else { "127.0.0.1" });
        let mut config = serde_json::json!({
            "dataDirectory": at("pgdata"),
            "raftDirectory": at("raft"),
            "binDirectory": self.bin.display().to_string(),
            "socketDirectory": at("socket"),
            "secretsDirectory": at("secrets"),
            "httpListen": host_and_port(all, self.ports[2]),
            "peers": self.peers,
            "postgresql": {"port": self.ports[0], "listenAddresses": all, "parameters": self.parameters, "pgHba": self.hba},
            "raft": {
                "port": self.ports[1],
                "listenAddress": members,
                "allowPlaintext": self.inside.is_some(),
                "heartbeatInterval": "200ms",
                "electionTimeout": "1s",
            },
        });
        config["gateway"] =
            serde_json::json!({"port": self.ports[3], "listenAddress": all, "holdTime": self.hold});
        if let Some(time) = self.drain {
            config["gateway"]["drainTime"] = time.into();
        }
        config["failover"] = self.failover.into();
        if self.tls > 0 {
            config["tls"] = serde_json::json!({"certFile": at("tls/tls.crt"), "keyFile": at("tls/tls.key"), "caFile": at("tls/ca.crt")});
        }
        for (key, value) in &self.config {
            config[key] = value.clone();
        }
        // JSON is YAML.
        let (file, temp) =
            (self.directory.join("instance.yaml"), self.directory.join("instance.yaml.new"));
        fs::write(&temp, config.to_string()).unwrap();
        fs::rename(&temp, &file).unwrap();
        file
    }

    pub fn start(&mut self) {
        assert!(self.manager.is_none());
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .unwrap();
        let mut command = self.program();
        command
            .envs(self.environment.iter().cloned())
            .args([
                "run",
                "--node-id",
                &self.id.to_string(),
                "--advertise-address",
                self.address(),
                "--config",
            ])
            .arg(self.write_config());
        if self.id == 1 {
            command.arg("--bootstrap");
        }
        if without_extension() {
            command.arg("--without-extension");
        }
        if !self.fsync {
            command.arg("--unsafe-without-fsync");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir("/");
        self.manager = Some(command.spawn().unwrap());
    }

    /// The instance manager, as nobody's root and where this node is.
    fn program(&self) -> Command {
        let user = geteuid().is_root().then(|| {
            User::from_name("postgres").unwrap().expect("root's servers need a user named postgres")
        });
        if let Some(bound) = &self.bound {
            let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, "sh"]).args(bound);
            if let Some(user) = user {
                command.arg("setpriv").args([
                    format!("--reuid={}", user.uid),
                    format!("--regid={}", user.gid),
                    "--clear-groups".into(),
                ]);
            }
            command.arg(manager());
            return command;
        }
        let Some(host) = &self.inside else {
            let mut command = Command::new(manager());
            if let Some(user) = user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            return command;
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", host.holder));
        if let Some(user) = user {
            command.args([format!("--setuid={}", user.uid), format!("--setgid={}", user.gid)]);
        }
        command.arg(manager());
        command
    }

    /// Where the other members reach it.
    pub fn address(&self) -> &str {
        self.inside.as_ref().map_or("127.0.0.1", |host| &host.address)
    }

    /// Where clients do.
    pub fn client_address(&self) -> &str {
        self.inside.as_ref().map_or("127.0.0.1", |host| &host.for_clients)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.manager.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    /// Signals every process of the node: the instance manager, the server, and whatever else they
    /// have started.
    pub fn signal_all(&self, signal: Signal) {
        for pid in descendants(self.manager.as_ref().unwrap().id().cast_signed()) {
            let _ = kill(Pid::from_raw(pid), signal); // some end meanwhile
        }
    }

    /// `kill -9` of the instance manager; its children live on.
    pub fn kill_manager(&mut self) {
        let mut manager = self.manager.take().unwrap();
        manager.kill().unwrap();
        manager.wait().unwrap();
    }

    /// `kill -9` of everything at once: none of it sees another one go.
    pub fn kill_all(&mut self) {
        self.signal_all(Signal::SIGSTOP);
        self.signal_all(Signal::SIGKILL);
        let _ = self.manager.take().unwrap().wait();
    }

    /// SIGTERM, and the wait for its end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let mut manager = self.manager.take().unwrap();
        until("the instance manager's end", async || manager.try_wait().unwrap()).await
    }

    fn stop_hard(&mut self) {
        if self.manager.is_some() {
            self.signal_all(Signal::SIGCONT); // a test that failed may have left it standing still
        }
        if let Some(mut manager) = self.manager.take() {
            let _ = kill(Pid::from_raw(manager.id().cast_signed()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && matches!(manager.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
                if self.postmaster().is_none() {
                    let _ = kill(Pid::from_raw(manager.id().cast_signed()), Signal::SIGTERM); // its gateway may wait for clients
                }
            }
            let _ = manager.kill();
            let _ = manager.wait();
        }
        if let Some(pid) = self.postmaster() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
    }

    pub const fn postgres_port(&self) -> u16 {
        self.ports[0]
    }

    pub const fn gateway_port(&self) -> u16 {
        self.ports[3]
    }

    pub const fn raft_port(&self) -> u16 {
        self.ports[1]
    }

    pub fn postmaster(&self) -> Option<i32> {
        fs::read_to_string(self.directory.join("pgdata/postmaster.pid"))
            .ok()?
            .lines()
            .next()?
            .trim()
            .parse()
            .ok()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// One GET: the code and the body.
    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect((self.client_address(), self.ports[2])).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let code = text.split(' ').nth(1)?.parse().ok()?;
        Some((code, serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?))
    }

    pub fn status(&self) -> Option<Status> {
        let (code, body) = self.get("/status")?;
        assert_eq!(code, 200);
        Some(serde_json::from_value(body).unwrap())
    }

    pub async fn ready(&self) -> Status {
        let what = format!("node {} to be ready", self.id);
        until(&what, async || self.get("/readyz").filter(|(code, _)| *code == 200)).await;
        self.status().unwrap()
    }

    pub async fn streaming(&self) -> Status {
        let what = format!("node {} to stream", self.id);
        until(&what, async || self.status().filter(|s| s.postgres.streaming == Some(true))).await
    }

    /// Over TCP, with a password.
    pub async fn connect(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        connect((self.client_address(), self.ports[0]), user, password, database).await
    }

    /// The same through the gateway.
    pub async fn connect_by_gateway(
        &self,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        connect((self.client_address(), self.ports[3]), "app", "owner-1", "app").await
    }

    /// Over TLS, from an address that is not the server's own.
    pub async fn connect_from_afar<T>(
        &self,
        user: &str,
        password: &str,
        database: &str,
        tls: T,
    ) -> Result<tokio_postgres::Client, String>
    where
        T: MakeTlsConnect<TcpSocketStream>,
        T::Stream: Send + 'static,
    {
        connect_from_afar(self.ports[0], user, password, database, tls).await
    }

    /// The same through the gateway.
    pub async fn connect_by_gateway_from_afar<T>(
        &self,
        tls: T,
    ) -> Result<tokio_postgres::Client, String>
    where
        T: MakeTlsConnect<TcpSocketStream>,
        T::Stream: Send + 'static,
    {
        connect_from_afar(self.ports[3], "app", "owner-1", "app", tls).await
    }

    /// One statement as superuser, the first column of its first row.
    pub async fn sql(&self, statement: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let client = self.connect("postgres", "superuser-1", "postgres").await?;
        let rows = client.simple_query(statement).await?;
        Ok(rows.iter().find_map(|m| {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = m {
                row.get(0).map(str::to_owned)
            } else {
                None
            }
        }))
    }

    pub async fn wait_for(&self, statement: &str, want: &str) {
        let what = format!("{statement} = {want} on node {}", self.id);
        until(&what, async || self.sql(statement).await.ok().flatten().filter(|got| got == want))
            .await;
    }

    /// What `pg_controldata` calls the state of the data directory.
    pub fn control_state(&self) -> String {
        let mut command = Command::new(self.bin.join("pg_controldata"));
        let output =
            command.env("LC_ALL", "C").arg(self.directory.join("pgdata")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .find_map(|l| l.strip_prefix("Database cluster state:"))
            .unwrap()
            .trim()
            .to_owned()
    }
}

/// `pgraft-instance`, built along with whatever runs this: beside it, or beside the directory of
/// the test programs.
fn manager() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("pgraft-instance"));
    beside
        .into_iter()
        .find(|path| path.exists())
        .expect("pgraft-instance is not built: cargo build -p pgraft-instance")
}

fn give(path: &Path) {
    if geteuid().is_root() {
        let user = User::from_name("postgres")
            .unwrap()
            .expect("the tests run as root and there is no user postgres");
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}
