//! The listening side.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::ReadPolicy;
use openraft::raft::AppendEntriesResponse;
use openraft::storage::Snapshot;
use pgraft_core::failover::History;
use pgraft_core::failover::lease::{Heartbeat, StartNumber};
use pgraft_core::status::{WalPosition, WalProgress};
use pgraft_core::{ClusterState, Command, NodeId, Refusal};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::handshake::{Hello, Local, Rejected, Welcome};
use super::tls::Trouble;
use super::{
    BoxStream, Guard, LeaderContact, Listener, LogDedup, MAX_FRAME, Rpc, RpcReply, VoterReply,
    read_json, write_json,
};
use crate::machine::watch;
use crate::store::AppliedState;
use crate::types::{LogCommand, Raft};

/// Connections at a time: a member of a full cluster needs four from each peer.
const MAX_CONNECTIONS: usize = 512;
/// The longest hello, in bytes: nobody is known yet.
pub const MAX_HELLO: usize = 4 << 10;
/// From the connection to its hello, TLS included.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// From one request to the next; the leader sends heartbeats and probes all the time.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// The dialler makes a connection anew when its time is over; one that does not is cut.
const GRACE: Duration = Duration::from_mins(1);
/// Longer than any caller waits for a proposal.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where this member's WAL ends.
pub type WalSource = Arc<dyn Fn() -> Option<WalProgress> + Send + Sync>;

/// What the listening side works with.
#[derive(Clone)]
pub struct RaftServer {
    pub raft: Raft,
    pub local: Arc<Local>,
    pub wal: WalSource,
    pub contact: Arc<LeaderContact>,
    pub applied: watch::Receiver<Arc<AppliedState>>,
    pub guard: Guard,
    pub log_dedup: Arc<LogDedup>,
    pub failover: Arc<dyn FailoverEnd>,
}

/// What of the failover protocol comes over the network.
pub trait FailoverEnd: Send + Sync {
    /// A heartbeat of the primary `from`: whether its lease is carried, and up to where its WAL was
    /// taken.
    fn hear(
        &self,
        from: NodeId,
        heartbeat: &Heartbeat,
        history: History,
        lease_ms: u64,
    ) -> (Result<(), String>, Option<WalPosition>);
    /// The leader's question; None where failover is off.
    fn voter_reply(&self) -> Option<VoterReply>;
    /// The word of `from` that a run of its server has ended.
    fn released(&self, from: NodeId, epoch: u64, start: StartNumber);
    /// Somebody wants that node to be the primary; a member that does not lead passes it on.
    fn switchover(&self, target: NodeId) -> BoxFuture<'_, Result<Option<String>, Refusal>>;
    /// The leader wants this primary to step down for that node.
    fn give_up(&self, epoch: u64, target: NodeId) -> BoxFuture<'_, Result<(), Refusal>>;
}

