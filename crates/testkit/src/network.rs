//! Hosts in network namespaces, whose network can be split, delayed or partly broken. Each
//! namespace exists as long as a sleeping process in it.
//!
//! ```text
//!   the test ──(for_clients)── host 0 ──┐
//!   the test ──(for_clients)── host 1 ──┼── side 0 | side 1: two bridges for the members, in another namespace
//!   the test ──(for_clients)── host 2 ──┘
//! ```

use crate::{compile, unprivileged};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The network of the members, which exists in these namespaces only.
const NET: &str = "10.77.0";

/// The networks of the links between the test and its hosts.
const CLIENTS: &str = "10.78";

/// Hosts that are each connected to one of two separate bridges.
pub struct TestNetwork {
    hub: Namespace,
    namespaces: Vec<Namespace>,
    pub hosts: Vec<NamespaceHost>,
}

/// A namespace that acts as a host.
#[derive(Debug, Clone)]
pub struct NamespaceHost {
    /// The process that holds the namespace.
    pub holder: u32,
    /// Its address for the other members.
    pub address: String,
    /// Its address for clients, on a separate link to the test that no split affects.
    pub for_clients: String,
}

/// One network namespace.
pub struct Namespace(Child);

/// Delays the network (`delay.c`) until it is dropped.
pub struct Delay<'a> {
    network: &'a TestNetwork,
    carrier: Child,
}

impl Delay<'_> {
    /// Holds all packets back, or delivers them again.
    pub fn stall(&self, yes: bool) {
        kill(
            Pid::from_raw(self.carrier.id().cast_signed()),
            if yes { Signal::SIGSTOP } else { Signal::SIGCONT },
        )
        .unwrap();
    }
}

impl Drop for Delay<'_> {
    fn drop(&mut self) {
        let _ = self.carrier.kill();
        let _ = self.carrier.wait();
        self.network.heal();
    }
}

/// The program that forwards and delays packets, compiled once.
fn delaying_program() -> PathBuf {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/delay.c");
        compile(&source, &[], &directory.path().join("delay"));
        directory
    });
    directory.path().join("delay")
}

