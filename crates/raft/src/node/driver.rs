//! On the leader: carries out `pgraft_core::membership::next_step`, one step at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, ServerState};
use pgraft_core::membership::{Facts, Step, next_step};
use tokio::time::timeout;

use super::Shared;
use super::compose::caught_up;
use crate::types::{Endpoint, core_membership, raft_id};

/// A step that takes longer is given up and decided anew: its entry stays in the log, and the next look finds it there or not.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// After a step that failed, and for the lead to go over.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at a newcomer that has not caught up: it mostly has within milliseconds, or not for a long time.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Drives for as long as it is polled.
pub async fn run(shared: Arc<Shared>) {
    let mut metrics = shared.raft.server_metrics();
    let mut applied = shared.applied.clone();
    let mut wait = SHORTEST_WAIT;
    loop {
        let step = shared.next_step();
        wait = if matches!(step, Step::WaitFor(_)) { (wait * 2).min(LONGEST_WAIT) } else { SHORTEST_WAIT };
        match step {
            Step::Nothing => {
                let open = tokio::select! {
                    r = metrics.changed() => r.is_ok(),
                    r = applied.changed() => r.is_ok(),
                };
                if !open {
                    return;
                }
            }
            Step::WaitFor(_) => {
                tokio::select! {
                    r = applied.changed() => if r.is_err() { return },
                    () = tokio::time::sleep(wait) => {}
                }
            }
            step => {
                tracing::info!("membership: {step:?}");
                match timeout(STEP_TIMEOUT, shared.carry_out(step)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => {
                        tracing::warn!("membership: {step:?} did not go through: {why}");
                        tokio::time::sleep(TICK).await;
                    }
                    Err(_) => tracing::warn!("membership: {step:?} took longer than {} s", STEP_TIMEOUT.as_secs()),
                }
            }
        }
    }
}

impl Shared {
    fn next_step(&self) -> Step {
        let in_force = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return Step::Nothing;
            }
            metrics.membership_config.clone()
        };
        let applied = self.applied.borrow().clone();
        let raft = core_membership(&in_force);
        let settled = in_force.log_id() == applied.membership.log_id();
        let me = self.settings.node_id;
        let caught_up = caught_up(&self.raft_facts(), me);
        next_step(&Facts { state: &applied.cluster, raft: &raft, me, settled, caught_up: &caught_up })
    }

    async fn carry_out(&self, step: Step) -> Result<(), String> {
        let one = |id| BTreeSet::from([raft_id(id)]);
        let change =
            |members, retain| async move { self.raft.change_membership(members, retain).await.map(drop).map_err(|e| e.to_string()) };
        match step {
            Step::Nothing | Step::WaitFor(_) => Ok(()),
            // The same membership once more: uniform where it was joint, and an entry that every member applies.
            Step::FinishJoint | Step::Confirm => change(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await,
            Step::AddLearner(id) => {
                let endpoint = self.applied.borrow().cluster.members.get(&id).map(|m| Endpoint::from(&m.address));
                let Some(endpoint) = endpoint else { return Ok(()) };
                self.raft.add_learner(raft_id(id), endpoint, false).await.map(drop).map_err(|e| e.to_string())
            }
            Step::Promote(id) => change(ChangeMembers::AddVoterIds(one(id)), true).await,
            Step::Transfer(id) => {
                self.raft.trigger().transfer_leader(raft_id(id)).await.map_err(|e| e.to_string())?;
                // Until the lead has gone over there is nothing else to do.
                tokio::time::sleep(TICK).await;
                Ok(())
            }
            Step::Drop(id) => {
                let voter = self.raft.metrics().borrow_watched().membership_config.voter_ids().any(|v| v == raft_id(id));
                let members = if voter { ChangeMembers::RemoveVoters(one(id)) } else { ChangeMembers::RemoveNodes(one(id)) };
                change(members, false).await
            }
        }
    }
}
