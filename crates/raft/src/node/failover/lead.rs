//! On the Raft leader: asks the voters about the primary, and carries out
//! `pgraft_core::failover::leader::next_step`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::failover::leader::{LeaderFacts, LeaderStep, next_step};
use pgraft_core::failover::{Phase, TermEndReason};
use pgraft_core::{Command, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Failover, NodeShared, lock};
use crate::machine;
use crate::node::compose::caught_up;
use crate::transport::{FailoverEnd, Peer, Rpc, RpcReply, VoterReply};
use crate::types::{LogCommand, raft_id};

/// While all is well. A majority that does not hear the primary is found so even where the leader
/// does hear it.
const IDLE_POLL: Duration = Duration::from_millis(500);
/// While a primary is looked for.
const FAST_POLL: Duration = Duration::from_millis(15);
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a voter said is "just now" for so long.
const MAX_REPLY_AGE: Duration = Duration::from_millis(300);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// For so long a primary that leads as well keeps the lead, before it hands it to a standby: a
/// primary that dies should not take the leader along.
const KEEPS_LEAD: Duration = Duration::from_millis(500);
/// For an successor to lead, where this member ends.
const HANDS_OVER: Duration = Duration::from_millis(300);

type VoterReplies = BTreeMap<NodeId, (Instant, VoterReply)>;

/// Leads for as long as it is polled.
pub async fn run(shared: Arc<NodeShared>) {
    let Some(failover) = shared.failover.clone() else { return std::future::pending().await };
    let mut idle: BTreeMap<NodeId, Peer> = BTreeMap::new();
    let mut requests: JoinSet<(NodeId, Peer, Option<VoterReply>)> = JoinSet::new();
    let mut busy: Vec<NodeId> = Vec::new();
    let mut voices = VoterReplies::new();
    let mut applied = shared.applied.clone();
    let mut metrics = shared.raft.server_metrics();
    let mut leads_since: Option<Instant> = None;
    let mut next_round = Instant::now();
    loop {
        let leads = metrics.borrow_watched().state == ServerState::Leader;
        let recruiting = applied
            .borrow_and_update()
            .cluster
            .primary_term
            .as_ref()
            .is_some_and(|r| r.phase == Phase::Recruiting);
        let patience = patience(&failover);
        let hurry = recruiting || patience.is_zero();
        if hurry {
            next_round = next_round.min(Instant::now() + FAST_POLL);
        }
        if leads {
            leads_since.get_or_insert_with(Instant::now);
            if Instant::now() >= next_round {
                next_round = Instant::now() + if hurry { FAST_POLL } else { IDLE_POLL };
                let (voters, _) = shared.voters_in_log();
                for (id, endpoint) in shared.endpoints(&voters) {
                    if busy.contains(&id) {
                        continue;
                    }
                    busy.push(id);
                    let peer = idle
                        .remove(&id)
                        .unwrap_or_else(|| shared.peers.peer(raft_id(id), endpoint));
                    requests.spawn(ask(id, peer));
                }
            }
            shared.decide(&failover, &mut voices).await;
            shared.hand_over(leads_since).await;
        } else {
            (leads_since, next_round) = (None, Instant::now() + IDLE_POLL);
            lock(&failover.reports).clear();
            idle.clear();
            voices.clear();
        }
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            Some(Ok((id, peer, answer))) = requests.join_next() => {
                busy.retain(|b| *b != id);
                idle.insert(id, peer);
                voices.extend(answer.map(|said| (id, (Instant::now(), said))));
            }
            () = failover.ask.notified() => next_round = Instant::now(),
            changed = applied.changed() => if changed.is_err() { return },
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
                next_round = Instant::now(); // who leads may be another one
            }
            // No later than this member's own promise ends: those of the others end then, too.
            () = tokio::time::sleep_until(if leads && !hurry { next_round.min(Instant::now() + patience) } else { next_round }) => {}
        }
    }
}

/// For how long this member still waits for the primary.
fn patience(failover: &Failover) -> Duration {
    let free_at = lock(&failover.voter).free_at();
    Duration::from_millis(free_at.0.saturating_sub(failover.postgres.now().0))
}

pub(super) async fn ask(id: NodeId, mut peer: Peer) -> (NodeId, Peer, Option<VoterReply>) {
    match peer.call(&Rpc::Ask, TIMEOUT).await {
        Ok(RpcReply::VoterReply(said)) => (id, peer, Some(said)),
        _ => (id, peer, None),
    }
}