impl Namespace {
    fn new() -> Option<Self> {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut namespace = Self(unshare.spawn().ok()?);
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let (start, own) = (Instant::now(), of("self"));
        while of(&namespace.id().to_string()) == own {
            if namespace.0.try_wait().ok()?.is_some() || start.elapsed() > Duration::from_secs(10) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(namespace)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    fn ip(&self, arguments: &str) -> Result<(), String> {
        ip(Some(self.id()), arguments)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects a host to the test. Each network of a test process uses different links.
fn link_to_the_test(network: u32, n: usize, host: &Namespace) -> Result<String, String> {
    let test = std::process::id();
    let (name, net) = (
        format!("pg{test}-{network}-{n}"),
        format!("{CLIENTS}.{}", (test * 4 + network) % 250 + 1),
    );
    let (ours, theirs) = (format!("{net}.{}", 4 * n + 1), format!("{net}.{}", 4 * n + 2));
    ip(None, &format!("link add {name} type veth peer name clients netns {}", host.id()))?;
    ip(None, &format!("addr add {ours}/30 dev {name}"))?;
    ip(None, &format!("link set {name} up"))?;
    host.ip(&format!("addr add {theirs}/30 dev clients"))?;
    host.ip("link set clients up")?;
    Ok(theirs)
}

/// Runs `ip`, in the namespace that a process holds or in the test's own.
fn ip(holder: Option<u32>, arguments: &str) -> Result<(), String> {
    let mut command = match holder {
        None => Command::new("ip"),
        Some(holder) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{holder}/ns/net")).arg("ip");
            command
        }
    };
    let output =
        command.args(arguments.split(' ')).output().map_err(|e| format!("ip {arguments}: {e}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl TestNetwork {
    /// Returns `None` if the process may not create namespaces: that needs root, and
    /// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` in a container.
    pub fn new(hosts: usize) -> Option<Self> {
        match Self::try_new(hosts) {
            Ok(network) => Some(network),
            Err(why) => unprivileged(&format!("network namespaces cannot be created: {why}")),
        }
    }

    fn try_new(hosts: usize) -> Result<Self, String> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let namespace = || Namespace::new().ok_or_else(|| "unshare --net failed".to_owned());
        let hub = namespace()?;
        for side in 0..2 {
            hub.ip(&format!("link add side{side} type bridge"))?;
            hub.ip(&format!("link set side{side} up"))?;
        }
        let mut network = Self { hub, namespaces: Vec::new(), hosts: Vec::new() };
        for n in 0..hosts {
            let host = namespace()?;
            network
                .hub
                .ip(&format!("link add port{n} type veth peer name eth0 netns {}", host.id()))?;
            network.hub.ip(&format!("link set port{n} master side0 up"))?;
            for setting in [
                format!("addr add {}/24 dev eth0", Self::address(n)),
                "link set eth0 up".into(),
                "link set lo up".into(),
            ] {
                host.ip(&setting)?;
            }
            let for_clients = link_to_the_test(number, n, &host)?;
            network.hosts.push(NamespaceHost {
                holder: host.id(),
                address: Self::address(n),
                for_clients,
            });
            network.namespaces.push(host);
        }
        Ok(network)
    }

    /// Replaces the members' IPv4 addresses by IPv6 addresses. Clients keep using IPv4.
    pub fn only_ipv6(&mut self) {
        for (n, (namespace, host)) in self.namespaces.iter().zip(&mut self.hosts).enumerate() {
            let address = format!("fd70:6772:6166::{}", n + 1);
            for setting in [
                format!("addr add {address}/64 dev eth0 nodad"),
                format!("addr del {}/24 dev eth0", host.address),
            ] {
                namespace.ip(&setting).unwrap();
            }
            host.address = address;
        }
    }

    /// Disconnects a host from its clients, or connects it again. Members are not affected.
    pub fn clients_reach(&self, host: usize, yes: bool) {
        self.namespaces[host]
            .ip(if yes { "link set clients up" } else { "link set clients down" })
            .unwrap();
    }

    pub fn address(host: usize) -> String {
        format!("{NET}.{}", host + 1)
    }

    /// Separates these hosts from all others. Packets between the sides are lost.
    pub fn split(&self, away: &[usize]) {
        for n in 0..self.namespaces.len() {
            self.hub
                .ip(&format!("link set port{n} master side{}", usize::from(away.contains(&n))))
                .unwrap();
        }
    }

    /// Ends a split.
    pub fn heal(&self) {
        self.split(&[]);
    }

    /// Delays all packets between the hosts, in each direction. Packets in transit are lost when
    /// the delay is dropped.
    pub fn delay(&self, by: Duration) -> Delay<'_> {
        for n in 0..self.namespaces.len() {
            self.hub.ip(&format!("link set port{n} nomaster")).unwrap();
        }
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.hub.id()))
            .arg(delaying_program())
            .arg(by.as_millis().to_string());
        command.args((0..self.namespaces.len()).map(|n| format!("port{n}")));
        let mut carrier = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 5];
        carrier.stdout.as_mut().unwrap().read_exact(&mut ready).expect("the delay program starts");
        Delay { network: self, carrier }
    }

    /// Loses the packets from one host to another, but not those in the other direction.
    pub fn drop_one_way(&self, from: usize, to: usize) {
        let unused = "02:00:00:00:00:99";
        self.namespaces[from]
            .ip(&format!(
                "neigh replace {} lladdr {unused} dev eth0 nud permanent",
                Self::address(to)
            ))
            .unwrap();
    }

    pub fn heal_one_way(&self, from: usize, to: usize) {
        self.namespaces[from].ip(&format!("neigh del {} dev eth0", Self::address(to))).unwrap();
    }
}
