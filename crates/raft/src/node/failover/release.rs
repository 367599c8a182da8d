//! After a restart: the last run of this server was the primary, and nothing of it lives. Told to every voter until each has heard it, so that
//! nobody waits for a lease that nobody holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::lease::Start;
use tokio::task::JoinSet;

use super::{Shared, lock};
use crate::transport::{FailoverEnd, Reply, Rpc};
use crate::types::raft_id;

const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(200);

/// Tells for as long as it is polled.
pub async fn run(shared: Arc<Shared>) {
    let Some(failover) = shared.failover.clone() else { return std::future::pending().await };
    loop {
        failover.ended.notified().await;
        let Some((epoch, start)) = failover.ended_run() else { continue };
        tracing::info!("the last run of this primary has ended: its lease of epoch {epoch} is released");
        let mut told = BTreeSet::new();
        while shared.applied.borrow().cluster.epoch() <= epoch && lock(&failover.voter).epoch() == epoch {
            shared.released(shared.settings.node_id, epoch, start);
            shared.tell_release(epoch, start, &mut told).await;
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl super::Failover {
    /// The run before the present one, where it was the primary of an epoch that is not over.
    fn ended_run(&self) -> Option<(u64, Start)> {
        *lock(&self.released_run)
    }
}

impl Shared {
    async fn tell_release(&self, epoch: u64, start: Start, told: &mut BTreeSet<NodeId>) {
        let (voters, _) = self.voters_in_log();
        let mut calls = JoinSet::new();
        for (id, endpoint) in self.endpoints(&voters).into_iter().filter(|(id, _)| !told.contains(id)) {
            let mut peer = self.peers.peer(raft_id(id), endpoint);
            calls.spawn(async move { (id, matches!(peer.call(&Rpc::Release { epoch, start }, TIMEOUT).await, Ok(Reply::Heard))) });
        }
        while let Some(answer) = calls.join_next().await {
            if let Ok((id, true)) = answer {
                told.insert(id);
            }
        }
    }
}
