//! On the leader: carries out `pgraft_core::membership::next_step`, one step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, ServerState};
use pgraft_core::membership::{MembershipFacts, MembershipStep, next_step};
use pgraft_core::{Command, NodeId, Role};
use tokio::time::{Instant, timeout};

use super::NodeShared;
use super::compose::caught_up;
use crate::types::{Endpoint, LogCommand, core_membership, raft_id};

/// A step that takes longer is given up and decided anew: its entry stays in the log, and the next
/// look finds it there or not.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// After a step that failed, and for the lead to go over.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at a newcomer that has not caught up: it mostly has within milliseconds, or
/// not for a long time.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const MAX_WAIT: Duration = Duration::from_millis(500);

/// The driver of one member.
struct MembershipDriver {
    node: Arc<NodeShared>,
    unheard: Unheard,
    voters: Voters,
}

/// Drives for as long as it is polled.
pub async fn run(shared: Arc<NodeShared>) {
    let mut metrics = shared.raft.server_metrics();
    let mut applied = shared.applied.clone();
    let mut wait = SHORTEST_WAIT;
    let mut driver = MembershipDriver {
        node: shared,
        unheard: Unheard::default(),
        voters: Voters { committed: None, since: Instant::now() },
    };
    loop {
        driver.unheard.observe(&driver.node);
        driver.voters.observe(&driver.node);
        let step = driver.next_step();
        wait = if matches!(step, MembershipStep::WaitFor(_)) {
            (wait * 2).min(MAX_WAIT)
        } else {
            SHORTEST_WAIT
        };
        match step {
            MembershipStep::Nothing => {
                let open = tokio::select! {
                    biased; // in no random order: a simulation repeats itself
                    r = metrics.changed() => r.is_ok(),
                    r = applied.changed() => r.is_ok(),
                };
                if !open {
                    return;
                }
            }
            MembershipStep::WaitFor(_) => {
                tokio::select! {
                    biased; // in no random order: a simulation repeats itself
                    r = applied.changed() => if r.is_err() { return },
                    () = tokio::time::sleep(wait) => {}
                }
            }
            step @ (MembershipStep::Promote(_) | MembershipStep::Drop(_))
                if !driver.voters.are_quiet(&driver.node) =>
            {
                tracing::debug!(
                    "membership: waiting for the previous voters' lease before {}",
                    text(step)
                );
                tokio::time::sleep(TICK).await;
            }
            step => {
                tracing::info!("membership: {}", text(step));
                match timeout(STEP_TIMEOUT, driver.carry_out(step)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => {
                        tracing::warn!("membership: {} failed: {why}", text(step));
                        tokio::time::sleep(TICK).await;
                    }
                    Err(_) => tracing::warn!(
                        "membership: {} took longer than {}s",
                        text(step),
                        STEP_TIMEOUT.as_secs()
                    ),
                }
            }
        }
    }
}

fn text(step: MembershipStep) -> String {
    match step {
        MembershipStep::Nothing => "nothing".into(),
        MembershipStep::FinishJoint => "leaving the joint configuration".into(),
        MembershipStep::Move(id) => format!("changing the address of node {id}"),
        MembershipStep::AddLearner(id) => format!("adding learner {id}"),
        MembershipStep::WaitFor(id) => format!("waiting for node {id} to catch up"),
        MembershipStep::Promote(id) => format!("making node {id} a voter"),
        MembershipStep::GiveUp(id) => format!("removing node {id}, which did not join in time"),
        MembershipStep::Transfer(id) => format!("transferring the lead to node {id}"),
        MembershipStep::Drop(id) => format!("removing node {id}"),
        MembershipStep::Confirm => "confirming the membership".into(),
    }
}

/// Since when this member knows of each newcomer that has told nothing yet. Kept by followers too:
/// a new leader goes on counting, and only a restart begins anew, which gives a newcomer more time
/// and never less.
#[derive(Default)]
struct Unheard(BTreeMap<NodeId, Instant>);

impl Unheard {
    fn observe(&mut self, shared: &NodeShared) {
        let applied = shared.applied.borrow();
        let is_unheard = |id: &NodeId| {
            applied
                .cluster
                .members
                .get(id)
                .is_some_and(|m| m.role == Role::Learner && m.info.is_none())
        };
        self.0.retain(|id, _| is_unheard(id));
        for id in applied.cluster.members.keys().filter(|id| is_unheard(id)) {
            self.0.entry(*id).or_insert_with(Instant::now);
        }
    }
}

/// Since when the same nodes vote, by committed entries: two changes within a lease time could
/// leave two leases carried by majorities that share nobody. Until a change is committed a majority
/// may go by the voters before it, and promise by them.
struct Voters {
    /// None while another set is in the log.
    committed: Option<BTreeSet<u64>>,
    since: Instant,
}

