//! On the Raft leader: asks the voters about the primary, and carries out
//! `pgraft_core::failover::leader::next_step`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::failover::leader::{LeaderFacts, LeaderStep, next_step};
use pgraft_core::failover::{Phase, PrimaryTerm, Report, TermEndReason};
use pgraft_core::{Command, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Failover;
use crate::machine;
use crate::node::NodeShared;
use crate::node::compose::caught_up;
use crate::transport::{FailoverEnd, Peer, Rpc, RpcReply, VoterReply};
use crate::types::{LogCommand, raft_id};

/// While the primary has its lease. A majority that does not hear the primary is noticed even if the
/// leader does hear it.
const IDLE_POLL: Duration = Duration::from_millis(500);
/// While there is no primary.
const FAST_POLL: Duration = Duration::from_millis(15);
const TIMEOUT: Duration = Duration::from_secs(1);
/// A voter's answer counts for this long.
const MAX_REPLY_AGE: Duration = Duration::from_millis(300);
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// A primary that leads as well keeps the lead for this long before it hands it to a standby, so
/// that the loss of the primary is not the loss of the leader.
const KEEPS_LEAD: Duration = Duration::from_millis(500);
/// For the transfer of the lead to complete.
const TRANSFER_PAUSE: Duration = Duration::from_millis(200);
/// For a successor to lead, if this member ends.
const TRANSFER_TIMEOUT: Duration = Duration::from_millis(300);

/// The lead task of one member.
struct Lead {
    node: Arc<NodeShared>,
    failover: Arc<Failover>,
    idle: BTreeMap<NodeId, Peer>,
    requests: JoinSet<(NodeId, Peer, Option<VoterReply>)>,
    busy: BTreeSet<NodeId>,
    replies: BTreeMap<NodeId, (Instant, VoterReply)>,
    leads_since: Option<Instant>,
    next_round: Instant,
}

/// Leads for as long as it is polled.
pub async fn run(node: Arc<NodeShared>) {
    let Some(failover) = node.failover.clone() else { return std::future::pending().await };
    let mut applied = node.applied.clone();
    let mut metrics = node.raft.server_metrics();
    let mut lead = Lead {
        node,
        failover,
        idle: BTreeMap::new(),
        requests: JoinSet::new(),
        busy: BTreeSet::new(),
        replies: BTreeMap::new(),
        leads_since: None,
        next_round: Instant::now(),
    };
    loop {
        let leads = metrics.borrow_watched().state == ServerState::Leader;
        let recruiting = applied
            .borrow_and_update()
            .cluster
            .primary_term
            .as_ref()
            .is_some_and(|term| term.phase == Phase::Recruiting);
        let promise = lead.promise_left();
        let fast = recruiting || promise.is_zero();
        if fast {
            lead.next_round = lead.next_round.min(Instant::now() + FAST_POLL);
        }
        if leads {
            lead.step(fast).await;
        } else {
            lead.rest();
        }
        // No later than this member's own promise ends: the others' promises end then, too.
        let wakes = if leads && !fast {
            lead.next_round.min(Instant::now() + promise)
        } else {
            lead.next_round
        };
        let Lead { failover, requests, .. } = &mut lead;
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            Some(Ok((id, peer, reply))) = requests.join_next() => lead.take(id, peer, reply),
            () = failover.leader.asked() => lead.next_round = Instant::now(),
            changed = applied.changed() => if changed.is_err() { return },
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
                lead.next_round = Instant::now(); // another member may lead
            }
            () = tokio::time::sleep_until(wakes) => {}
        }
    }
}

impl Lead {
    async fn step(&mut self, fast: bool) {
        self.leads_since.get_or_insert_with(Instant::now);
        if Instant::now() >= self.next_round {
            self.next_round = Instant::now() + if fast { FAST_POLL } else { IDLE_POLL };
            self.ask_all();
        }
        self.decide().await;
        self.hand_over().await;
    }

    fn rest(&mut self) {
        (self.leads_since, self.next_round) = (None, Instant::now() + IDLE_POLL);
        self.failover.leader.clear();
        self.idle.clear();
        self.replies.clear();
    }

    /// For how long this member's promise to the primary still stands.
    fn promise_left(&self) -> Duration {
        let free_at = self.failover.voter.free_at();
        Duration::from_millis(free_at.0.saturating_sub(self.failover.postgres.now().0))
    }

    fn ask_all(&mut self) {
        let (voters, _) = self.node.voters_in_log();
        for (id, endpoint) in self.node.endpoints(&voters) {
            if self.busy.insert(id) {
                let peer = self
                    .idle
                    .remove(&id)
                    .unwrap_or_else(|| self.node.peers.peer(raft_id(id), endpoint));
                self.requests.spawn(ask(id, peer));
            }
        }
    }

    fn take(&mut self, id: NodeId, peer: Peer, reply: Option<VoterReply>) {
        self.busy.remove(&id);
        self.idle.insert(id, peer);
        self.replies.extend(reply.map(|reply| (id, (Instant::now(), reply))));
    }

