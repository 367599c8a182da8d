//! As the primary: heartbeats to every member, and the gate's deadline after each voter's answer. A
//! member without a vote learns from them which WAL it may follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::lease::{BootTime, Heartbeat};
use pgraft_core::status::WalPosition;
use tokio::task::JoinSet;

use super::Failover;
use super::primary::PrimaryRun;
use crate::node::NodeShared;
use crate::transport::{FailoverEnd, Peer, Rpc, RpcReply};
use crate::types::raft_id;

/// Heartbeats in a lease time: several may be lost before the lease is.
const PER_LEASE: u32 = 8;
/// While the primary waits for its standbys.
const FAST_POLL: Duration = Duration::from_millis(15);

struct HeartbeatReply {
    from: NodeId,
    peer: Peer,
    sent: BootTime,
    epoch: u64,
    answer: Option<(Result<(), String>, Option<WalPosition>)>,
}

/// The heartbeats of one primary.
struct Heartbeats {
    node: Arc<NodeShared>,
    failover: Arc<Failover>,
    lease: Duration,
    idle: BTreeMap<NodeId, Peer>,
    requests: JoinSet<HeartbeatReply>,
    busy: BTreeSet<NodeId>,
    epoch: u64,
}

/// Sends heartbeats for as long as it is polled.
pub async fn run(node: Arc<NodeShared>) {
    let Some(failover) = node.failover.clone() else { return std::future::pending().await };
    let mut heartbeats = Heartbeats {
        lease: Duration::from_millis(failover.lease_ms),
        node,
        failover,
        idle: BTreeMap::new(),
        requests: JoinSet::new(),
        busy: BTreeSet::new(),
        epoch: 0,
    };
    loop {
        match heartbeats.failover.primary.run() {
            Some(run) => heartbeats.round(&run).await,
            None => heartbeats.wait_for_a_run().await,
        }
    }
}

impl Heartbeats {
    async fn wait_for_a_run(&mut self) {
        self.idle.clear();
        let Self { failover, requests, busy, .. } = self;
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            Some(Ok(reply)) = requests.join_next() => { busy.remove(&reply.from); }
            () = failover.primary.lease_task_is_wanted() => {}
        }
    }

    /// One heartbeat to every member that has answered the last one, and the answers until the next.
    async fn round(&mut self, run: &PrimaryRun) {
        if self.epoch != run.epoch {
            self.failover.primary.forget_replies();
            self.epoch = run.epoch;
        }
        let (voters, membership) = self.node.voters_in_log();
        let heartbeat = Heartbeat { epoch: run.epoch, start: run.start, membership };
        self.acknowledge_own(&heartbeat, run);
        self.send(heartbeat, run, &voters);
        self.extend();
        let pause = if run.unsettled { FAST_POLL } else { self.lease / PER_LEASE };
        let next = tokio::time::sleep(pause);
        tokio::pin!(next);
        loop {
            let Self { failover, requests, .. } = self;
            let reply = tokio::select! {
                biased; // in no random order: a simulation repeats itself
                Some(Ok(reply)) = requests.join_next() => reply,
                () = failover.primary.lease_task_is_wanted() => return,
                () = &mut next => return,
            };
            self.take(reply, run.unsettled);
        }
    }

    fn send(&mut self, heartbeat: Heartbeat, run: &PrimaryRun, voters: &BTreeSet<NodeId>) {
        let members = {
            let applied = self.node.applied.borrow();
            applied.cluster.members.keys().chain(voters).copied().collect()
        };
        let endpoints = self.node.endpoints(&members);
        self.idle.retain(|id, _| endpoints.contains_key(id));
        for (id, endpoint) in endpoints {
            if !self.busy.insert(id) {
                continue;
            }
            let mut peer = self
                .idle
                .remove(&id)
                .unwrap_or_else(|| self.node.peers.peer(raft_id(id), endpoint));
            let sent = self.failover.postgres.now();
            let lease_ms = self.failover.lease_ms;
            let rpc = Rpc::Lease { heartbeat, history: run.history.clone(), lease_ms };
            let ttl = self.lease / 2;
            self.requests.spawn(async move {
                let answer = match peer.call(&rpc, ttl).await {
                    Ok(RpcReply::Lease { carried, confirmed }) => Some((carried, confirmed)),
                    _ => None,
                };
                HeartbeatReply { from: id, peer, sent, epoch: heartbeat.epoch, answer }
            });
        }
    }

    fn take(&mut self, reply: HeartbeatReply, unsettled: bool) {
        let HeartbeatReply { from, peer, sent, epoch, answer } = reply;
        self.busy.remove(&from);
        self.idle.insert(from, peer);
        let Some((carried, confirmed)) = answer.filter(|_| epoch == self.epoch) else { return };
        match carried {
            Ok(()) => self.failover.primary.acknowledged(from, sent),
            Err(why) => tracing::debug!("node {from} did not acknowledge a heartbeat: {why}"),
        }
        self.failover.primary.confirmed(from, confirmed);
        self.extend();
        if unsettled {
            self.failover.poke();
        }
    }

    /// The primary is usually a voter, too.
    fn acknowledge_own(&self, heartbeat: &Heartbeat, run: &PrimaryRun) {
        let (me, sent) = (self.node.settings.node_id, self.failover.postgres.now());
        let lease_ms = self.failover.lease_ms;
        if self.node.hear(me, heartbeat, run.history.clone(), lease_ms).0.is_ok() {
            self.failover.primary.acknowledged(me, sent);
        }
    }

    fn extend(&self) {
        self.failover.primary.extend(&self.node.voters_in_log().0);
    }
}