/// Answers the other members for as long as it is polled.
pub async fn serve(mut listener: Box<dyn Listener>, server: RaftServer) {
    // Held here, so that they end with this task: a stopped member must not go on answering.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) if connections.len() < MAX_CONNECTIONS => accepted,
            Ok(_) => continue,
            Err(error) => {
                // Out of file descriptors, as a rule: take a breath instead of spinning.
                tracing::warn!("can't accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let server = server.clone();
        connections.spawn(async move {
            let host = from.rsplit_once(':').map_or(from.as_str(), |(host, _)| host);
            if let Err(error) = connection(stream, host, &server).await {
                tracing::debug!("connection from {from}: {error}");
            }
        });
    }
}

async fn connection(stream: BoxStream, host: &str, server: &RaftServer) -> io::Result<()> {
    let since = Instant::now();
    let greeting = async {
        let (mut stream, shown) = server.guard.accept(stream).await?;
        let hello = read_json::<_, Hello>(&mut stream, MAX_HELLO).await?;
        Ok::<_, Trouble>((stream, shown, hello))
    };
    let (stream, shown, hello) = match timeout(HELLO_TIMEOUT, greeting).await? {
        Ok((stream, shown, Some(hello))) => (stream, shown, hello),
        Ok((_, _, None)) => return Ok(()),
        Err(Trouble::Network(error)) => return Err(error),
        Err(trouble) => {
            server.log_dedup.say(host, &format!("no TLS connection from {host}: {trouble}"));
            return Ok(());
        }
    };
    if let Err(no) = server.guard.check(&shown, hello.from) {
        server.log_dedup.say(host, &format!("refused a connection from {host}: {no}"));
        return refuse(stream, &no).await;
    }
    let state = server.applied.borrow().clone();
    if let Err(no) = server.local.answer(&state.cluster, &hello)? {
        tracing::debug!("refused node {} of cluster {}: {no}", hello.from, hello.cluster);
        return refuse(stream, &no).await;
    }
    server.log_dedup.forget(host);
    converse(stream, hello.from, since, server).await
}

async fn refuse(mut stream: BoxStream, no: &Rejected) -> io::Result<()> {
    timeout(
        HELLO_TIMEOUT,
        write_json(&mut stream, &Welcome::Refused { why: no.to_string() }, MAX_HELLO),
    )
    .await?
}

/// One request and its answer at a time, for as long as the connection may live.
async fn converse(
    mut stream: BoxStream,
    from: NodeId,
    since: Instant,
    server: &RaftServer,
) -> io::Result<()> {
    timeout(HELLO_TIMEOUT, write_json(&mut stream, &Welcome::Accepted, MAX_HELLO)).await??;
    let is_young = || server.guard.max_age().is_none_or(|max| since.elapsed() < max + GRACE);
    while is_young() {
        let Some(rpc) =
            timeout(IDLE_TIMEOUT, read_json::<_, Rpc>(&mut stream, MAX_FRAME)).await??
        else {
            break;
        };
        let reply = answer(server, from, rpc).await;
        timeout(IDLE_TIMEOUT, write_json(&mut stream, &reply, MAX_FRAME)).await??;
    }
    Ok(())
}

async fn answer(server: &RaftServer, from: NodeId, rpc: Rpc) -> RpcReply {
    let raft = &server.raft;
    match rpc {
        Rpc::Append(request) => {
            let answer = raft.append_entries(request).await;
            if answer.as_ref().is_ok_and(|a| !matches!(a, AppendEntriesResponse::HigherVote(_))) {
                server.contact.touch();
            }
            or_failed(answer, RpcReply::Append)
        }
        Rpc::Vote(request) => or_failed(raft.vote(request).await, RpcReply::Vote),
        Rpc::PreVote(request) => or_failed(raft.pre_vote(request).await, RpcReply::Vote),
        Rpc::Snapshot { vote, meta, data } => or_failed(
            raft.install_full_snapshot(vote, Snapshot { meta, snapshot: data }).await,
            RpcReply::Snapshot,
        ),
        Rpc::Transfer(request) => {
            or_failed(raft.handle_transfer_leader(request).await, RpcReply::Transfer)
        }
        Rpc::Propose(command) if !may_propose(&server.applied.borrow().cluster, from, &command) => {
            RpcReply::Failed("a member may only tell about itself".into())
        }
        Rpc::Propose(command) => {
            match timeout(PROPOSE_TIMEOUT, raft.client_write(LogCommand(command))).await {
                Ok(written) => or_failed(written, |w| RpcReply::Proposed(w.data)),
                Err(_) => RpcReply::Failed("not committed in time".into()),
            }
        }
        Rpc::Probe => {
            let wal = (server.wal)();
            RpcReply::Probe { wal: wal.map(|w| w.end), replayed: wal.and_then(|w| w.replayed) }
        }
        Rpc::Lease { heartbeat, history, lease_ms } => {
            let (carried, confirmed) = server.failover.hear(from, &heartbeat, history, lease_ms);
            RpcReply::Lease { carried, confirmed }
        }
        Rpc::Ask => server.failover.voter_reply().map_or_else(
            || RpcReply::Failed("pgraft.failover is off on this node".into()),
            RpcReply::VoterReply,
        ),
        Rpc::Release { epoch, start } => {
            server.failover.released(from, epoch, start);
            RpcReply::Heard
        }
        Rpc::Switchover { target } => {
            RpcReply::Switchover(server.failover.switchover(target).await)
        }
        Rpc::StepDown { epoch, target } => {
            RpcReply::SteppedDown(server.failover.give_up(epoch, target).await)
        }
        Rpc::Read => match timeout(PROPOSE_TIMEOUT, present(server)).await {
            Ok(index) => or_failed(index, |index| RpcReply::Read { index }),
            Err(_) => RpcReply::Failed("no majority answers".into()),
        },
    }
}

/// A member speaks for itself and for nobody else; the primary also for whom its commits wait.
/// Changes of the membership come over the control socket.
fn may_propose(state: &ClusterState, from: NodeId, command: &Command) -> bool {
    match command {
        Command::Register { node, .. } => *node == from,
        Command::ProposeSyncConfig { .. } | Command::CommitSyncConfig { .. } => {
            state.primary() == Some(from)
        }
        _ => false,
    }
}

/// The log index up to which everything is applied here that was committed before this call. On the
/// leader only.
async fn present(server: &RaftServer) -> Result<u64, String> {
    let reader =
        server.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|e| e.to_string())?;
    reader.await_ready(&server.raft).await.map_err(|e| e.to_string())?;
    Ok(server.applied.borrow().last_applied.map_or(0, |id| id.index))
}

fn or_failed<T, E: std::fmt::Display>(
    result: Result<T, E>,
    reply: impl FnOnce(T) -> RpcReply,
) -> RpcReply {
    result.map_or_else(|e| RpcReply::Failed(e.to_string()), reply)
}
