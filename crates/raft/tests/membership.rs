//! Changes of the membership that go wrong half way: newcomers that never come, leaders that die in
//! the middle, members that move.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, which may end anywhere"
)]

mod harness;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use harness::{TestCluster, join, nodes, refusal};
use pgraft_core::control::{Request, Response};
use pgraft_core::{Address, NodeId, NodeState, Role};
use pgraft_raft::{BoxStream, Listener, Network};
use pgraft_testkit::free_port;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_never_comes_is_taken_out_again_by_an_entry() {
    let mut c = TestCluster::of(2).await;
    c.gives_up_after(Duration::from_secs(2)).await;
    let never = free_port();
    let added = c.changed(join(3, never)).await;
    assert!(c.log(added).await.iter().any(|r| r.kind == "join" && r.data.contains("\"node\":3")));
    for n in [0, 1] {
        let status = c
            .wait(n, "node 3 to be given up", |s| s.next_node_id == 4 && s.members.len() == 2)
            .await;
        assert_eq!((status.voters, status.next_node_id), (2, 4));
        c.until_log(n, "the entry that says so", |r| r.kind == "join_expired" && r.committed).await;
    }
    assert_eq!(refusal(c.change(join(3, never)).await.1).0, "PGR02", "its id is spent");
    // Who comes in time stays.
    c.gives_up_after(Duration::from_mins(10)).await;
    let four = c.start(4).await;
    c.changed(c.joining(four)).await;
    c.wait(0, "what node 4 tells", |s| s.members.len() == 3 && s.members[2].postgres.is_some())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_counting() {
    let mut c = TestCluster::of(3).await;
    c.gives_up_after(Duration::from_secs(4)).await;
    c.wait_leading("everybody's answer", |s| s.members.iter().all(|m| m.reachable == Some(true)))
        .await;
    let leader = c.changed(join(4, free_port())).await;
    let rest: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    for n in &rest {
        c.wait(*n, "the row", |s| s.next_node_id == 5).await;
    }
    c.stop(leader).await;
    for n in rest {
        c.wait(n, "node 4 to be given up", |s| s.members.len() == 3).await;
        c.until_log(n, "the entry that says so", |r| r.kind == "join_expired" && r.committed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_voter_away_a_newcomer_must_be_there_first() {
    let mut c = TestCluster::of(3).await;
    c.stop(2).await;
    c.wait_leading("its silence", |s| s.members[2].reachable == Some(false)).await;
    let (asked, answer) = c.change(join(4, free_port())).await;
    let (sqlstate, message, hint) = refusal(answer);
    assert_eq!(
        (sqlstate.as_str(), message.as_str()),
        ("55006", "adding node 4 would leave only 2 of 4 voters reachable, but 3 are required")
    );
    assert!(hint.starts_with("Start the new node first"), "{hint}");
    let left_in_the_log =
        c.log(asked).await.iter().any(|r| r.kind == "join" && r.data.contains("\"node\":4"));
    assert!(!left_in_the_log, "a refusal left something in the log");
    let four = c.start(4).await;
    c.changed(c.joining(four)).await;
    c.wait(0, "its vote", |s| s.voters == 4).await;
}

fn set(node_id: i64, port: u16) -> Request {
    Request::SetAddress { node_id, address: "127.0.0.1".into(), port: i64::from(port) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_can_not_be_set() {
    let c = TestCluster::steady(2).await;
    let [one, two] = [0, 1].map(|n| c.members[n].settings.advertise.port());
    for (request, sqlstate, message) in [
        (set(9, 7001), "42704", "node 9 is not a member of this cluster".to_owned()),
        (set(2, one), "42710", format!("address 127.0.0.1:{one} is already used by node 1")),
        (
            set(0, 7001),
            "22023",
            "invalid node id 0: it must be between 1 and 2147483647".to_owned(),
        ),
        (set(2, 0), "22023", "invalid port 0: it must be between 1 and 65535".to_owned()),
    ] {
        let (code, words, hint) = refusal(c.ask(0, request).await);
        assert_eq!((code.as_str(), words), (sqlstate, message));
        assert!(!hint.is_empty());
    }
    let unresolvable =
        Request::SetAddress { node_id: 2, address: "no.such.host.invalid".into(), port: 1 };
    assert_eq!(
        refusal(c.ask(0, unresolvable).await).1,
        "could not resolve address \"no.such.host.invalid\""
    );
    let (sqlstate, message, hint) = refusal(c.ask(1, set(2, 1)).await);
    assert_eq!(
        message,
        "Cannot set address - this node is not the leader. Addresses must be changed on the leader."
    );
    assert_eq!(
        (sqlstate, hint),
        ("PGR01".to_owned(), format!("The leader is node 1 (127.0.0.1:{one})."))
    );
    assert!(
        matches!(c.ask(0, set(2, two)).await, Response::Done { notice: Some(n) } if n.contains("already looks for node 2"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_moves_without_a_new_id() {
    let mut c = TestCluster::of(3).await;
    // It moves, and nobody finds it; then the leader is told.
    c.stop(1).await;
    let new = free_port();
    c.moves(1, new);
    c.run(1).await.unwrap();
    c.wait_leading("node 2 out of reach", |s| s.members[1].reachable == Some(false)).await;
    c.add_and_remove_a_node(7).await; // the others decide
    let told = c.changed(set(2, new)).await;
    assert_eq!(
        nodes(&c.status(told).await)[1],
        (2, new),
        "it is on the leader when the call returns"
    );
    let rows = nodes(&c.status(told).await);
    for n in 0..3 {
        c.wait(n, "the new address", |s| {
            nodes(s) == rows && s.leader.is_some() && s.next_node_id == 8
        })
        .await;
    }
    c.wait_leading("node 2 in reach", |s| s.members[1].reachable == Some(true)).await;
    c.until_log(1, "Raft's own membership to follow", |r| {
        r.kind == "membership" && r.data.contains(&format!(":{new}}}"))
    })
    .await;
    assert!(matches!(c.change(set(2, new)).await.1, Response::Done { notice: Some(_) }));
    assert_eq!(c.log(2).await.iter().filter(|r| r.kind == "set_address").count(), 1);

    // Whoever leads next dials it there too; and it leads and dials like any other.
    for n in [2, 1] {
        c.lead_comes_to(n).await;
        c.wait_leading("everybody's answer", |s| {
            s.members.iter().all(|m| m.reachable == Some(true))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_moves_too() {
    let mut c = TestCluster::of(3).await;
    // Told beforehand: those who talk to it already go on, whoever connects anew finds it when it
    // is there.
    c.lead_comes_to(1).await;
    let new = free_port();
    c.changed(set(2, new)).await;
    c.wait(0, "the new address", |s| nodes(s)[1] == (2, new)).await;
    c.add_and_remove_a_node(4).await;
    c.stop(1).await;
    c.moves(1, new);
    c.add_and_remove_a_node(5).await;
    c.run(1).await.unwrap();
    c.wait(1, "what it missed", |s| s.next_node_id == 6 && s.leader.is_some()).await;
    c.wait_leading("node 2 in reach", |s| s.members[1].reachable == Some(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_can_be_corrected_while_its_node_joins() {
    let mut c = TestCluster::of(2).await;
    let three = c.start(3).await;
    c.changed(join(3, free_port())).await;
    c.changed(set(3, c.members[three].settings.advertise.port())).await;
    c.wait(three, "its vote", |s| s.voters == 3 && s.state == NodeState::Follower).await;
}

/// The leader dies when the joint configuration is on the way: its followers have it, and nobody
/// ever makes it uniform but the next leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joint_configuration_left_behind_is_finished_by_the_next_leader() {
    let mut c = TestCluster::of(3).await;
    let trap = Arc::new(Trap::default());
    let wires: Vec<_> = (0..3).map(|_| Arc::new(CutAtJoint::new(&trap))).collect();
    for (n, wire) in wires.iter().enumerate() {
        c.stop(n).await;
        c.on(n, Arc::clone(wire) as Arc<dyn Network>);
        c.run(n).await.unwrap();
    }
    let four = c.start(4).await;
    trap.newcomer.store(c.members[four].settings.advertise.port(), Ordering::SeqCst);
    trap.armed.store(true, Ordering::SeqCst);
    c.changed(c.joining(four)).await; // the newcomer is in; its vote is what the leader dies over
    let is_cut = |wire: &Arc<CutAtJoint>| wire.state.is_cut();
    c.until(|| wires.iter().any(is_cut), "a joint configuration on the wire").await;
    let leader = wires.iter().position(is_cut).unwrap();
    c.crash(leader).await;

    let rest = c.running();
    let successor = c.leader(rest[0], |l| l != i64::try_from(leader + 1).unwrap()).await;
    c.wait(successor, "four voters", |s| s.voters == 4).await;
    let log = c.log(successor).await;
    let is_joint = |r: &&harness::MemberRow| r.kind == "membership" && is_joint(r.data.as_bytes());
    let last_joint =
        log.iter().rfind(is_joint).expect("the joint configuration is in the successor's log");
    let uniform = log.iter().rfind(|r| r.kind == "membership").unwrap();
    assert!(
        uniform.index > last_joint.index && uniform.term > last_joint.term,
        "the next leader made it uniform: {log:#?}"
    );
    for n in rest {
        c.wait(n, "four voters", |s| {
            s.voters == 4 && s.members.iter().all(|m| m.role == Role::Voter)
        })
        .await;
    }
    wires[leader].state.heal();
    c.run(leader).await.unwrap();
    c.wait(leader, "what it missed", |s| s.voters == 4 && s.leader.is_some()).await;
    assert!(c.status(leader).await.members.iter().any(|m| m.node_id == NodeId::new(4).unwrap()));
}

/// Whether these bytes carry the configuration between three voters and four.
fn is_joint(bytes: &[u8]) -> bool {
    const JOINT: &[u8] = b"[[1,2,3],[1,2,3,4]]";
    bytes.windows(JOINT.len()).any(|window| window == JOINT)
}

/// A network that lets that configuration through to a voter and nothing after it, in either
/// direction. (To the newcomer alone it would be lost with its leader.) Whichever member sends it
/// first is cut.
struct CutAtJoint {
    state: Arc<RunState>,
}

/// What all members' networks share.
#[derive(Default)]
struct Trap {
    /// Whether a joint configuration cuts whoever sends it.
    armed: AtomicBool,
    /// The newcomer's port.
    newcomer: AtomicU16,
}

struct RunState {
    trap: Arc<Trap>,
    cut: AtomicBool,
}

impl CutAtJoint {
    fn new(trap: &Arc<Trap>) -> Self {
        Self { state: Arc::new(RunState { trap: Arc::clone(trap), cut: AtomicBool::new(false) }) }
    }
}

impl RunState {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

impl Network for CutAtJoint {
    fn listen<'a>(&'a self, at: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            Ok(Box::new(Door(
                TcpListener::bind((at.host(), at.port())).await?,
                Arc::clone(&self.state),
            )) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<BoxStream>> {
        async move {
            let tcp = TcpStream::connect((to.host(), to.port())).await?;
            let to_voter = to.port() != self.state.trap.newcomer.load(Ordering::SeqCst);
            Ok(Box::new(TestWire { tcp, to_voter, state: Arc::clone(&self.state) }) as BoxStream)
        }
        .boxed()
    }

    fn knows<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

struct Door(TcpListener, Arc<RunState>);

impl Listener for Door {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        async move {
            let (tcp, from) = self.0.accept().await?;
            Ok((
                Box::new(TestWire { tcp, to_voter: true, state: Arc::clone(&self.1) }) as BoxStream,
                from.to_string(),
            ))
        }
        .boxed()
    }
}

struct TestWire {
    tcp: TcpStream,
    to_voter: bool,
    state: Arc<RunState>,
}

impl AsyncRead for TestWire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        // What arrives after the cut is never heard.
        if self.state.is_cut() { Poll::Pending } else { read }
    }
}

impl AsyncWrite for TestWire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.state.is_cut() {
            return Poll::Pending;
        }
        if self.to_voter && is_joint(bytes) && self.state.trap.armed.swap(false, Ordering::SeqCst) {
            self.state.cut.store(true, Ordering::SeqCst);
        }
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
