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
/// Between two looks where nothing has changed, and after a step that failed.
const TICK: Duration = Duration::from_millis(100);

/// Drives for as long as it is polled.
pub async fn run(shared: Arc<Shared>) {
    let mut metrics = shared.raft.metrics();
    let mut applied = shared.applied.clone();
    loop {
        match shared.next_step() {
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
                    r = metrics.changed() => if r.is_err() { return },
                    () = tokio::time::sleep(TICK) => {}
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
        let raft = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return Step::Nothing;
            }
            core_membership(&metrics.membership_config)
        };
        let applied = self.applied.borrow();
        let me = self.settings.node_id;
        let caught_up = caught_up(&self.raft_facts(), me);
        next_step(&Facts { state: &applied.cluster, raft: &raft, me, caught_up: &caught_up })
    }

    async fn carry_out(&self, step: Step) -> Result<(), String> {
        let one = |id| BTreeSet::from([raft_id(id)]);
        let change =
            |members, retain| async move { self.raft.change_membership(members, retain).await.map(drop).map_err(|e| e.to_string()) };
        match step {
            Step::Nothing | Step::WaitFor(_) => Ok(()),
            Step::FinishJoint => change(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await,
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
