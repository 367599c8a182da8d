//! On the leader: asks every member twice a second whether it is there and how far its WAL is. For
//! people to look at; nothing depends on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::NodeId;
use pgraft_core::status::WalProgress;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::NodeShared;
use super::compose::ProbeFacts;
use crate::transport::{Peer, Rpc, RpcReply};
use crate::types::{Endpoint, raft_id};

const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(1);

/// The last answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probes(BTreeMap<NodeId, (Instant, Option<WalProgress>)>);

impl Probes {
    /// The answers with their ages.
    pub fn facts(&self) -> BTreeMap<NodeId, ProbeFacts> {
        let facts = |(at, wal): &(Instant, Option<WalProgress>)| ProbeFacts {
            age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
            wal: *wal,
        };
        self.0.iter().map(|(id, answer)| (*id, facts(answer))).collect()
    }
}

/// Probes for as long as it is polled.
pub async fn run(shared: Arc<NodeShared>) {
    let mut idle: BTreeMap<NodeId, Peer> = BTreeMap::new();
    let mut asked: JoinSet<(NodeId, Peer, Option<Option<WalProgress>>)> = JoinSet::new();
    let mut busy: Vec<NodeId> = Vec::new();
    let mut applied = shared.applied.clone();
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            _ = tick.tick() => {}
            changed = applied.changed() => if changed.is_err() { return },
            Some(Ok((id, peer, answer))) = asked.join_next() => {
                busy.retain(|b| *b != id);
                idle.insert(id, peer);
                if let Some(wal) = answer {
                    shared.probes.send_modify(|p| { p.0.insert(id, (Instant::now(), wal)); });
                }
                continue; // asked again with the next tick
            }
        }
        if shared.raft.metrics().borrow_watched().state != ServerState::Leader {
            idle.clear();
            continue;
        }
        let members = others(&shared);
        idle.retain(|id, _| members.contains_key(id));
        shared.probes.send_if_modified(|p| {
            let before = p.0.len();
            p.0.retain(|id, _| members.contains_key(id));
            p.0.len() != before
        });
        for (id, endpoint) in members {
            if busy.contains(&id) {
                continue;
            }
            busy.push(id);
            let mut peer =
                idle.remove(&id).unwrap_or_else(|| shared.peers.peer(raft_id(id), endpoint));
            asked.spawn(async move {
                let answer = match peer.call(&Rpc::Probe, TIMEOUT).await {
                    Ok(RpcReply::Probe { wal, replayed }) => {
                        Some(wal.map(|end| WalProgress { end, replayed }))
                    }
                    _ => None,
                };
                (id, peer, answer)
            });
        }
    }
}

/// Every member but this one.
fn others(node: &NodeShared) -> BTreeMap<NodeId, Endpoint> {
    let applied = node.applied.borrow();
    applied
        .cluster
        .members
        .iter()
        .filter(|(id, _)| **id != node.settings.node_id)
        .map(|(id, m)| (*id, Endpoint::from(&m.address)))
        .collect()
}
