//! Nodes with an instance manager, each with its own directories and ports. They are stopped when
//! they go out of scope.

mod access;

use crate::certificates::IssuedCertificate;
use crate::network::{NamespaceHost, TestNetwork};
use crate::ports::free_port;
use crate::postgres::{give, postgres_user, postmaster};
use crate::processes::descendants;
use crate::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_api::instance::host_and_port;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Several nodes that are each other's peers.
pub struct Nodes {
    directory: Option<tempfile::TempDir>,
    pub nodes: Vec<TestNode>,
}

/// A node. Its public fields are set before it is started.
pub struct TestNode {
    pub id: u32,
    pub directory: PathBuf,
    /// The directory of the Postgres programs.
    pub bin: PathBuf,
    ports: NodePorts,
    peers: Vec<String>,
    /// Postgres parameters.
    pub parameters: BTreeMap<String, String>,
    /// Top-level keys of the configuration file. They replace what the node would write.
    pub config: BTreeMap<String, Value>,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
    /// Whether Postgres and the Raft log wait for the disk.
    pub fsync: bool,
    /// Whether the members choose the primary.
    pub failover: bool,
    /// Additional environment variables of the instance manager and its server.
    pub environment: Vec<(String, String)>,
    /// The hold time of the gateway.
    pub hold: &'static str,
    /// The drain time of the gateway.
    pub drain: Option<&'static str>,
    /// How often the certificate was set. 0: the node runs without TLS.
    tls: u32,
    manager: Option<Child>,
    /// A bind mount that the instance manager sees: the first directory on the second.
    pub bound: Option<[PathBuf; 2]>,
    /// The network namespace in which it runs, if it is not the test's own.
    inside: Option<NamespaceHost>,
}

/// The ports of a node.
#[derive(Clone, Copy)]
struct NodePorts {
    postgres: u16,
    raft: u16,
    http: u16,
    gateway: u16,
}

impl NodePorts {
    fn free() -> Self {
        Self { postgres: free_port(), raft: free_port(), http: free_port(), gateway: free_port() }
    }
}

impl Nodes {
    pub fn new(bin: &Path, count: u32) -> Self {
        let directory = tempfile::Builder::new().prefix("pgraft-test-").tempdir().unwrap();
        give(directory.path());
        let ports: Vec<NodePorts> = (0..count).map(|_| NodePorts::free()).collect();
        let peers: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{}", p.http)).collect();
        let nodes = (1..=count)
            .zip(ports)
            .map(|(id, ports)| TestNode::new(id, directory.path(), bin, ports, peers.clone()))
            .collect();
        Self { directory: Some(directory), nodes }
    }

    /// One node on each host of a network.
    pub fn inside(bin: &Path, network: &TestNetwork) -> Self {
        let mut nodes = Self::new(bin, u32::try_from(network.hosts.len()).unwrap());
        let of = |(node, host): (&TestNode, &NamespaceHost)| {
            host_and_port(&host.address, node.ports.http)
        };
        let peers: Vec<String> = nodes.nodes.iter().zip(&network.hosts).map(of).collect();
        for (node, host) in nodes.nodes.iter_mut().zip(&network.hosts) {
            (node.peers, node.inside) = (peers.clone(), Some(host.clone()));
        }
        nodes
    }