    /// One step, by the latest answers.
    async fn decide(&mut self) {
        let me = self.node.settings.node_id;
        if let Some(own) = self.node.voter_reply() {
            self.replies.insert(me, (Instant::now(), own));
        }
        let applied = self.node.applied.borrow().clone();
        let Some(primary_term) = &applied.cluster.primary_term else { return };
        let free = self.free_voters(primary_term);
        let reports: BTreeMap<NodeId, Report> =
            self.replies.iter().filter_map(|(id, (_, reply))| Some((*id, reply.report?))).collect();
        self.failover.leader.set_reports(reports.clone());
        let (voters, index) = self.node.voters_in_log();
        let membership = &applied.membership;
        let steady_membership = membership.log_id().as_ref().map_or(0, |id| id.index) == index
            && membership.membership().get_joint_config().len() == 1;
        let switchover = self.failover.leader.preferred();
        let step = next_step(&LeaderFacts {
            me,
            primary_term,
            voters: &voters,
            electorate: &applied.cluster.electorate(),
            steady_membership,
            free: &free,
            reports: &reports,
            preferred: switchover
                .filter(|(epoch, _)| *epoch == primary_term.epoch)
                .map(|(_, id)| id),
        });
        let waits_for = match &step {
            LeaderStep::WaitFor(missing) => missing.any_of.clone(),
            _ => BTreeSet::new(),
        };
        self.failover.leader.set_waits_for(waits_for);
        match step {
            LeaderStep::Nothing | LeaderStep::WaitForVoter | LeaderStep::WaitFor(_) => {}
            LeaderStep::Recruit(epoch) => {
                let requested = switchover.is_some_and(|(of, _)| of == epoch);
                self.recruit(primary_term, epoch, requested).await;
            }
            LeaderStep::Appoint { epoch, primary } => {
                tracing::warn!(
                    "failover: appointing node {primary} primary of epoch {epoch} on timeline {}: it has the most WAL",
                    primary_term.next_timeline
                );
                self.write(Command::Appoint { epoch, primary }).await;
            }
        }
    }

    /// The latest answers that still count.
    fn fresh_replies(&self) -> impl Iterator<Item = (NodeId, &VoterReply)> {
        let fresh = self.replies.iter().filter(|(_, (at, _))| at.elapsed() <= MAX_REPLY_AGE);
        fresh.map(|(id, (_, reply))| (*id, reply))
    }

    fn free_voters(&self, primary_term: &PrimaryTerm) -> BTreeSet<NodeId> {
        let known = Some((primary_term.epoch, primary_term.timeline));
        self.fresh_replies()
            .filter(|(_, r)| r.free && r.epoch == primary_term.epoch && r.knows == known)
            .map(|(id, _)| id)
            .collect()
    }

    async fn recruit(&self, primary_term: &PrimaryTerm, epoch: u64, requested: bool) {
        let released =
            self.fresh_replies().any(|(_, r)| r.released && r.epoch == primary_term.epoch);
        let reason = if requested {
            TermEndReason::Switchover
        } else if released {
            TermEndReason::Released
        } else {
            TermEndReason::LeaseExpired
        };
        tracing::warn!(
            "failover: recruiting for epoch {epoch}: the term of the primary, node {}, has ended ({reason})",
            primary_term.primary
        );
        let at_ms = machine::wall_clock_us() / 1000;
        self.write(Command::Recruit { epoch, reason, at_ms }).await;
    }

    async fn write(&self, command: Command) {
        let kind = command.kind();
        let written = self.node.raft.client_write(LogCommand(command));
        match timeout(WRITE_TIMEOUT, written).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("failover: could not write {kind}: {error}"),
            Err(_) => tracing::warn!(
                "failover: {kind} was not committed within {}s",
                WRITE_TIMEOUT.as_secs()
            ),
        }
    }

    /// A primary that leads as well hands the lead to a standby.
    async fn hand_over(&self) {
        let node = &self.node;
        let (settled, quiet) = {
            let applied = node.applied.borrow();
            let term = applied.cluster.primary_term.as_ref();
            let me = node.settings.node_id;
            (
                term.is_some_and(|term| term.primary == me && term.is_settled()),
                applied.cluster.change_under_way().is_none(),
            )
        };
        let long_enough = self.leads_since.is_some_and(|since| since.elapsed() >= KEEPS_LEAD);
        if settled
            && long_enough
            && quiet
            && let Some(successor) = successor(node)
        {
            tracing::info!("this primary transfers the Raft lead to node {successor}");
            if let Err(error) = node.raft.trigger().transfer_leader(raft_id(successor)).await {
                tracing::warn!("could not transfer the Raft lead to node {successor}: {error}");
            }
            tokio::time::sleep(TRANSFER_PAUSE).await;
        }
    }
}

/// Asks one voter.
pub(super) async fn ask(id: NodeId, mut peer: Peer) -> (NodeId, Peer, Option<VoterReply>) {
    match peer.call(&Rpc::Ask, TIMEOUT).await {
        Ok(RpcReply::VoterReply(reply)) => (id, peer, Some(reply)),
        _ => (id, peer, None),
    }
}

/// A voter that has all of the leader's log.
fn successor(node: &NodeShared) -> Option<NodeId> {
    let me = node.settings.node_id;
    let (voters, _) = node.voters_in_log();
    caught_up(&node.raft_facts(), me).into_iter().find(|id| *id != me && voters.contains(id))
}

/// Transfers the lead before this member ends, so that the group need not elect a leader first.
pub async fn leave_the_lead(node: &NodeShared) {
    let mut metrics = node.raft.server_metrics();
    if metrics.borrow_watched().state != ServerState::Leader {
        return;
    }
    let Some(successor) = successor(node) else { return };
    tracing::info!("this member is shutting down; transferring the Raft lead to node {successor}");
    let transferred = async {
        node.raft.trigger().transfer_leader(raft_id(successor)).await.ok()?;
        while metrics.borrow_watched().state == ServerState::Leader {
            metrics.changed().await.ok()?;
        }
        Some(())
    };
    let _ = timeout(TRANSFER_TIMEOUT, transferred).await;
}