impl NodeShared {
    /// One step, on what was said lately.
    async fn decide(&self, failover: &Failover, voices: &mut VoterReplies) {
        let me = self.settings.node_id;
        if let Some(own) = self.voter_reply() {
            voices.insert(me, (Instant::now(), own));
        }
        let applied = self.applied.borrow().clone();
        let Some(primary_term) = &applied.cluster.primary_term else { return };
        let fresh = || {
            voices
                .iter()
                .filter(|(_, (at, _))| at.elapsed() <= MAX_REPLY_AGE)
                .map(|(id, (_, said))| (*id, said))
        };
        let free: BTreeSet<NodeId> = fresh()
            .filter(|(_, s)| {
                s.free
                    && s.epoch == primary_term.epoch
                    && s.knows == Some((primary_term.epoch, primary_term.timeline))
            })
            .map(|(id, _)| id)
            .collect();
        let released = fresh().any(|(_, s)| s.released && s.epoch == primary_term.epoch);
        let reports: BTreeMap<_, _> =
            voices.iter().filter_map(|(id, (_, said))| Some((*id, said.report?))).collect();
        lock(&failover.reports).clone_from(&reports);
        let (voters, index) = self.voters_in_log();
        let steady_membership = applied.membership.log_id().as_ref().map_or(0, |id| id.index)
            == index
            && applied.membership.membership().get_joint_config().len() == 1;
        let asked_for = *lock(&failover.preferred);
        let preferred =
            asked_for.filter(|(epoch, _)| *epoch == primary_term.epoch).map(|(_, id)| id);
        let electorate = applied.cluster.electorate();
        let facts = LeaderFacts {
            me,
            primary_term,
            voters: &voters,
            electorate: &electorate,
            steady_membership,
            free: &free,
            reports: &reports,
            preferred,
        };
        let step = next_step(&facts);
        let command = match step {
            LeaderStep::Nothing | LeaderStep::WaitForVoter => return,
            LeaderStep::WaitFor(missing) => {
                lock(&failover.text).waits_for = missing.any_of;
                return;
            }
            LeaderStep::Recruit(epoch) => {
                let reason = if asked_for.is_some_and(|(e, _)| e == epoch) {
                    TermEndReason::Switchover
                } else if released {
                    TermEndReason::Released
                } else {
                    TermEndReason::LeaseExpired
                };
                tracing::warn!(
                    "the primary, node {}, is gone ({reason}): epoch {epoch} begins",
                    primary_term.primary
                );
                Command::Recruit { epoch, reason, at_ms: machine::wall_clock_us() / 1000 }
            }
            LeaderStep::Appoint { epoch, primary } => {
                tracing::warn!(
                    "node {primary} has the most and is the primary of epoch {epoch}, on timeline {}",
                    primary_term.next_timeline
                );
                Command::Appoint { epoch, primary }
            }
        };
        lock(&failover.text).waits_for.clear();
        match timeout(WRITE_TIMEOUT, self.raft.client_write(LogCommand(command))).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("failover: the step was not written: {error}"),
            Err(_) => tracing::warn!(
                "failover: the step is not committed in {} s",
                WRITE_TIMEOUT.as_secs()
            ),
        }
    }

    /// A primary that leads as well hands the lead to a standby.
    async fn hand_over(&self, leads_since: Option<Instant>) {
        let me = self.settings.node_id;
        let primary_term = self.applied.borrow().cluster.primary_term.clone();
        if !primary_term.is_some_and(|r| r.primary == me && r.is_settled())
            || leads_since.is_none_or(|since| since.elapsed() < KEEPS_LEAD)
        {
            return;
        }
        let quiet = self.applied.borrow().cluster.change_under_way().is_none();
        if quiet && let Some(successor) = self.successor() {
            tracing::info!("this primary hands the lead of the Raft group to node {successor}");
            let _ = self.raft.trigger().transfer_leader(raft_id(successor)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A voter that has all of the leader's log.
    fn successor(&self) -> Option<NodeId> {
        let me = self.settings.node_id;
        let (voters, _) = self.voters_in_log();
        caught_up(&self.raft_facts(), me).into_iter().find(|id| *id != me && voters.contains(id))
    }

    /// A leader that ends leaves nobody without one.
    pub(in crate::node) async fn leave_the_lead(&self) {
        let mut metrics = self.raft.server_metrics();
        if metrics.borrow_watched().state != ServerState::Leader {
            return;
        }
        let Some(successor) = self.successor() else { return };
        tracing::info!("the lead of the Raft group goes to node {successor}: this member ends");
        let handed = async {
            self.raft.trigger().transfer_leader(raft_id(successor)).await.ok()?;
            while metrics.borrow_watched().state == ServerState::Leader {
                metrics.changed().await.ok()?;
            }
            Some(())
        };
        let _ = timeout(HANDS_OVER, handed).await;
    }
}
