//! So that nobody waits for a lease that nobody holds. After a restart: the last run of this server
//! was the primary, and nothing of it lives; told to every voter until each has heard it. And
//! before, where the worker sees its postmaster die or end all processes: it closes the gate for
//! good, and tells whom it reaches while it still lives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::failover::lease::StartNumber;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NodeShared, PrimaryRun, lock};
use crate::transport::{FailoverEnd, Rpc, RpcReply};
use crate::types::raft_id;

const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// For so long the instance manager leaves alone what is left of a server
/// (`postgres/leftovers.rs`).
const RELEASE_TIMEOUT: Duration = Duration::from_millis(150);

/// Tells for as long as it is polled.
pub async fn run(shared: Arc<NodeShared>) {
    let Some(failover) = shared.failover.clone() else { return std::future::pending().await };
    loop {
        failover.ended.notified().await;
        let Some((epoch, start)) = failover.ended_run() else { continue };
        tracing::info!(
            "the last run of this primary has ended: its lease of epoch {epoch} is released"
        );
        let mut told = BTreeSet::new();
        while shared.applied.borrow().cluster.epoch() <= epoch
            && lock(&failover.voter).epoch() == epoch
        {
            shared.released(shared.settings.node_id, epoch, start);
            shared.send_release(epoch, start, &mut told).await;
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

impl super::Failover {
    /// The run before the present one, where it was the primary of an epoch that is not over.
    fn ended_run(&self) -> Option<(u64, StartNumber)> {
        *lock(&self.released_run)
    }

    /// Takes the primary term away, if there is one; nothing opens its gate again.
    fn closes_for_good(&self) -> Option<PrimaryRun> {
        let mut primary_run = lock(&self.primary_run);
        let ended_run = primary_run.take();
        if let Some(ended_run) = &ended_run {
            *lock(&self.resigned) = Some((ended_run.epoch, ended_run.start));
        }
        self.postgres.gate(None);
        ended_run
    }
}

impl NodeShared {
    /// The postmaster is dead or ends all processes, and no process of its server may show or
    /// acknowledge anything any more: what still lives goes by a closed gate.
    pub(in crate::node) async fn release_what_ends(&self) {
        let Some(failover) = &self.failover else { return };
        let Some(ended_run) = failover.closes_for_good() else { return };
        tracing::info!(
            "the server of this primary ends: its lease of epoch {} is released",
            ended_run.epoch
        );
        self.released(self.settings.node_id, ended_run.epoch, ended_run.start);
        let mut told = BTreeSet::new();
        let _ = timeout(
            RELEASE_TIMEOUT,
            self.send_release(ended_run.epoch, ended_run.start, &mut told),
        )
        .await;
    }

    async fn send_release(&self, epoch: u64, start: StartNumber, told: &mut BTreeSet<NodeId>) {
        let (voters, _) = self.voters_in_log();
        let mut calls = JoinSet::new();
        for (id, endpoint) in
            self.endpoints(&voters).into_iter().filter(|(id, _)| !told.contains(id))
        {
            let mut peer = self.peers.peer(raft_id(id), endpoint);
            calls.spawn(async move {
                (
                    id,
                    matches!(
                        peer.call(&Rpc::Release { epoch, start }, TIMEOUT).await,
                        Ok(RpcReply::Heard)
                    ),
                )
            });
        }
        while let Some(answer) = calls.join_next().await {
            if let Ok((id, true)) = answer {
                told.insert(id);
            }
        }
    }
}
