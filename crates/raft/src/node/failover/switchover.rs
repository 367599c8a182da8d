//! A requested change of the primary. The primary closes its gate for good, waits until the target
//! has all of its WAL, and releases its lease; from there on it is a failover in which the target is
//! preferred.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgraft_core::failover::PrimaryTerm;
use pgraft_core::failover::lease::StartNumber;
use pgraft_core::failover::switchover::{is_at_once, may_switch};
use pgraft_core::status::WalPosition;
use pgraft_core::{NodeId, Outcome, Refusal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::Failover;
use super::lead::ask;
use crate::node::NodeShared;
use crate::node::compose::caught_up;
use crate::transport::{FailoverEnd, Peer, Rpc, RpcReply, VoterReply};
use crate::types::{Endpoint, node_id, raft_id};

/// For the change, from the request to the new primary.
const DEADLINE: Duration = Duration::from_secs(10);
/// For the leader's answer to come back.
const NETWORK_DELAY: Duration = Duration::from_secs(1);
/// For the target to confirm the primary's last WAL: commits are refused for this long at most.
const CATCH_UP: Duration = Duration::from_secs(1);
/// For commits that have passed the gate.
const IN_FLIGHT: Duration = Duration::from_millis(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// For voters that have just started: a lease, but no more than this.
const MAX_START_WAIT: Duration = Duration::from_secs(3);
/// Between two questions to the voters.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Changes the primary on request.
pub struct Switchover<'a> {
    node: &'a NodeShared,
    failover: &'a Failover,
}

impl<'a> Switchover<'a> {
    /// On this member.
    ///
    /// # Errors
    /// Failover is off.
    pub fn of(node: &'a NodeShared) -> Result<Self, Refusal> {
        let failover = node.failover.as_deref().ok_or(Refusal::FailoverIsOff)?;
        Ok(Self { node, failover })
    }

    /// Makes the target the primary. Any member can be asked; the leader does it.
    ///
    /// # Errors
    /// Why it cannot be done, or not now.
    pub async fn run(&self, target: i64) -> Result<Option<String>, Refusal> {
        let target = NodeId::new(target).map_err(Refusal::from)?;
        let node = self.node;
        if node.applied.borrow().cluster.cluster.is_none() {
            return Err(Refusal::NotInitialized);
        }
        if node.raft.is_leader() {
            return self.lead(target).await;
        }
        let unknown = || Refusal::NoQuorum { seconds: DEADLINE.as_secs() };
        let leader = node
            .raft
            .current_leader()
            .await
            .filter(|leader| node_id(*leader) != Some(node.settings.node_id))
            .ok_or_else(unknown)?;
        let endpoint = node.raft_endpoint(leader).ok_or_else(unknown)?;
        let mut peer = node.peers.peer(leader, endpoint);
        match peer.call(&Rpc::Switchover { target }, DEADLINE + NETWORK_DELAY).await {
            Ok(RpcReply::Switchover(answer)) => answer,
            Ok(_) => Err(unknown()),
            Err(error) => Err(Refusal::Stopped(error.to_string())),
        }
    }

    /// As the primary: has the most advanced standby that answers take over.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn to_most_advanced(&self) -> Result<Option<String>, Refusal> {
        if self.node.applied.borrow().cluster.primary() != Some(self.node.settings.node_id) {
            return Ok(Some("this node is not the primary".into()));
        }
        let (voters, _) = self.node.voters_in_log();
        match self.failover.primary.successor(&voters) {
            Some(successor) => self.run(i64::from(successor.get())).await,
            None => Ok(Some("no standby can take over now".into())),
        }
    }

    /// As the leader.
    async fn lead(&self, target: NodeId) -> Result<Option<String>, Refusal> {
        let deadline = Instant::now() + DEADLINE;
        let Some(primary_term) = self.primary_term_to_end(target)? else {
            return Ok(Some(format!("node {target} is already the primary")));
        };
        self.wait_until_recruitable(target).await;
        // That took seconds: everything may have changed, and another switchover may have begun.
        if self.primary_term_to_end(target)?.is_none_or(|now| now.epoch != primary_term.epoch)
            || !self.node.raft.is_leader()
        {
            return Err(Refusal::PrimaryChanging);
        }
        let _guard = self
            .failover
            .leader
            .prefer(primary_term.epoch + 1, target)
            .ok_or(Refusal::PrimaryChanging)?;
        self.have_it_step_down(&primary_term, target).await?;
        let mut follow = self.node.applied.clone();
        let done = follow.wait_for(|now| {
            let term = now.cluster.primary_term.as_ref();
            term.is_some_and(|term| term.epoch > primary_term.epoch && term.is_settled())
        });
        let primary = match timeout_at(deadline, done).await {
            Ok(Ok(now)) => now.cluster.primary(),
            _ => return Err(Refusal::NotComplete { seconds: DEADLINE.as_secs() }),
        };
        Ok(primary
            .filter(|id| *id != target)
            .map(|id| format!("node {id} had more WAL and is the primary now")))
    }

    async fn have_it_step_down(
        &self,
        primary_term: &PrimaryTerm,
        target: NodeId,
    ) -> Result<(), Refusal> {
        let (epoch, primary) = (primary_term.epoch, primary_term.primary);
        if primary == self.node.settings.node_id {
            return self.step_down(epoch, target).await;
        }
        let endpoint = {
            let applied = self.node.applied.borrow();
            applied.cluster.members.get(&primary).map(|m| Endpoint::from(&m.address))
        };
        let endpoint = endpoint.ok_or(Refusal::UnknownNode(primary))?;
        let mut peer = self.node.peers.peer(raft_id(primary), endpoint);
        match peer.call(&Rpc::StepDown { epoch, target }, CATCH_UP * 3).await {
            Ok(RpcReply::SteppedDown(answer)) => answer,
            _ => Err(Refusal::Unreachable(primary)),
        }
    }

    /// The present primary term, if it may be ended for this target; None if the target is the
    /// primary already.
    fn primary_term_to_end(&self, target: NodeId) -> Result<Option<PrimaryTerm>, Refusal> {
        let applied = self.node.applied.borrow().clone();
        let primary_term = applied.cluster.primary_term.clone().ok_or(Refusal::NotInitialized)?;
        let may = may_switch(
            &primary_term,
            &applied.cluster.electorate(),
            &self.node.compose(None).members,
            target,
        )?;
        Ok((may != Outcome::AlreadySo).then_some(primary_term))
    }

    /// Voters that have just started can't be recruited until a lease time has passed, and a target
    /// that lacks a part of the log would be appointed late. Both are waited for here, while the
    /// primary still accepts writes.
    async fn wait_until_recruitable(&self, target: NodeId) {
        let node = self.node;
        let me = node.settings.node_id;
        let lease = Duration::from_millis(self.failover.lease_ms);
        let until = Instant::now() + lease.min(MAX_START_WAIT);
        let mut idle: BTreeMap<NodeId, Peer> = BTreeMap::new();
        while Instant::now() < until && node.raft.is_leader() {
            let (voters, _) = node.voters_in_log();
            let mut requests = JoinSet::new();
            for (id, endpoint) in node.endpoints(&voters) {
                let peer =
                    idle.remove(&id).unwrap_or_else(|| node.peers.peer(raft_id(id), endpoint));
                requests.spawn(ask(id, peer));
            }
            let ready = |reply: &VoterReply| !reply.just_started;
            let mut all: BTreeSet<NodeId> =
                node.voter_reply().filter(ready).map(|_| me).into_iter().collect();
            while !is_at_once(&voters, &all, target) {
                match timeout_at(until, requests.join_next()).await {
                    Ok(Some(Ok((id, peer, reply)))) => {
                        idle.insert(id, peer);
                        all.extend(reply.filter(ready).map(|_| id));
                    }
                    Ok(Some(Err(_))) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            let has_the_log = target == me || caught_up(&node.raft_facts(), me).contains(&target);
            if has_the_log && is_at_once(&voters, &all, target) {
                return;
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// As the primary: gives the primary term up once the target has all WAL of this server.
    ///
    /// # Errors
    /// This is not the primary of that epoch, or the target does not catch up in time; the primary
    /// term goes on then.
    pub async fn step_down(&self, epoch: u64, target: NodeId) -> Result<(), Refusal> {
        let primary = &self.failover.primary;
        let start = primary.resign(epoch).ok_or(Refusal::PrimaryChanging)?;
        let Some(end) = self.target_has_all(target).await else {
            primary.stay();
            self.failover.poke();
            return Err(Refusal::Unreachable(target));
        };
        tracing::info!("failover: this primary steps down for node {target} at {end}");
        self.retire(epoch, start);
        Ok(())
    }

    fn retire(&self, epoch: u64, start: StartNumber) {
        self.failover.primary.retire(epoch, start);
        self.failover.poke();
    }

    /// Waits until the target has confirmed the end of this server's WAL; None if it takes too long.
    async fn target_has_all(&self, target: NodeId) -> Option<WalPosition> {
        sleep(IN_FLIGHT).await;
        let until = Instant::now() + CATCH_UP;
        self.failover.postgres.refresh();
        sleep(POLL_INTERVAL).await;
        let end = self.failover.postgres.observed()?.end;
        while !self.failover.primary.confirmed_by(end).contains(&target) {
            if Instant::now() >= until {
                return None;
            }
            sleep(POLL_INTERVAL).await;
        }
        Some(end)
    }
}
