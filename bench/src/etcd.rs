//! Three etcd members on loopback, with fsync on the same disk, and calls over open connections to
//! their JSON gateway.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::failure::BenchFailure;
use crate::servers::until;
use pgraft_testkit::free_port;

/// The cluster. Its processes end when this is dropped.
pub struct Etcd {
    members: Vec<Child>,
    /// The client ports.
    pub ports: Vec<u16>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// The version of the `etcd` on PATH, if there is one.
pub fn version() -> Option<String> {
    let output = Command::new("etcd").arg("--version").stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: ").map(str::to_owned))
}

impl Etcd {
    /// Starts three members with etcd's own timing and waits for their leader.
    pub async fn start(dir: &Path) -> Result<Self, BenchFailure> {
        let mut ports = Vec::new();
        for _ in 0..3 {
            ports.push((free_port(), free_port()));
        }
        let cluster: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"))
            .collect();
        let mut etcd =
            Self { members: Vec::new(), ports: ports.iter().map(|(client, _)| *client).collect() };
        for (n, (client, peer)) in ports.iter().enumerate() {
            let (client, peer) =
                (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new("etcd");
            command.args([
                "--name",
                &format!("m{n}"),
                "--initial-cluster",
                &cluster.join(","),
                "--log-level",
                "error",
            ]);
            // With this check etcd refuses changes in the first five seconds, and does more work.
            command.arg("--strict-reconfig-check=false");
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .arg("--data-dir")
                .arg(dir.join(format!("etcd-{n}")));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            etcd.members.push(command.spawn().map_err(BenchFailure::io("etcd"))?);
        }
        let port = etcd.ports[0];
        until("etcd's leader", || async move { Ok(leader_of(port).await.is_some()) }).await?;
        Ok(etcd)
    }

    /// The client port of the leader.
    pub async fn leader(&self) -> Result<u16, BenchFailure> {
        for &port in &self.ports {
            if leader_of(port).await == Some(true) {
                return Ok(port);
            }
        }
        Err(BenchFailure::Etcd("there is no leader".into()))
    }
}

/// Whether a member is the leader. `None` if it has no leader or does not answer.
async fn leader_of(port: u16) -> Option<bool> {
    let status =
        EtcdGateway::connect(port).await.ok()?.call("maintenance/status", &json!({})).await.ok()?;
    let leader = status["leader"].as_str().filter(|id| *id != "0")?.to_owned();
    Some(status["header"]["member_id"] == leader)
}

/// A connection that stays open.
pub struct EtcdGateway {
    port: u16,
    sender: SendRequest<Full<Bytes>>,
}

impl EtcdGateway {
    /// To the member with this client port.
    pub async fn connect(port: u16) -> Result<Self, BenchFailure> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(BenchFailure::io("etcd's client port"))?;
        stream.set_nodelay(true).map_err(BenchFailure::io("etcd's client port"))?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(etcd)?;
        tokio::spawn(connection); // ends with the sender
        Ok(Self { port, sender })
    }

    /// One call of the v3 API.
    pub async fn call(&mut self, path: &str, body: &Value) -> Result<Value, BenchFailure> {
        let request = hyper::Request::post(format!("/v3/{path}"))
            .header("host", format!("127.0.0.1:{}", self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|e| BenchFailure::Etcd(e.to_string()))?;
        self.sender.ready().await.map_err(etcd)?;
        let response = self.sender.send_request(request).await.map_err(etcd)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(etcd)?.to_bytes();
        if !status.is_success() {
            return Err(BenchFailure::Etcd(format!(
                "{path}: {status} {}",
                String::from_utf8_lossy(&bytes)
            )));
        }
        serde_json::from_slice(&bytes).map_err(|e| BenchFailure::Etcd(format!("{path}: {e}")))
    }

    /// Adds a learner at that peer address and returns its id.
    pub async fn add_learner(&mut self, peer: &str) -> Result<String, BenchFailure> {
        let answer = self
            .call("cluster/member/add", &json!({"peerURLs": [peer], "isLearner": true}))
            .await?;
        answer["member"]["ID"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| BenchFailure::Etcd(format!("an answer without an id: {answer}")))
    }

    /// Takes a member out.
    pub async fn remove(&mut self, id: &str) -> Result<(), BenchFailure> {
        self.call("cluster/member/remove", &json!({"ID": id})).await.map(drop)
    }

    /// Whether this member, asked for what it has itself, shows one at that peer address.
    pub async fn shows(&mut self, peer: &str) -> Result<bool, BenchFailure> {
        let answer = self.call("cluster/member/list", &json!({})).await?;
        let at = |member: &Value| {
            member["peerURLs"].as_array().is_some_and(|urls| urls.iter().any(|url| url == peer))
        };
        Ok(answer["members"].as_array().is_some_and(|members| members.iter().any(at)))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn etcd(error: hyper::Error) -> BenchFailure {
    BenchFailure::Etcd(error.to_string())
}