impl Voters {
    fn observe(&mut self, shared: &NodeShared) {
        let in_log: BTreeSet<u64> =
            shared.raft.server_metrics().borrow_watched().membership_config.voter_ids().collect();
        let committed = shared
            .applied
            .borrow()
            .membership
            .voter_ids()
            .eq(in_log.iter().copied())
            .then_some(in_log);
        if self.committed.is_none() || self.committed != committed {
            (self.committed, self.since) = (committed, Instant::now());
        }
    }

    fn are_quiet(&self, shared: &NodeShared) -> bool {
        shared.settings.lease_timeout.is_none_or(|lease| self.since.elapsed() >= lease)
    }
}

impl MembershipDriver {
    fn next_step(&self) -> MembershipStep {
        let in_force = {
            let metrics = self.node.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return MembershipStep::Nothing;
            }
            metrics.membership_config.clone()
        };
        let applied = self.node.applied.borrow().clone();
        let raft = core_membership(&in_force);
        let settled = in_force.log_id() == applied.membership.log_id();
        let me = self.node.settings.node_id;
        let caught_up = caught_up(&self.node.raft_facts(), me);
        let unheard = self.unheard.0.iter().map(|(id, since)| (*id, since.elapsed())).collect();
        let join_timeout = self.node.settings.join_timeout;
        next_step(&MembershipFacts {
            state: &applied.cluster,
            raft: &raft,
            me,
            settled,
            caught_up: &caught_up,
            unheard: &unheard,
            join_timeout,
        })
    }

    async fn carry_out(&self, step: MembershipStep) -> Result<(), String> {
        let one = |id| BTreeSet::from([raft_id(id)]);
        let change = |members, retain| async move {
            self.node
                .raft
                .change_membership(members, retain)
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        };
        match step {
            MembershipStep::Nothing | MembershipStep::WaitFor(_) => Ok(()),
            // The same membership once more: uniform where it was joint, and an entry that every
            // member applies.
            MembershipStep::FinishJoint | MembershipStep::Confirm => {
                change(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await
            }
            MembershipStep::AddLearner(id) => {
                let endpoint = self
                    .node
                    .applied
                    .borrow()
                    .cluster
                    .members
                    .get(&id)
                    .map(|m| Endpoint::from(&m.address));
                let Some(endpoint) = endpoint else { return Ok(()) };
                self.node
                    .raft
                    .add_learner(raft_id(id), endpoint, false)
                    .await
                    .map(drop)
                    .map_err(|e| e.to_string())
            }
            MembershipStep::Move(id) => {
                let endpoint = self
                    .node
                    .applied
                    .borrow()
                    .cluster
                    .members
                    .get(&id)
                    .map(|m| Endpoint::from(&m.address));
                let Some(endpoint) = endpoint else { return Ok(()) };
                change(ChangeMembers::SetNodes(BTreeMap::from([(raft_id(id), endpoint)])), true)
                    .await
            }
            MembershipStep::GiveUp(id) => {
                let at = self
                    .node
                    .applied
                    .borrow()
                    .cluster
                    .members
                    .get(&id)
                    .map(|m| m.address.to_string())
                    .unwrap_or_default();
                let seconds = self.node.settings.join_timeout.unwrap_or_default().as_secs();
                tracing::warn!(
                    "node {id} at {at} has not come within pgraft.join_timeout ({seconds} s): it is taken out again"
                );
                self.node
                    .raft
                    .client_write(LogCommand(Command::JoinExpired { node: id }))
                    .await
                    .map(drop)
                    .map_err(|e| e.to_string())
            }
            MembershipStep::Promote(id) => {
                change(ChangeMembers::AddVoterIds(promoted(&self.node, id)), true).await
            }
            MembershipStep::Transfer(id) => {
                self.node
                    .raft
                    .trigger()
                    .transfer_leader(raft_id(id))
                    .await
                    .map_err(|e| e.to_string())?;
                // Until the lead has gone over there is nothing else to do.
                tokio::time::sleep(TICK).await;
                Ok(())
            }
            MembershipStep::Drop(id) => {
                let voter = self
                    .node
                    .raft
                    .metrics()
                    .borrow_watched()
                    .membership_config
                    .voter_ids()
                    .any(|v| v == raft_id(id));
                let members = if voter {
                    ChangeMembers::RemoveVoters(one(id))
                } else {
                    ChangeMembers::RemoveNodes(one(id))
                };
                change(members, false).await
            }
        }
    }
}

/// Who gets a vote with this step: one, unless a simulation has taken that rule out.
#[cfg(not(feature = "sim"))]
fn promoted(_: &NodeShared, id: NodeId) -> BTreeSet<u64> {
    BTreeSet::from([raft_id(id)])
}

#[cfg(feature = "sim")]
fn promoted(shared: &NodeShared, id: NodeId) -> BTreeSet<u64> {
    let all = crate::sim::here(|machine| machine.rules()).is_some_and(|rules| !rules.one_change);
    let in_force = shared.raft.metrics().borrow_watched().membership_config.clone();
    in_force.membership().learner_ids().filter(|_| all).chain([raft_id(id)]).collect()
}
