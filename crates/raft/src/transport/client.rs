//! The dialling side: one connection to one peer, made when it is needed and given up at the first
//! trouble.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyerror::AnyError;
use openraft::RaftNetworkFactory;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkV2};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use pgraft_core::NodeId;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::confirmed::Sent;
use super::handshake::{Hello, Local, Welcome};
use super::tls::Trouble;
use super::{
    BoxStream, Confirmed, Guard, LogDedup, MAX_FRAME, Network, PROTOCOL_VERSION, Rpc, RpcReply,
    read_json, write_json,
};
use crate::machine::watch;
use crate::store::AppliedState;
use crate::types::{Endpoint, TypeConfig, Vote, node_id};

/// Connect, TLS, handshake: a healthy peer needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two attempts of the leader to send its log, or a snapshot, to a member that can't be
/// reached: a member that has come back is to know soon what was committed meanwhile.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// After so many of them it is gone for longer.
const MAX_QUEUED: usize = 100;
const LATER: Duration = Duration::from_secs(1);

/// Why a call had no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The network or the peer's process.
    #[error("{peer} at {endpoint}: {source}")]
    Io {
        /// Whom it was for.
        peer: NodeId,
        /// Where.
        endpoint: Endpoint,
        /// What happened.
        source: io::Error,
    },
    /// One of the two does not trust the other's certificate.
    #[error("no TLS connection to {peer} at {endpoint}: {source}")]
    Tls {
        /// Whom it was for.
        peer: NodeId,
        /// Where.
        endpoint: Endpoint,
        /// Why not.
        source: Trouble,
    },
    /// The peer refused the connection.
    #[error("{peer} at {endpoint} refused this node: {why}")]
    Refused {
        /// Whom it was for.
        peer: NodeId,
        /// Where.
        endpoint: Endpoint,
        /// The peer's words.
        why: String,
    },
    /// This node is in no cluster, so it has nothing to say to anybody.
    #[error("this node is in no cluster")]
    NoCluster,
    /// The peer could not do what it was asked.
    #[error("{0}")]
    Failed(String),
    /// A number that no node has.
    #[error("{0} is no node id")]
    NoSuchNode(u64),
}

/// Makes the peers' clients.
#[derive(Clone)]
pub struct PeerFactory {
    pub local: Arc<Local>,
    pub applied: watch::Receiver<Arc<AppliedState>>,
    pub network: Arc<dyn Network>,
    pub guard: Guard,
    pub log_dedup: Arc<LogDedup>,
    pub confirmed: Arc<Confirmed>,
}

impl PeerFactory {
    /// A client of one peer; it connects with its first call.
    pub fn peer(&self, target: u64, endpoint: Endpoint) -> Peer {
        Peer {
            factory: self.clone(),
            target,
            endpoint,
            connection: None,
            connecting: JoinSet::new(),
            misses: 0,
        }
    }

    /// Connects and says hello.
    async fn connect(self, peer: NodeId, endpoint: Endpoint) -> Result<Connection, CallError> {
        let since = Instant::now();
        let stream = self.try_connect(peer, &endpoint).await;
        let of = format!("{peer} {endpoint}");
        match &stream {
            Ok(_) => self.log_dedup.forget(&of),
            // A refusal needs a person, and a person needs to read it once.
            Err(CallError::Refused { why, .. }) => {
                self.log_dedup
                    .say(&of, &format!("node {peer} at {endpoint} refuses this node: {why}"));
            }
            Err(error @ CallError::Tls { .. }) => self.log_dedup.say(&of, &error.to_string()),
            Err(_) => {}
        }
        Ok(Connection { stream: stream?, since })
    }

    async fn try_connect(&self, peer: NodeId, endpoint: &Endpoint) -> Result<BoxStream, CallError> {
        let io = |source| CallError::Io { peer, endpoint: endpoint.clone(), source };
        let trouble = |trouble: Trouble| match trouble {
            Trouble::Network(source) => io(source),
            source => CallError::Tls { peer, endpoint: endpoint.clone(), source },
        };
        let identity = self.local.identity();
        let cluster = identity.cluster_id().ok_or(CallError::NoCluster)?;
        let to_instance = self
            .applied
            .borrow()
            .cluster
            .members
            .get(&peer)
            .and_then(|m| m.info.as_ref())
            .map(|told| told.instance);
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster,
            from: identity.node_id,
            to: peer,
            to_instance,
            from_instance: identity.instance,
        };

