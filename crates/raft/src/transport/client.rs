//! The dialling side: one connection to one peer, made when it is needed and given up at the first trouble.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyerror::AnyError;
use openraft::RaftNetworkFactory;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkV2};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use pgraft_core::NodeId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::handshake::{Hello, Local, Welcome};
use super::{MAX_FRAME, PROTOCOL_VERSION, Reply, Resolver, Rpc, read_json, write_json};
use crate::store::AppliedState;
use crate::types::{Endpoint, TypeConfig, Vote, node_id};

/// Connect, handshake: a healthy peer needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

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
    pub resolver: Resolver,
}

impl PeerFactory {
    /// A client of one peer; it connects with its first call.
    pub fn peer(&self, target: u64, endpoint: Endpoint) -> Peer {
        Peer { factory: self.clone(), target, endpoint, stream: None, complaint: Mutex::new(None) }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerFactory {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Endpoint) -> Peer {
        self.peer(target, node.clone())
    }
}

/// One connection to one peer.
pub struct Peer {
    factory: PeerFactory,
    target: u64,
    endpoint: Endpoint,
    /// Taken out for a call and put back when it is through: a call that openraft drops half way must not leave its answer to the next.
    stream: Option<TcpStream>,
    /// The last refusal that was logged.
    complaint: Mutex<Option<String>>,
}

impl Peer {
    /// Asks and waits for the answer, `ttl` at most.
    pub async fn call(&mut self, rpc: &Rpc, ttl: Duration) -> Result<Reply, CallError> {
        let peer = node_id(self.target).ok_or(CallError::NoSuchNode(self.target))?;
        let endpoint = self.endpoint.clone();
        let io = |source| CallError::Io { peer, endpoint: endpoint.clone(), source };
        let kept = match self.stream.take() {
            Some(stream) => timeout(ttl, exchange(stream, rpc)).await.map_err(|_| io(io::ErrorKind::TimedOut.into()))?.ok(),
            None => None,
        };
        // The peer may have closed a connection that lay idle, or have restarted: once more on a fresh one. Every request can be asked twice.
        let (stream, reply) = if let Some(done) = kept {
            done
        } else {
            let fresh = timeout(CONNECT_TIMEOUT.min(ttl), self.connect(peer)).await.map_err(|_| io(io::ErrorKind::TimedOut.into()))??;
            timeout(ttl, exchange(fresh, rpc)).await.map_err(|_| io(io::ErrorKind::TimedOut.into()))?.map_err(io)?
        };
        self.stream = Some(stream);
        match reply {
            Reply::Failed(why) => Err(CallError::Failed(why)),
            reply => Ok(reply),
        }
    }

    async fn connect(&self, peer: NodeId) -> Result<TcpStream, CallError> {
        let Endpoint { host, port } = &self.endpoint;
        let io = |source| CallError::Io { peer, endpoint: self.endpoint.clone(), source };
        let identity = self.factory.local.identity();
        let cluster = identity.cluster_id().ok_or(CallError::NoCluster)?;
        let to_instance = self.factory.applied.borrow().cluster.members.get(&peer).and_then(|m| m.told.as_ref()).map(|told| told.instance);
        let hello =
            Hello { version: PROTOCOL_VERSION, cluster, from: identity.node_id, to: peer, to_instance, from_instance: identity.instance };

        let addresses = self.factory.resolver.resolve(host, *port).await.map_err(io)?;
        let mut stream = TcpStream::connect(addresses.as_slice()).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        write_json(&mut stream, &hello, MAX_FRAME).await.map_err(io)?;
        match read_json::<_, Welcome>(&mut stream, MAX_FRAME).await.map_err(io)? {
            Some(Welcome::Accepted) => {
                *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(stream)
            }
            Some(Welcome::Refused { why }) => {
                self.complain(&why);
                Err(CallError::Refused { peer, endpoint: self.endpoint.clone(), why })
            }
            None => Err(io(io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// A refusal needs a person, and a person needs to read it once.
    fn complain(&self, why: &str) {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() != Some(why) {
            tracing::warn!("node {} at {} refuses this node: {why}", self.target, self.endpoint);
            *last = Some(why.to_owned());
        }
    }

    async fn raft_call(&mut self, rpc: &Rpc, option: &RPCOption) -> Result<Reply, RPCError<TypeConfig>> {
        self.call(rpc, option.hard_ttl()).await.map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
    }
}

/// One request and its answer; the connection is given back only when it is through.
async fn exchange(mut stream: TcpStream, rpc: &Rpc) -> io::Result<(TcpStream, Reply)> {
    write_json(&mut stream, rpc, MAX_FRAME).await?;
    let reply = read_json(&mut stream, MAX_FRAME).await?.ok_or(io::ErrorKind::ConnectionReset)?;
    Ok((stream, reply))
}

fn unexpected(reply: &Reply) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(format!("an answer to another question: {reply:?}"))))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::Append(rpc), &option).await? {
            Reply::Append(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::Vote(rpc), &option).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::PreVote(rpc), &option).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<openraft::alias::CommittedLeaderIdOf<TypeConfig>, u64, Endpoint, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let rpc = Rpc::Snapshot { vote, meta: snapshot.meta, data: snapshot.snapshot };
        let ttl = option.hard_ttl();
        let reply = tokio::select! {
            reply = self.call(&rpc, ttl) => reply,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match reply {
            Ok(Reply::Snapshot(response)) => Ok(response),
            Ok(other) => {
                Err(StreamingError::Unreachable(Unreachable::new(&AnyError::error(format!("an answer to another question: {other:?}")))))
            }
            Err(e) => Err(StreamingError::Unreachable(Unreachable::new(&e))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<Result<(), TransferLeaderError<TypeConfig>>, RPCError<TypeConfig>> {
        match self.raft_call(&Rpc::Transfer(request), &option).await? {
            Reply::Transfer(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }
}
