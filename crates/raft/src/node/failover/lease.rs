//! As the primary: heartbeats to every member, and the gate's deadline after each voter's answer.
//! Who has no vote hears by them which WAL it may follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::lease::{BootTime, Heartbeat, lease_until};
use pgraft_core::status::WalPosition;
use tokio::task::JoinSet;

use super::{Failover, HeartbeatReplies, NodeShared, PrimaryRun, lock};
use crate::transport::{FailoverEnd, Peer, Rpc, RpcReply};
use crate::types::raft_id;

/// Heartbeats in a lease time: several may be lost before the lease is.
const PER_LEASE: u32 = 8;
/// While the standbys' word is waited for.
const FAST_POLL: Duration = Duration::from_millis(15);

type HeartbeatReply =
    (NodeId, Peer, BootTime, u64, Option<(Result<(), String>, Option<WalPosition>)>);

/// Sends for as long as it is polled.
pub async fn run(shared: Arc<NodeShared>) {
    let Some(failover) = shared.failover.clone() else { return std::future::pending().await };
    let lease = Duration::from_millis(failover.lease_ms);
    let mut idle: BTreeMap<NodeId, Peer> = BTreeMap::new();
    let mut requests: JoinSet<HeartbeatReply> = JoinSet::new();
    let mut busy: Vec<NodeId> = Vec::new();
    let mut epoch = 0;
    loop {
        let primary_run = lock(&failover.primary_run).clone();
        let Some(primary_run) = primary_run else {
            idle.clear();
            tokio::select! {
                biased; // in no random order: a simulation repeats itself
                Some(Ok((id, ..))) = requests.join_next() => busy.retain(|b| *b != id),
                () = failover.primary_began.notified() => {}
            }
            continue;
        };
        if epoch != primary_run.epoch {
            *lock(&failover.answers) = HeartbeatReplies::default();
            epoch = primary_run.epoch;
        }
        let (voters, membership) = shared.voters_in_log();
        let heartbeat = Heartbeat { epoch, start: primary_run.start, membership };
        shared.acknowledge_own(&failover, &heartbeat, &primary_run);
        let members = shared
            .applied
            .borrow()
            .cluster
            .members
            .keys()
            .copied()
            .chain(voters.iter().copied())
            .collect();
        let endpoints = shared.endpoints(&members);
        idle.retain(|id, _| endpoints.contains_key(id));
        for (id, endpoint) in endpoints {
            if busy.contains(&id) {
                continue;
            }
            busy.push(id);
            let mut peer =
                idle.remove(&id).unwrap_or_else(|| shared.peers.peer(raft_id(id), endpoint));
            let (sent, rpc) = (
                failover.postgres.now(),
                Rpc::Lease {
                    heartbeat,
                    history: primary_run.history.clone(),
                    lease_ms: failover.lease_ms,
                },
            );
            let ttl = lease / 2;
            requests.spawn(async move {
                let answer = match peer.call(&rpc, ttl).await {
                    Ok(RpcReply::Lease { carried, confirmed }) => Some((carried, confirmed)),
                    _ => None,
                };
                (id, peer, sent, heartbeat.epoch, answer)
            });
        }
        extend(&shared, &failover);
        let pause = if primary_run.unsettled { FAST_POLL } else { lease / PER_LEASE };
        let next = tokio::time::sleep(pause);
        tokio::pin!(next);
        loop {
            tokio::select! {
                biased; // in no random order: a simulation repeats itself
                Some(Ok((id, peer, sent, of, answer))) = requests.join_next() => {
                    busy.retain(|b| *b != id);
                    idle.insert(id, peer);
                    if let Some(answer) = answer.filter(|_| of == epoch) {
                        took(&failover, id, sent, answer);
                        extend(&shared, &failover);
                        if primary_run.unsettled {
                            failover.poke();
                        }
                    }
                }
                () = failover.fast_polling.notified() => break,
                () = &mut next => break,
            }
        }
    }
}

fn took(
    failover: &Failover,
    from: NodeId,
    sent: BootTime,
    (carried, confirmed): (Result<(), String>, Option<WalPosition>),
) {
    let mut answers = lock(&failover.answers);
    match carried {
        Ok(()) => {
            let at = answers.acks.entry(from).or_default();
            *at = (*at).max(sent);
        }
        Err(why) => tracing::debug!("node {from} does not carry the lease: {why}"),
    }
    match confirmed {
        Some(end) => answers.confirmed.insert(from, end),
        None => answers.confirmed.remove(&from),
    };
}

/// Moves the gate's deadline to where the lease ends now.
pub(super) fn extend(shared: &NodeShared, failover: &Failover) {
    let (voters, _) = shared.voters_in_log();
    // Held until the gate is moved: who closes it for good takes the primary term away first.
    let primary_run = lock(&failover.primary_run);
    if !primary_run.as_ref().is_some_and(|r| r.open) {
        return;
    }
    if let Some(until) = lease_until(&lock(&failover.answers).acks, &voters, failover.lease_ms) {
        failover.postgres.gate(Some(until));
    }
}

impl NodeShared {
    /// The primary is a voter, too, as a rule.
    fn acknowledge_own(
        &self,
        failover: &Failover,
        heartbeat: &Heartbeat,
        primary_run: &PrimaryRun,
    ) {
        let sent = failover.postgres.now();
        let (carried, _) = self.hear(
            self.settings.node_id,
            heartbeat,
            primary_run.history.clone(),
            failover.lease_ms,
        );
        if carried.is_ok() {
            lock(&failover.answers).acks.insert(self.settings.node_id, sent);
        }
    }
}
