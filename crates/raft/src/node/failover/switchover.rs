//! A change of the primary that somebody asked for. The primary closes its gate for good, waits
//! until the target has all of its WAL, and releases its lease; from there on it is a failover like
//! any other, with the target preferred.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgraft_core::failover::PrimaryTerm;
use pgraft_core::failover::switchover::{is_at_once, may_switch, successor};
use pgraft_core::{NodeId, Outcome, Refusal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::lead::ask;
use super::{Failover, NodeShared, lock};
use crate::node::compose::caught_up;
use crate::transport::{FailoverEnd, Peer, Rpc, RpcReply, VoterReply};
use crate::types::{Endpoint, node_id, raft_id};

/// For the whole change.
const DEADLINE: Duration = Duration::from_secs(10);
/// For the leader's answer to come back.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// For the target to have the primary's last WAL: commits are refused for so long at most.
const CATCH_UP: Duration = Duration::from_secs(1);
/// For commits that have passed the gate.
const IN_FLIGHT: Duration = Duration::from_millis(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// For voters that have just started: a lease, unless that is longer.
const COME_TO: Duration = Duration::from_secs(3);
/// Between two questions to the voters.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Who is to be the primary of that epoch, for as long as somebody waits for it: one at a time.
struct SwitchoverGuard<'a>(&'a Failover, (u64, NodeId));

impl<'a> SwitchoverGuard<'a> {
    fn of(failover: &'a Failover, wanted: (u64, NodeId)) -> Option<Self> {
        let mut preferred = lock(&failover.preferred);
        if preferred.is_some_and(|(epoch, _)| epoch == wanted.0) {
            return None;
        }
        *preferred = Some(wanted);
        Some(Self(failover, wanted))
    }
}

impl Drop for SwitchoverGuard<'_> {
    fn drop(&mut self) {
        let mut preferred = lock(&self.0.preferred);
        *preferred = preferred.filter(|wanted| *wanted != self.1);
    }
}

impl NodeShared {
    /// Asked of any member: the leader does it.
    pub(in crate::node) async fn switch_over(
        &self,
        target: i64,
    ) -> Result<Option<String>, Refusal> {
        let target = NodeId::new(target)?;
        let failover = self.failover.as_ref().ok_or(Refusal::FailoverIsOff)?;
        if self.applied.borrow().cluster.cluster.is_none() {
            return Err(Refusal::NotInitialized);
        }
        if self.raft.is_leader() {
            return self.lead_switchover(failover, target).await;
        }
        let unknown = || Refusal::NoQuorum { seconds: DEADLINE.as_secs() };
        let leader = self
            .raft
            .current_leader()
            .await
            .filter(|l| node_id(*l) != Some(self.settings.node_id))
            .ok_or_else(unknown)?;
        let endpoint = self
            .applied
            .borrow()
            .membership
            .membership()
            .get_node(&leader)
            .cloned()
            .ok_or_else(unknown)?;
        match self
            .peers
            .peer(leader, endpoint)
            .call(&Rpc::Switchover { target }, DEADLINE + ON_THE_WAY)
            .await
        {
            Ok(RpcReply::Switchover(answer)) => answer,
            Ok(_) => Err(unknown()),
            Err(error) => Err(Refusal::Stopped(error.to_string())),
        }
    }

    /// As the primary: has the standby take over that has the most of its WAL, and has just been
    /// heard.
    pub(in crate::node) async fn hand_over_to_most_advanced(
        &self,
    ) -> Result<Option<String>, Refusal> {
        let failover = self.failover.as_ref().ok_or(Refusal::FailoverIsOff)?;
        if self.applied.borrow().cluster.primary() != Some(self.settings.node_id) {
            return Ok(Some("this node is not the primary".into()));
        }
        let (voters, _) = self.voters_in_log();
        let successor = {
            let (answers, now) = (lock(&failover.answers), failover.postgres.now());
            let heard = answers
                .acks
                .iter()
                .filter(|(_, sent)| sent.after(failover.lease_ms) > now)
                .map(|(id, _)| *id)
                .collect();
            successor(&answers.confirmed, &voters, &heard)
        };
        match successor {
            Some(successor) => self.switch_over(i64::from(successor.get())).await,
            None => Ok(Some("no standby can take over now".into())),
        }
    }

