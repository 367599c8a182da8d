//! Network namespaces on one bridge, for servers that are to be cut off from each other. Each is
//! held by a process that sleeps, and goes with it.
//!
//! ```text
//!   the test ──(for_clients)── host 0 ──┐
//!   the test ──(for_clients)── host 1 ──┼── side 0 | side 1: the members' network, in a namespace of its own
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

/// The addresses: nobody's outside of these namespaces.
const NET: &str = "10.77.0";

/// The addresses of the links between a test and its hosts.
const CLIENTS: &str = "10.78";

/// As many hosts as wanted, on one of two bridges, which know nothing of each other.
pub struct TestNetwork {
    hub: Namespace,
    namespaces: Vec<Namespace>,
    pub hosts: Vec<NamespaceHost>,
}

/// A namespace that plays a host.
#[derive(Debug, Clone)]
pub struct NamespaceHost {
    /// The process that holds it.
    pub holder: u32,
    /// Among the members.
    pub address: String,
    /// On a link of its own to the test, which no split touches.
    pub for_clients: String,
}

/// One network namespace.
pub struct Namespace(Child);

/// While it is there the network is slow (`delay.c`).
pub struct Delay<'a> {
    network: &'a TestNetwork,
    carrier: Child,
}

impl Delay<'_> {
    /// Holds everything back, or lets it go on.
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

/// Built by the C compiler that Postgres' headers need anyway.
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

/// Goes with the host's namespace. Of networks that are there at once each has links of its own.
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

/// `ip`, in the namespace that a process holds or in the test's own.
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
    /// Returns `None` if the process may not create namespaces: that needs root, and `CAP_NET_ADMIN`
    /// and `CAP_SYS_ADMIN` in a container.
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

    /// The hosts reach each other by IPv6 alone from now on; clients reach them by IPv4.
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

    /// Clients don't reach this host any more, or do again; the members are not concerned.
    pub fn clients_reach(&self, host: usize, yes: bool) {
        self.namespaces[host]
            .ip(if yes { "link set clients up" } else { "link set clients down" })
            .unwrap();
    }

    pub fn address(host: usize) -> String {
        format!("{NET}.{}", host + 1)
    }

    /// These on one side, all others on the other one. Nobody is told: what is sent is lost.
    pub fn split(&self, away: &[usize]) {
        for n in 0..self.namespaces.len() {
            self.hub
                .ip(&format!("link set port{n} master side{}", usize::from(away.contains(&n))))
                .unwrap();
        }
    }

    pub fn heal(&self) {
        self.split(&[]);
    }

    /// From now on everything between the hosts takes so long, each way. What is on its way when
    /// the delay is dropped is lost.
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
        carrier.stdout.as_mut().unwrap().read_exact(&mut ready).expect("it listens on all links");
        Delay { network: self, carrier }
    }

    /// What one host sends to the other is lost; what comes back is not.
    pub fn drop_one_way(&self, from: usize, to: usize) {
        let nobody = "02:00:00:00:00:99";
        self.namespaces[from]
            .ip(&format!(
                "neigh replace {} lladdr {nobody} dev eth0 nud permanent",
                Self::address(to)
            ))
            .unwrap();
    }

    pub fn heal_one_way(&self, from: usize, to: usize) {
        self.namespaces[from].ip(&format!("neigh del {} dev eth0", Self::address(to))).unwrap();
    }
}
