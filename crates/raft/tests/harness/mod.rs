//! Several members in one process, over real sockets and real files: what the SQL functions do,
//! without Postgres.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgraft_core::control::{LogRow, Request, Response};
use pgraft_core::status::WalPosition;
use pgraft_core::{Address, NodeId, NodeStatus, Refusal, SqlState};
use pgraft_raft::{Hooks, Network, Node, Protection, RaftSettings, StartError, control_call};
use pgraft_testkit::free_port;
use tempfile::TempDir;

pub type MemberRow = LogRow;

/// For everything that a test waits for: generous, since a condition ends the wait.
pub const TIMEOUT: Duration = Duration::from_secs(90);
pub const DONE: Response = Response::Done { notice: None };

/// One member that can be stopped and started again on its own directory.
pub struct TestMember {
    pub settings: RaftSettings,
    node: Option<Node>,
    network: Option<Arc<dyn Network>>,
}

pub struct TestCluster {
    pub dir: TempDir,
    pub members: Vec<TestMember>,
    /// These three are for members that are started from now on.
    pub join_timeout: Option<Duration>,
    pub snapshot_every: u64,
    pub election_timeout: Duration,
}

impl TestCluster {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir,
            members: Vec::new(),
            join_timeout: None,
            snapshot_every: 1000,
            election_timeout: Duration::from_millis(600),
        }
    }

    pub async fn start(&mut self, id: i64) -> usize {
        self.start_in(id, self.dir.path().join(format!("node-{id}"))).await.unwrap()
    }

    pub async fn start_in(&mut self, id: i64, data_dir: PathBuf) -> Result<usize, StartError> {
        let port = free_port();
        let at = Address::new("127.0.0.1", i64::from(port)).unwrap();
        let settings = RaftSettings {
            node_id: NodeId::new(id).unwrap(),
            listen: at.clone(),
            advertise: at,
            data_dir,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: self.election_timeout,
            join_timeout: self.join_timeout,
            lease_timeout: None,
            snapshot_every: self.snapshot_every,
            postgres: Address::new("127.0.0.1", 5432).unwrap(),
            zone: String::new(),
            protection: Protection::default(),
        };
        self.members.push(TestMember { settings, node: None, network: None });
        self.run(self.members.len() - 1).await?;
        Ok(self.members.len() - 1)
    }

    pub async fn run(&mut self, n: usize) -> Result<(), StartError> {
        let hooks = Hooks {
            wal: Arc::new(|| Some(WalPosition { timeline: 1, lsn: 100 }.into())),
            postgres: None,
            publish: Box::new(|_| {}),
        };
        let TestMember { settings, network, .. } = &self.members[n];
        let node = match network {
            Some(network) => Node::start_on(settings.clone(), hooks, Arc::clone(network)).await?,
            None => Node::start(settings.clone(), hooks).await?,
        };
        self.members[n].node = Some(node);
        Ok(())
    }

    pub async fn stop(&mut self, n: usize) {
        self.members[n].node.take().unwrap().shutdown().await;
    }

    pub async fn ask(&self, n: usize, request: Request) -> Response {
        control_call(&self.members[n].settings.socket(), &request).await.unwrap()
    }

    pub async fn status(&self, n: usize) -> NodeStatus {
        match self.ask(n, Request::Status).await {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub async fn log(&self, n: usize) -> Vec<LogRow> {
        match self.ask(n, Request::Log { limit: 1000 }).await {
            Response::Log { entries } => entries,
            other => panic!("{other:?}"),
        }
    }

    /// Of this member, where it is sure to lead: in [`TestCluster::steady`].
    pub async fn add(&self, leader: usize, newcomer: usize) -> Response {
        self.ask(leader, self.joining(newcomer)).await
    }

    pub async fn add_as(&self, leader: usize, node_id: i64, port: u16) -> Response {
        self.ask(leader, join(node_id, port)).await
    }

    /// What adds this member.
    pub fn joining(&self, newcomer: usize) -> Request {
        let s = &self.members[newcomer].settings;
        join(i64::from(s.node_id), s.advertise.port())
    }

    /// Those that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|n| self.members[*n].node.is_some()).collect()
    }

    /// Has the cluster do it, whoever leads, and asks again where the lead goes over meanwhile. Who
    /// has answered, and what.
    pub async fn change(&self, request: Request) -> (usize, Response) {
        let start = Instant::now();
        loop {
            for n in self.running() {
                let answer = self.ask(n, request.clone()).await;
                if !is_no_leader(&answer) {
                    return (n, answer);
                }
                assert!(start.elapsed() < TIMEOUT, "nobody leads: {answer:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The same for what must go through; there is a notice where it had gone through before its
    /// leader did. Who has done it.
    pub async fn changed(&self, request: Request) -> usize {
        let (n, answer) = self.change(request).await;
        assert!(matches!(answer, Response::Done { .. }), "{answer:?}");
        n
    }

    /// Until whoever leads says so. (Who answers is known to the leader alone.)
    pub async fn wait_leading(&self, what: &str, ready: impl Fn(&NodeStatus) -> bool) -> usize {
        let start = Instant::now();
        loop {
            for n in self.running() {
                let status = self.status(n).await;
                if status.members.iter().any(|m| m.reachable.is_some()) && ready(&status) {
                    return n;
                }
            }
            assert!(start.elapsed() < TIMEOUT, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait(
        &self,
        n: usize,
        what: &str,
        ready: impl Fn(&NodeStatus) -> bool,
    ) -> NodeStatus {
        let start = Instant::now();
        loop {
            let status = self.status(n).await;
            if ready(&status) {
                return status;
            }
            assert!(start.elapsed() < TIMEOUT, "waited for {what}, and there is {status:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Bootstrap node 1, then 2..=size, all voters. Any of them may lead, if only because the
    /// machine is busy.
    pub async fn of(size: i64) -> Self {
        Self::new().grown(size).await
    }

    /// The same, and node 1 leads for as long as it lives: what is silent is taken for dead after
    /// ten seconds only.
    pub async fn steady(size: i64) -> Self {
        let mut c = Self::new();
        c.election_timeout = Duration::from_secs(5);
        c.grown(size).await
    }

    /// The same, of a cluster that was made to one's liking.
    pub async fn grown(mut self, size: i64) -> Self {
        self.start(1).await;
        assert_eq!(self.ask(0, Request::Init).await, DONE);
        for id in 2..=size {
            let newcomer = self.start(id).await;
            self.changed(self.joining(newcomer)).await;
            self.wait(0, "the vote", |s| s.voters == usize::try_from(id).unwrap()).await;
        }
        self
    }

    /// A node that says nothing is added and taken out again: the leader gets two changes through.
    pub async fn add_and_remove_a_node(&self, node_id: i64) {
        let port = free_port();
        let _answers = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        self.changed(join(node_id, port)).await;
        self.changed(Request::RemoveNode { node_id }).await;
    }

    /// From its next start on the member listens there.
    pub fn moves(&mut self, n: usize, port: u16) {
        let at = Address::new("127.0.0.1", i64::from(port)).unwrap();
        self.members[n].settings.listen = at.clone();
        self.members[n].settings.advertise = at;
    }

    /// Ends a member as a crash does: nothing is said, nothing is flushed.
    pub async fn crash(&mut self, n: usize) {
        let node = self.members[n].node.take().unwrap();
        let gone = node.gone();
        drop(node);
        // The tasks end when they are next polled, and let directory and port go.
        tokio::time::timeout(TIMEOUT, gone).await.expect("it lets its directory go");
        self.until(
            || {
                std::net::TcpListener::bind(("127.0.0.1", self.members[n].settings.listen.port()))
                    .is_ok()
            },
            "the end",
        )
        .await;
    }

    pub async fn until(&self, ready: impl Fn() -> bool, what: &str) {
        let start = Instant::now();
        while !ready() {
            assert!(start.elapsed() < TIMEOUT, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until the log begins behind `index`.
    pub async fn until_compacted(&self, n: usize, index: u64) {
        let start = Instant::now();
        while self.log(n).await.first().is_none_or(|row| row.index <= index) {
            assert!(start.elapsed() < TIMEOUT, "waited for a compaction behind {index}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until a row of the log is there.
    pub async fn until_log(&self, n: usize, what: &str, wanted: impl Fn(&LogRow) -> bool) {
        let start = Instant::now();
        while !self.log(n).await.iter().any(&wanted) {
            assert!(
                start.elapsed() < TIMEOUT,
                "waited for {what}, and there is {:#?}",
                self.log(n).await
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Restarts all with this `join_timeout`. Not from the first: on a busy machine it would be
    /// over before they have come.
    pub async fn gives_up_after(&mut self, join_timeout: Duration) {
        self.join_timeout = Some(join_timeout);
        for n in 0..self.members.len() {
            self.stop(n).await;
            self.members[n].settings.join_timeout = Some(join_timeout);
            self.run(n).await.unwrap();
        }
    }

    /// Restarts whoever else leads until this member does; of three or more.
    pub async fn lead_comes_to(&mut self, n: usize) {
        loop {
            let leads = self.leader(n, |_| true).await;
            if leads == n {
                return;
            }
            self.stop(leads).await;
            self.leader(n, |l| l != i64::try_from(leads + 1).unwrap()).await;
            self.run(leads).await.unwrap();
        }
    }

    /// Has a member start on this network from now on.
    pub fn on(&mut self, n: usize, network: Arc<dyn Network>) {
        self.members[n].network = Some(network);
    }

    /// The member that leads, as `n` sees it.
    pub async fn leader(&self, n: usize, wanted: impl Fn(i64) -> bool) -> usize {
        let status =
            self.wait(n, "a leader", |s| s.leader.is_some_and(|l| wanted(i64::from(l)))).await;
        usize::try_from(status.leader.unwrap().get() - 1).unwrap()
    }
}

/// Whether another member is to be asked: this one does not lead, has lost its majority, or is a
/// newcomer.
fn is_no_leader(answer: &Response) -> bool {
    let Response::Refused { sqlstate, message, .. } = answer else { return false };
    [SqlState::NOT_LEADER, SqlState::NO_QUORUM].contains(sqlstate)
        || *message == Refusal::NotInitialized.to_string()
}

pub fn join(node_id: i64, port: u16) -> Request {
    Request::AddNode { node_id, address: "127.0.0.1".into(), port: i64::from(port) }
}

pub fn refusal(response: Response) -> (String, String, String) {
    match response {
        Response::Refused { sqlstate, message, hint } => (sqlstate.to_string(), message, hint),
        other => panic!("{other:?}"),
    }
}

pub fn nodes(status: &NodeStatus) -> Vec<(u32, u16)> {
    status.members.iter().map(|m| (m.node_id.get(), m.address.port())).collect()
}
