//! What of the failover protocol comes over the network.

use futures::future::BoxFuture;
use pgraft_core::failover::lease::{Heartbeat, HeartbeatContext, StartNumber};
use pgraft_core::failover::node::Intake;
use pgraft_core::failover::{History, Phase};
use pgraft_core::status::WalPosition;
use pgraft_core::{NodeId, Refusal};

use super::Switchover;
use crate::machine;
use crate::node::NodeShared;
use crate::transport::{FailoverEnd, VoterReply};

impl FailoverEnd for NodeShared {
    fn hear(
        &self,
        from: NodeId,
        heartbeat: &Heartbeat,
        history: History,
        lease_ms: u64,
    ) -> (Result<(), String>, Option<WalPosition>) {
        let Some(failover) = &self.failover else {
            return (Err("pgraft.failover is off on this node".into()), None);
        };
        let applied = self.applied.borrow().clone();
        let Some(primary_term) = &applied.cluster.primary_term else {
            return (Err("this node is in no cluster yet".into()), None);
        };
        // This answer is as old as the last observation. A primary that waits for it asks again
        // soon, and gets a fresh one.
        failover.postgres.refresh();
        let (voters, index) = self.voters_in_log();
        let context = HeartbeatContext {
            primary_term,
            votes_by: voters.contains(&self.settings.node_id).then_some(index),
            now: failover.postgres.now(),
            lease_ms: failover.lease_ms.max(lease_ms),
        };
        let carried =
            failover.voter.hear(heartbeat, context).map_err(|rejected| rejected.to_string());
        let present = heartbeat.epoch == primary_term.epoch
            && primary_term.phase == Phase::Steady
            && primary_term.primary == from;
        // A primary that is still being promoted has no history yet.
        let has_history = history.timeline == primary_term.timeline || !machine::gives_timelines();
        if present && has_history && failover.voter.note_history(heartbeat.epoch, history) {
            failover.poke();
        }
        let confirmed = failover.postgres.observed().filter(|server| {
            present
                && server.standby
                && server.consistent
                && server.intake == Intake::Open { from, timeline: primary_term.timeline }
        });
        (carried, confirmed.map(|server| server.end))
    }

    fn voter_reply(&self) -> Option<VoterReply> {
        let failover = self.failover.as_ref()?;
        let now = failover.postgres.now();
        let applied = self.applied.borrow().clone();
        let knows = failover.voter.learn(applied.cluster.primary_term.as_ref(), now);
        Some(failover.voter.reply(knows, now))
    }

    fn released(&self, from: NodeId, epoch: u64, start: StartNumber) {
        let Some(failover) = &self.failover else { return };
        // A member speaks for its own server only.
        if self.applied.borrow().cluster.primary() != Some(from) {
            return;
        }
        failover.voter.release(epoch, start);
        failover.leader.ask();
        failover.poke();
    }

    fn switchover(&self, target: NodeId) -> BoxFuture<'_, Result<Option<String>, Refusal>> {
        Box::pin(async move { Switchover::of(self)?.run(i64::from(target.get())).await })
    }

    fn give_up(&self, epoch: u64, target: NodeId) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move { Switchover::of(self)?.step_down(epoch, target).await })
    }
}
