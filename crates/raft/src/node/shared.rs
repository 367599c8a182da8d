//! What the tasks of one member share, and what more than one of them needs of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::status::WalProgress;
use pgraft_core::{Command, NodeId, NodeStatus};
use tokio::sync::{Mutex, Notify};

use super::compose::{RaftFacts, compose, raft_facts};
use super::failover::Failover;
use super::probe::Probes;
use crate::machine::watch;
use crate::settings::RaftSettings;
use crate::store::{AppliedState, LogStore};
use crate::transport::{LeaderContact, Local, PeerFactory, Rpc, RpcReply};
use crate::types::{Endpoint, LogCommand, Raft, node_id, raft_id};

/// For the leader's answer, and for the leader to commit.
const TIMEOUT: Duration = Duration::from_secs(2);

/// One member, as its tasks see it.
pub struct NodeShared {
    pub(super) settings: RaftSettings,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) local: Arc<Local>,
    pub(super) peers: PeerFactory,
    pub(super) applied: watch::Receiver<Arc<AppliedState>>,
    pub(super) probes: watch::Sender<Probes>,
    pub(super) status: watch::Sender<Arc<NodeStatus>>,
    pub(super) contact: Arc<LeaderContact>,
    pub(super) failover: Option<Arc<Failover>>,
    /// Held by `pgraft_init()`.
    pub(super) bootstrapping: Mutex<()>,
    /// Has the TLS files read again.
    pub(super) reload: Arc<Notify>,
}

impl NodeShared {
    /// The voters of the last membership in the log, and its index.
    pub(super) fn voters_in_log(&self) -> (BTreeSet<NodeId>, u64) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        (
            membership.voter_ids().filter_map(node_id).collect(),
            membership.log_id().as_ref().map_or(0, |id| id.index),
        )
    }

    /// The Raft addresses of these nodes, without this one's.
    pub(super) fn endpoints(&self, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Endpoint> {
        let applied = self.applied.borrow();
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let of = |id: &NodeId| {
            let registered = applied.cluster.members.get(id).map(|m| Endpoint::from(&m.address));
            let membership = metrics.membership_config.membership();
            registered.or_else(|| membership.get_node(&raft_id(*id)).cloned())
        };
        nodes
            .iter()
            .filter(|id| **id != self.settings.node_id)
            .filter_map(|id| Some((*id, of(id)?)))
            .collect()
    }

    /// The address of a node in the applied membership.
    pub(super) fn raft_endpoint(&self, node: u64) -> Option<Endpoint> {
        self.applied.borrow().membership.membership().get_node(&node).cloned()
    }

    /// What this member knows right now.
    pub(super) fn compose(&self, own_wal: Option<WalProgress>) -> NodeStatus {
        let facts = self.raft_facts();
        let applied = self.applied.borrow().clone();
        let probes = self.probes.borrow().facts();
        let mut status = compose(
            self.settings.node_id,
            self.local.identity().cluster_id(),
            &facts,
            &applied,
            &probes,
            own_wal,
        );
        let state = &applied.cluster;
        status.failover = self.failover.as_ref().map(|f| {
            f.status(state.primary_term.as_ref(), state.last_failover.clone(), &state.electorate())
        });
        status
    }

    /// Raft's side of it.
    pub(super) fn raft_facts(&self) -> RaftFacts {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        raft_facts(
            &self.raft.metrics().borrow_watched(),
            self.contact.age().map(ms),
            ms(self.settings.election_timeout),
        )
    }

    /// Has the leader write the command; done when it is committed.
    pub(super) async fn propose(&self, command: Command) -> Result<(), String> {
        let leader = self.raft.current_leader().await.ok_or("there is no leader")?;
        if node_id(leader) == Some(self.settings.node_id) {
            let written =
                tokio::time::timeout(TIMEOUT, self.raft.client_write(LogCommand(command))).await;
            return written
                .map_err(|_| "not committed in time".to_owned())?
                .map(drop)
                .map_err(|e| e.to_string());
        }
        match self.ask_leader(leader, &Rpc::Propose(command)).await? {
            RpcReply::Proposed(_) => Ok(()),
            other => {
                tracing::debug!("unexpected answer to a proposal: {other:?}");
                Err("the leader did not commit it".into())
            }
        }
    }

    /// Has applied everything that was committed before this call; false where the leader does not
    /// say so in time.
    pub(super) async fn wait_for_read_index(&self) -> bool {
        let index = async {
            let leader = self.raft.current_leader().await?;
            if node_id(leader) == Some(self.settings.node_id) {
                let reader = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
                return reader.await_ready(&self.raft).await.ok().map(|_| 0);
            }
            match self.ask_leader(leader, &Rpc::Read).await {
                Ok(RpcReply::Read { index }) => Some(index),
                _ => None,
            }
        };
        let Ok(Some(index)) = tokio::time::timeout(TIMEOUT, index).await else { return false };
        let mut applied = self.applied.clone();
        let there = applied.wait_for(|now| now.last_applied.is_some_and(|id| id.index >= index));
        tokio::time::timeout(TIMEOUT, there).await.is_ok_and(|r| r.is_ok())
    }

    async fn ask_leader(&self, leader: u64, rpc: &Rpc) -> Result<RpcReply, String> {
        let endpoint = self.raft_endpoint(leader).ok_or("the leader's address is not known yet")?;
        self.peers.peer(leader, endpoint).call(rpc, TIMEOUT).await.map_err(|e| e.to_string())
    }
}