    async fn lead_switchover(
        &self,
        failover: &Failover,
        target: NodeId,
    ) -> Result<Option<String>, Refusal> {
        let deadline = Instant::now() + DEADLINE;
        let Some(primary_term) = self.primary_term_to_end(target)? else {
            return Ok(Some(format!("node {target} is the primary already")));
        };
        self.wait_until_recruitable(failover, target).await;
        // Seconds later: all of it may be otherwise, and somebody else may have asked.
        if self.primary_term_to_end(target)?.is_none_or(|now| now.epoch != primary_term.epoch)
            || !self.raft.is_leader()
        {
            return Err(Refusal::PrimaryChanging);
        }
        let _wish = SwitchoverGuard::of(failover, (primary_term.epoch + 1, target))
            .ok_or(Refusal::PrimaryChanging)?;
        let stepped_down = if primary_term.primary == self.settings.node_id {
            self.step_down(primary_term.epoch, target).await
        } else {
            let endpoint = self
                .applied
                .borrow()
                .cluster
                .members
                .get(&primary_term.primary)
                .map(|m| Endpoint::from(&m.address));
            let endpoint = endpoint.ok_or(Refusal::UnknownNode(primary_term.primary))?;
            let call = Rpc::StepDown { epoch: primary_term.epoch, target };
            match self
                .peers
                .peer(raft_id(primary_term.primary), endpoint)
                .call(&call, CATCH_UP * 3)
                .await
            {
                Ok(RpcReply::SteppedDown(answer)) => answer,
                _ => Err(Refusal::Unreachable(primary_term.primary)),
            }
        };
        stepped_down?;
        let mut follow = self.applied.clone();
        let done = follow.wait_for(|now| {
            now.cluster
                .primary_term
                .as_ref()
                .is_some_and(|r| r.epoch > primary_term.epoch && r.is_settled())
        });
        let now = match timeout_at(deadline, done).await {
            Ok(Ok(now)) => now.cluster.primary(),
            _ => return Err(Refusal::NotComplete { seconds: DEADLINE.as_secs() }),
        };
        Ok(now
            .filter(|id| *id != target)
            .map(|id| format!("node {id} had more WAL and is the primary now")))
    }

    /// The present primary term, if it may be ended for this target; None when it is that one's
    /// already.
    fn primary_term_to_end(&self, target: NodeId) -> Result<Option<PrimaryTerm>, Refusal> {
        let applied = self.applied.borrow().clone();
        let primary_term = applied.cluster.primary_term.clone().ok_or(Refusal::NotInitialized)?;
        let may = may_switch(
            &primary_term,
            &applied.cluster.electorate(),
            &self.compose(None).members,
            target,
        )?;
        Ok((may != Outcome::AlreadySo).then_some(primary_term))
    }

    /// Voters that have just started can't be recruited before a lease is over, and a target that
    /// lacks a part of the log hears late of what is wanted of it. The primary takes writes
    /// meanwhile, as it would not once it has stepped down: so they are waited for here.
    async fn wait_until_recruitable(&self, failover: &Failover, target: NodeId) {
        let me = self.settings.node_id;
        let until = Instant::now() + Duration::from_millis(failover.lease_ms).min(COME_TO);
        let mut idle: BTreeMap<NodeId, Peer> = BTreeMap::new();
        while Instant::now() < until && self.raft.is_leader() {
            let (voters, _) = self.voters_in_log();
            let mut requests = JoinSet::new();
            for (id, endpoint) in self.endpoints(&voters) {
                requests.spawn(ask(
                    id,
                    idle.remove(&id).unwrap_or_else(|| self.peers.peer(raft_id(id), endpoint)),
                ));
            }
            let ready = |said: &VoterReply| !said.just_started;
            let mut all: BTreeSet<NodeId> =
                self.voter_reply().filter(ready).map(|_| me).into_iter().collect();
            while !is_at_once(&voters, &all, target) {
                match timeout_at(until, requests.join_next()).await {
                    Ok(Some(Ok((id, peer, said)))) => {
                        idle.insert(id, peer);
                        all.extend(said.filter(ready).map(|_| id));
                    }
                    Ok(Some(Err(_))) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            let knows = target == me || caught_up(&self.raft_facts(), me).contains(&target);
            if knows && is_at_once(&voters, &all, target) {
                return;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// As the primary: gives the primary term up, when the target has all that this server has.
    pub(in crate::node) async fn step_down(
        &self,
        epoch: u64,
        target: NodeId,
    ) -> Result<(), Refusal> {
        let failover = self.failover.as_ref().ok_or(Refusal::FailoverIsOff)?;
        let start = {
            let mut primary_run = lock(&failover.primary_run);
            let Some(primary_run) = primary_run.as_mut().filter(|r| r.epoch == epoch && r.open)
            else {
                return Err(Refusal::PrimaryChanging);
            };
            *lock(&failover.resigned) = Some((epoch, primary_run.start));
            (primary_run.open, primary_run.unsettled) = (false, true);
            failover.postgres.gate(None);
            primary_run.start
        };
        sleep(IN_FLIGHT).await;
        let since = Instant::now();
        failover.fast_polling.notify_one();
        failover.postgres.refresh();
        sleep(POLL_INTERVAL).await;
        let end = failover.postgres.observed().map(|l| l.end);
        loop {
            let has = lock(&failover.answers).confirmed.get(&target).copied();
            if end
                .zip(has)
                .is_some_and(|(end, has)| has.timeline == end.timeline && has.lsn >= end.lsn)
            {
                break;
            }
            if since.elapsed() >= CATCH_UP {
                *lock(&failover.resigned) = None;
                failover.poke();
                return Err(Refusal::Unreachable(target));
            }
            sleep(POLL_INTERVAL).await;
        }
        tracing::info!("failover: this primary steps down for node {target}");
        *lock(&failover.primary_run) = None;
        *lock(&failover.released_run) = Some((epoch, start));
        failover.ended.notify_one();
        failover.poke();
        Ok(())
    }
}