    /// The addresses and ports of their Postgres servers, for clients.
    pub fn servers(&self) -> Vec<(String, u16)> {
        self.nodes
            .iter()
            .map(|node| (node.client_address().to_owned(), node.ports.postgres))
            .collect()
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
                eprintln!("--- end of the log of node {} ({})", node.id, kept.display());
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

impl TestNode {
    fn new(id: u32, base: &Path, bin: &Path, ports: NodePorts, peers: Vec<String>) -> Self {
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
        node.make_directories();
        node
    }

    /// Makes the directories and secrets that must exist before the first start.
    pub(crate) fn make_directories(&self) {
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

    /// Replaces the three TLS files at once by renaming a link, as the kubelet does.
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
        // Clients and members use different interfaces in a network namespace.
        let (members, all) =
            (self.address(), if self.inside.is_some() { "*" } else { "127.0.0.1" });
        let mut config = serde_json::json!({
            "dataDirectory": at("pgdata"),
            "raftDirectory": at("raft"),
            "binDirectory": self.bin.display().to_string(),
            "socketDirectory": at("socket"),
            "secretsDirectory": at("secrets"),
            "httpListen": host_and_port(all, self.ports.http),
            "peers": self.peers,
            "postgresql": {"port": self.ports.postgres, "listenAddresses": all, "parameters": self.parameters, "pgHba": self.hba},
            "raft": {
                "port": self.ports.raft,
                "listenAddress": members,
                "allowPlaintext": self.inside.is_some(),
                "heartbeatInterval": "200ms",
                "electionTimeout": "1s",
            },
        });
        config["gateway"] = serde_json::json!({"port": self.ports.gateway, "listenAddress": all, "holdTime": self.hold});
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
        // YAML is a superset of JSON.
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
        if !self.fsync {
            command.arg("--unsafe-without-fsync");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir("/");
        self.manager = Some(command.spawn().unwrap());
    }

    /// The instance manager: run as the user that runs Postgres, in the node's namespaces.
    fn program(&self) -> Command {
        let user = postgres_user();
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

    /// Its address for the other members.
    pub fn address(&self) -> &str {
        self.inside.as_ref().map_or("127.0.0.1", |host| &host.address)
    }

    /// Its address for clients.
    pub fn client_address(&self) -> &str {
        self.inside.as_ref().map_or("127.0.0.1", |host| &host.for_clients)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.manager.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    /// Signals every process of the node.
    pub fn signal_all(&self, signal: Signal) {
        for pid in descendants(self.manager.as_ref().unwrap().id().cast_signed()) {
            let _ = kill(Pid::from_raw(pid), signal); // some have just ended
        }
    }

    /// Kills the instance manager. Its children keep running.
    pub fn kill_manager(&mut self) {
        let mut manager = self.manager.take().unwrap();
        manager.kill().unwrap();
        manager.wait().unwrap();
    }

    /// Kills every process of the node at once, so that none sees another one end.
    pub fn kill_all(&mut self) {
        self.signal_all(Signal::SIGSTOP);
        self.signal_all(Signal::SIGKILL);
        let _ = self.manager.take().unwrap().wait();
    }

    /// Sends SIGTERM to the instance manager and waits for its end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let mut manager = self.manager.take().unwrap();
        until("the instance manager to end", async || manager.try_wait().unwrap()).await
    }

    fn stop_hard(&mut self) {
        if self.manager.is_some() {
            self.signal_all(Signal::SIGCONT); // a failed test may have left it stopped
        }
        if let Some(mut manager) = self.manager.take() {
            let _ = kill(Pid::from_raw(manager.id().cast_signed()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && matches!(manager.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
                if self.postmaster().is_none() {
                    let _ = kill(Pid::from_raw(manager.id().cast_signed()), Signal::SIGTERM); // the second one ends the drain
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
        self.ports.postgres
    }

    pub const fn gateway_port(&self) -> u16 {
        self.ports.gateway
    }

    pub const fn raft_port(&self) -> u16 {
        self.ports.raft
    }

    /// The postmaster's process id, if it runs.
    pub fn postmaster(&self) -> Option<i32> {
        postmaster(&self.directory.join("pgdata")).map(Pid::as_raw)
    }

    /// The output of the instance manager and of Postgres.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The cluster state that `pg_controldata` prints.
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

/// The program `pgraft-instance`, from the same target directory as this program.
fn manager() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("pgraft-instance"));
    beside
        .into_iter()
        .find(|path| path.exists())
        .expect("pgraft-instance is not built: cargo build -p pgraft-instance")
}
