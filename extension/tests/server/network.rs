//! Network namespaces on one bridge, for servers that are to be cut off from each other. Each is held by a process that sleeps, and goes with it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The addresses: nobody's outside of these namespaces.
const NET: &str = "10.77.0";

/// As many hosts as wanted, on one of two bridges, which know nothing of each other.
pub struct Network {
    hub: Namespace,
    pub hosts: Vec<Namespace>,
}

/// One network namespace.
pub struct Namespace(Child);

impl Namespace {
    fn new() -> Option<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
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

    /// `ip` in this namespace.
    fn ip(&self, arguments: &str) -> Result<(), String> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.id())).arg("ip").args(arguments.split(' '));
        let output = command.output().map_err(|e| format!("ip {arguments}: {e}"))?;
        if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr))) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Network {
    /// None, with a word why, where namespaces can't be made: that needs root and `CAP_NET_ADMIN`, `CAP_SYS_ADMIN` in a container.
    pub fn new(hosts: usize) -> Option<Self> {
        match Self::try_new(hosts) {
            Ok(network) => Some(network),
            Err(why) => {
                assert!(
                    std::env::var_os("PGRAFT_TEST_NAMESPACES").is_none(),
                    "PGRAFT_TEST_NAMESPACES says that this can be tested here: {why}"
                );
                eprintln!("skipped: no network namespaces here: {why}");
                None
            }
        }
    }

    fn try_new(hosts: usize) -> Result<Self, String> {
        let namespace = || Namespace::new().ok_or_else(|| "unshare --net failed".to_owned());
        let hub = namespace()?;
        for side in 0..2 {
            hub.ip(&format!("link add side{side} type bridge"))?;
            hub.ip(&format!("link set side{side} up"))?;
        }
        let mut network = Self { hub, hosts: Vec::new() };
        for n in 0..hosts {
            let host = namespace()?;
            network.hub.ip(&format!("link add port{n} type veth peer name eth0 netns {}", host.id()))?;
            network.hub.ip(&format!("link set port{n} master side0 up"))?;
            for setting in [format!("addr add {}/24 dev eth0", Self::address(n)), "link set eth0 up".into(), "link set lo up".into()] {
                host.ip(&setting)?;
            }
            network.hosts.push(host);
        }
        Ok(network)
    }

    pub fn address(host: usize) -> String {
        format!("{NET}.{}", host + 1)
    }

    /// These on one side, all others on the other one. Nobody is told: what is sent is lost.
    pub fn split(&self, away: &[usize]) {
        for n in 0..self.hosts.len() {
            self.hub.ip(&format!("link set port{n} master side{}", usize::from(away.contains(&n)))).unwrap();
        }
    }

    pub fn heal(&self) {
        self.split(&[]);
    }

    /// What one host sends to the other is lost; what comes back is not.
    pub fn drop_one_way(&self, from: usize, to: usize) {
        let nobody = "02:00:00:00:00:99";
        self.hosts[from].ip(&format!("neigh replace {} lladdr {nobody} dev eth0 nud permanent", Self::address(to))).unwrap();
    }

    pub fn heal_one_way(&self, from: usize, to: usize) {
        self.hosts[from].ip(&format!("neigh del {} dev eth0", Self::address(to))).unwrap();
    }
}
