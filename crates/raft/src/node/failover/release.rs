//! Releases the lease of a run that has ended, so that no voter waits for it. After a restart, every
//! voter is told that the last run of this server was the primary and has ended. If the worker sees
//! its postmaster die or end all processes, it closes the gate for good and tells the voters that it
//! reaches in time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::lease::StartNumber;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::node::NodeShared;
use crate::transport::{FailoverEnd, Rpc, RpcReply};
use crate::types::raft_id;

const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The instance manager leaves the processes of an ended server alone for this long
/// (`postgres/leftovers.rs`).
const RELEASE_TIMEOUT: Duration = Duration::from_millis(150);

/// Releases for as long as it is polled.
pub async fn run(node: Arc<NodeShared>) {
    let Some(failover) = node.failover.clone() else { return std::future::pending().await };
    let mut ended = failover.primary.ended();
    loop {
        let run = *ended.borrow_and_update();
        if let Some((epoch, start)) = run {
            tracing::info!(
                "failover: this node's last run as the primary has ended; releasing its lease of epoch {epoch}"
            );
            let mut told = BTreeSet::new();
            while node.applied.borrow().cluster.epoch() <= epoch && failover.voter.epoch() == epoch
            {
                node.released(node.settings.node_id, epoch, start);
                send(&node, epoch, start, &mut told).await;
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
        if ended.changed().await.is_err() {
            return;
        }
    }
}

/// The postmaster is dead, or ends all processes: none of them may show or acknowledge anything
/// from now on, since the gate stays closed.
pub async fn release_what_ends(node: &NodeShared) {
    let Some(failover) = &node.failover else { return };
    let Some((epoch, start)) = failover.primary.close_for_good() else { return };
    tracing::info!(
        "failover: this primary's server is ending; releasing its lease of epoch {epoch}"
    );
    node.released(node.settings.node_id, epoch, start);
    let _ = timeout(RELEASE_TIMEOUT, send(node, epoch, start, &mut BTreeSet::new())).await;
}

/// Tells every voter that is not in `told`.
async fn send(node: &NodeShared, epoch: u64, start: StartNumber, told: &mut BTreeSet<NodeId>) {
    let (voters, _) = node.voters_in_log();
    let mut calls = JoinSet::new();
    for (id, endpoint) in node.endpoints(&voters).into_iter().filter(|(id, _)| !told.contains(id)) {
        let mut peer = node.peers.peer(raft_id(id), endpoint);
        calls.spawn(async move {
            let answer = peer.call(&Rpc::Release { epoch, start }, TIMEOUT).await;
            (id, matches!(answer, Ok(RpcReply::Heard)))
        });
    }
    while let Some(answer) = calls.join_next().await {
        if let Ok((id, true)) = answer {
            told.insert(id);
        }
    }
}