        let address = endpoint
            .address()
            .map_err(|no| io(io::Error::new(io::ErrorKind::InvalidInput, no.to_string())))?;
        let stream = self.network.connect(&address).await.map_err(io)?;
        let mut stream = self.guard.connect(stream, peer).await.map_err(trouble)?;
        // In TLS 1.3 a listener that refuses the dialler's certificate says so only now.
        write_json(&mut stream, &hello, MAX_FRAME).await.map_err(|e| trouble(e.into()))?;
        match read_json::<_, Welcome>(&mut stream, MAX_FRAME)
            .await
            .map_err(|e| trouble(e.into()))?
        {
            Some(Welcome::Accepted) => Ok(stream),
            Some(Welcome::Refused { why }) => {
                Err(CallError::Refused { peer, endpoint: endpoint.clone(), why })
            }
            None => Err(io(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerFactory {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Endpoint) -> Peer {
        self.peer(target, node.clone())
    }
}

/// A connection that has been welcomed.
struct Connection {
    stream: BoxStream,
    since: Instant,
}

/// One connection to one peer.
pub struct Peer {
    factory: PeerFactory,
    target: u64,
    endpoint: Endpoint,
    /// Taken out for a call and put back when it is through: a call that openraft drops half way
    /// must not leave its answer to the next.
    connection: Option<Connection>,
    /// One at most. It outlives the call that began it: a heartbeat's time may be shorter than what
    /// a handshake takes on a long line, and a connection that was begun anew with each of them
    /// would never stand.
    connecting: JoinSet<Result<Connection, CallError>>,
    /// Connections that did not come about since the last that did.
    misses: usize,
}

impl Peer {
    /// Asks and waits for the answer, `ttl` at most.
    pub async fn call(&mut self, rpc: &Rpc, ttl: Duration) -> Result<RpcReply, CallError> {
        let peer = node_id(self.target).ok_or(CallError::NoSuchNode(self.target))?;
        let endpoint = self.whereabouts(peer);
        let io = |source| CallError::Io { peer, endpoint: endpoint.clone(), source };
        let max_age = self.factory.guard.max_age();
        let kept = match self
            .connection
            .take()
            .filter(|c| max_age.is_none_or(|max| c.since.elapsed() < max))
        {
            Some(connection) => timeout(ttl, exchange(connection, rpc))
                .await
                .map_err(|_| io(io::ErrorKind::TimedOut.into()))?
                .ok(),
            None => None,
        };
        // The peer may have closed a connection that lay idle, or have restarted: once more on a
        // fresh one. Every request can be asked twice.
        let (connection, reply) = if let Some(done) = kept {
            done
        } else {
            let fresh = timeout(ttl, self.connect(peer, &endpoint))
                .await
                .map_err(|_| io(io::ErrorKind::TimedOut.into()))??;
            timeout(ttl, exchange(fresh, rpc))
                .await
                .map_err(|_| io(io::ErrorKind::TimedOut.into()))?
                .map_err(io)?
        };
        self.connection = Some(connection);
        match reply {
            RpcReply::Failed(why) => Err(CallError::Failed(why)),
            reply => Ok(reply),
        }
    }

    /// Where to look for the peer: where the applied state has it, since openraft keeps a client
    /// for as long as its member stays, also when that moves. In turns with where openraft thinks
    /// it is: its membership may be ahead of what is applied here. (The wrong one does no harm: the
    /// handshake says who is there.)
    fn whereabouts(&self, peer: NodeId) -> Endpoint {
        let applied = self.factory.applied.borrow();
        let known = applied.cluster.members.get(&peer).map(|m| Endpoint::from(&m.address));
        known.filter(|_| self.misses.is_multiple_of(2)).unwrap_or_else(|| self.endpoint.clone())
    }

    /// Joins the attempt that is under way, or begins one.
    async fn connect(
        &mut self,
        peer: NodeId,
        endpoint: &Endpoint,
    ) -> Result<Connection, CallError> {
        if self.connecting.is_empty() {
            let attempt =
                timeout(CONNECT_TIMEOUT, self.factory.clone().connect(peer, endpoint.clone()));
            let endpoint = endpoint.clone();
            self.connecting.spawn(async move {
                let late = |_| {
                    Err(CallError::Io { peer, endpoint, source: io::ErrorKind::TimedOut.into() })
                };
                attempt.await.unwrap_or_else(late)
            });
        }
        let made = match self.connecting.join_next().await {
            Some(Ok(made)) => made,
            Some(Err(error)) => Err(CallError::Failed(error.to_string())),
            None => Err(CallError::NoSuchNode(self.target)),
        };
        self.misses = if made.is_ok() { 0 } else { self.misses.wrapping_add(1) };
        made
    }

    /// Openraft would stop where a log goes back. This peer is taken for one that can't be reached,
    /// until a person has seen to it.
    fn has_forgotten(&self, entry: u64) -> RPCError<TypeConfig> {
        let Self { target, endpoint, .. } = self;
        let words = format!(
            "node {target} at {endpoint} has lost entry {entry} of the Raft log, which it had confirmed: its pgraft.data_dir is of an earlier \
             time, and it can't come back under its old id (pgraft_remove_node({target}) on the leader, then pgraft_add_node with an id that \
             was never used)"
        );
        self.factory.log_dedup.say(&format!("{target} log"), &words);
        RPCError::Unreachable(Unreachable::new(&AnyError::error(words)))
    }

    async fn raft_call(
        &mut self,
        rpc: &Rpc,
        option: &RPCOption,
    ) -> Result<RpcReply, RPCError<TypeConfig>> {
        self.call(rpc, option.hard_ttl())
            .await
            .map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
    }
}

/// One request and its answer; the connection is given back only when it is through.
async fn exchange(mut connection: Connection, rpc: &Rpc) -> io::Result<(Connection, RpcReply)> {
    write_json(&mut connection.stream, rpc, MAX_FRAME).await?;
    let reply = read_json(&mut connection.stream, MAX_FRAME)
        .await?
        .ok_or(io::ErrorKind::ConnectionReset)?;
    Ok((connection, reply))
}

fn unexpected(reply: &RpcReply) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(format!(
        "unexpected answer: {reply:?}"
    ))))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(
            std::iter::repeat_n(RETRY_DELAY, MAX_QUEUED).chain(std::iter::repeat(LATER)),
        ))
    }

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let sent = Sent::from(&rpc);
        match self.raft_call(&Rpc::Append(rpc), &option).await? {
            RpcReply::Append(response) => match node_id(self.target)
                .and_then(|peer| self.factory.confirmed.hear(peer, sent, &response))
            {
                None => Ok(response),
                Some(lost) => Err(self.has_forgotten(lost)),
            },
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::Vote(rpc), &option).await? {
            RpcReply::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::PreVote(rpc), &option).await? {
            RpcReply::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<
            openraft::alias::CommittedLeaderIdOf<TypeConfig>,
            u64,
            Endpoint,
            Vec<u8>,
        >,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let rpc = Rpc::Snapshot { vote, meta: snapshot.meta, data: snapshot.snapshot };
        let ttl = option.hard_ttl();
        let reply = tokio::select! {
            biased; // in no random order: a simulation repeats itself
            reply = self.call(&rpc, ttl) => reply,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match reply {
            Ok(RpcReply::Snapshot(response)) => Ok(response),
            Ok(other) => Err(StreamingError::Unreachable(Unreachable::new(&AnyError::error(
                format!("an answer to another question: {other:?}"),
            )))),
            Err(e) => Err(StreamingError::Unreachable(Unreachable::new(&e))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<Result<(), TransferLeaderError<TypeConfig>>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::Transfer(request), &option).await? {
            RpcReply::Transfer(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }
}
