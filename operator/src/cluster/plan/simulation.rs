//! The planner in a small model of the world: pods that take time, a Raft group that changes one
//! voter at a time, an operator that dies before, within or after any step, hosts that evict,
//! people who delete and change their minds. Whatever happens, the invariants hold in every step;
//! and once it has stopped happening, the cluster becomes what is wanted.

use jiff::SignedDuration;
use pgraft_core::failover::Phase;
use pgraft_core::{MAX_VOTERS, NodeId, Role};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::cluster::fixtures::*;
use crate::cluster::observe::absence::Absences;
use crate::cluster::observe::group::FailoverSeen;
use crate::cluster::observe::observed::{ObjectSeen, PodSeen};
use crate::cluster::plan::failures::{Cause, ObjectTarget, StepFailureReason};
use crate::cluster::plan::switchover::{SwitchoverRequest, request};
use crate::cluster::plan::switchover_attempt::SwitchoverAttempt;
use fate::{StepFate, fates};
use pgraft_api::cluster::RetentionPolicy;

#[derive(Debug)]
struct PlanWorld {
    want: ClusterSpec,
    seen: Observed,
    /// Passes until a pod is ready.
    starting: BTreeMap<NodeId, u8>,
    members: BTreeMap<NodeId, Role>,
    /// Passes until a learner votes.
    behind: BTreeMap<NodeId, u8>,
    retired: BTreeSet<NodeId>,
    leader: Option<NodeId>,
    /// How often each id joined.
    joins: BTreeMap<NodeId, usize>,
    bootstrapped: usize,
    /// Volumes that hold a member's Raft directory.
    directories: BTreeSet<NodeId>,
    last_week: Vec<MemberSeen>,
    last_week_next: u32,
    /// Who takes writes; with failover another one when it is lost.
    primary: NodeId,
    epoch: u64,
    /// Whether the next switchover is refused.
    stubborn: bool,
    /// Passes until a member is reached again.
    cut_off: BTreeMap<NodeId, u8>,
    absences: Absences,
    /// What fails whenever it is tried, and how.
    broken: Option<(ObjectTarget, Cause)>,
}

const BOOTSTRAP_NODE: u32 = 1;
const NOWHERE: &str = "no/such:image";

impl PlanWorld {
    fn new(failover: bool) -> Self {
        Self {
            want: if failover { with_failover(1) } else { wanted(1) },
            primary: id(BOOTSTRAP_NODE),
            epoch: 1,
            stubborn: false,
            cut_off: BTreeMap::new(),
            absences: Absences::default(),
            broken: None,
            seen: empty(),
            starting: BTreeMap::new(),
            members: BTreeMap::new(),
            behind: BTreeMap::new(),
            retired: BTreeSet::new(),
            leader: None,
            joins: BTreeMap::new(),
            bootstrapped: 0,
            directories: BTreeSet::new(),
            last_week: Vec::new(),
            last_week_next: 1,
        }
    }

    fn nth(&self, n: usize) -> Option<NodeId> {
        self.seen.pods.keys().copied().nth(n)
    }

    fn alive(&self, id: NodeId) -> bool {
        self.seen.is_ready(id) && self.directories.contains(&id) && !self.cut_off.contains_key(&id)
    }

    fn chooses(&self) -> bool {
        self.want.lease_timeout.is_some()
    }

    /// The members' own doing: whoever is there and has a vote.
    fn fail_over(&mut self, nth: usize) {
        let successor = self.voters().filter(|id| self.alive(*id) && *id != self.primary).nth(nth);
        if let Some(successor) = successor.filter(|_| self.chooses() && self.has_quorum()) {
            (self.primary, self.epoch) = (successor, self.epoch + 1);
        }
    }

    fn next_id(&self) -> u32 {
        self.members.keys().chain(&self.retired).max().map_or(1, |id| id.get() + 1)
    }

    fn has_quorum(&self) -> bool {
        let voters: Vec<NodeId> = self.voters().collect();
        voters.iter().filter(|id| self.alive(**id)).count() * 2 > voters.len()
    }

    fn voters(&self) -> std::vec::IntoIter<NodeId> {
        self.members
            .iter()
            .filter(|(_, role)| **role == Role::Voter)
            .map(|(id, _)| *id)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The volumes of half of the voters, or more, were deleted: no operator brings that back.
    fn is_beyond_help(&self) -> bool {
        let lost =
            |id: &NodeId| !self.seen.volumes.contains_key(id) || self.seen.volumes[id].terminating;
        let voters: Vec<NodeId> = self.voters().collect();
        voters.iter().filter(|id| lost(id)).count() * 2 >= voters.len()
    }

    /// What is seen over SQL.
    fn look(&mut self, old_news: bool, recruiting: bool) {
        let anybody = self.members.keys().any(|id| self.alive(*id));
        self.seen.group = anybody.then(|| {
            let seen = |(id, role): (&NodeId, &Role)| MemberSeen {
                reachable: Some(self.alive(*id)),
                ..member(id.get(), *role)
            };
            let now: Vec<MemberSeen> = self.members.iter().map(seen).collect();
            let mut group = if old_news {
                group(&self.last_week, self.last_week_next)
            } else {
                group(&now, self.next_id())
            };
            group.primary = Some(self.primary);
            let phase = if recruiting { Phase::Recruiting } else { Phase::Steady };
            group.failover = self.chooses().then(|| FailoverSeen {
                phase,
                epoch: self.epoch,
                ..first_primary_term()
            });
            group.leader = self.leader;
            group.authoritative &=
                !old_news && self.leader.is_some_and(|id| self.alive(id)) && self.has_quorum();
            group
        });
        self.seen.switchover_attempt =
            self.seen.switchover_attempt.take().filter(|asked| asked.target != self.primary);
        self.absences.look(&[], self.seen.group.as_ref(), self.seen.now);
        self.seen.away = self.absences.since().clone();
    }

    /// Time passes.
    fn tick(&mut self) {
        self.seen.now += SignedDuration::from_secs(1);
        self.cut_off.retain(|_, left| {
            *left -= 1;
            *left > 0
        });
        let was: BTreeSet<NodeId> = self.voters().collect();
        let gone: Vec<NodeId> =
            self.seen.pods.iter().filter(|(_, p)| p.terminating).map(|(id, _)| *id).collect();
        for id in gone {
            self.seen.pods.remove(&id);
            self.starting.remove(&id);
        }
        let free = |id: &NodeId| !self.seen.pods.contains_key(id);
        let lost: Vec<NodeId> = self
            .seen
            .volumes
            .iter()
            .filter(|(id, v)| v.terminating && free(id))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.seen.volumes.remove(&id);
            self.directories.remove(&id);
        }
        for (id, left) in &mut self.starting {
            *left = left.saturating_sub(1);
            if *left == 0
                && let Some(pod) = self.seen.pods.get_mut(id)
                && matches!(pod.phase, PodPhase::Starting(_))
            {
                pod.phase = PodPhase::Ready;
            }
        }
        if self.leader.is_none_or(|id| !self.alive(id) || !self.members.contains_key(&id)) {
            self.leader = self.voters().find(|id| self.alive(*id));
        }
        if !self.alive(self.primary) {
            self.fail_over(0);
        }
        self.raft();
        let is: BTreeSet<NodeId> = self.voters().collect();
        assert!(
            was.symmetric_difference(&is).count() <= 1,
            "several voters changed at once: {was:?} {is:?}"
        );
    }

    /// The leader carries out what is committed: one change at a time.
    fn raft(&mut self) {
        if !self.has_quorum() {
            return;
        }
        if let Some(id) =
            self.members.iter().find(|(_, role)| **role == Role::Leaving).map(|(id, _)| *id)
        {
            self.members.remove(&id);
            self.retired.insert(id);
            return;
        }
        let learner =
            self.members.iter().find(|(_, role)| **role == Role::Learner).map(|(id, _)| *id);
        if let Some(id) =
            learner.filter(|id| self.seen.is_ready(*id) && self.voters().count() < MAX_VOTERS)
        {
            self.directories.insert(id);
            let left = self.behind.entry(id).or_insert(2);
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.members.insert(id, Role::Voter);
            }
        }
    }

    fn start_pod(&mut self, node: NodeId, bootstrap: bool) {
        assert!(self.seen.volumes.contains_key(&node), "a pod without its volume");
        // Where nobody answers nobody can know; the group refuses such a node, and its pod goes as
        // soon as somebody says so.
        assert!(
            self.seen.group.as_ref().is_none_or(|g| !g.is_spent(node)),
            "a pod for a retired id: {node}"
        );
        let template = Some(template(&self.want));
        if self.want.image.name == NOWHERE {
            let phase = PodPhase::Starting(Some("ImagePullBackOff".into()));
            self.seen.pods.insert(node, PodSeen { phase, role: None, template, ..pod(false) });
            return;
        }
        if bootstrap && !self.directories.contains(&node) {
            assert!(self.members.is_empty(), "a second cluster is bootstrapped");
            self.bootstrapped += 1;
            self.members.insert(node, Role::Voter);
            self.directories.insert(node);
        }
        self.seen.pods.insert(
            node,
            PodSeen { phase: PodPhase::Starting(None), role: None, template, ..pod(false) },
        );
        self.starting.insert(node, 2);
    }

    /// Does what the operator does. `whole` is false when it dies within.
    fn act(&mut self, step: &Step, whole: bool) {
        let some = |len: usize| if whole { len } else { 1.min(len) };
        match step {
            Step::CreateSecrets(kinds) => {
                for kind in &kinds[..some(kinds.len())] {
                    self.seen.secrets.insert(*kind, secret());
                }
            }
            Step::ApplyObjects(keys) => {
                let rendered =
                    objects(&self.want, self.seen.group.as_ref().map_or(0, |g| g.members.len()));
                for key in &keys[..some(keys.len())] {
                    let object = rendered.iter().find(|o| o.key() == *key).unwrap();
                    self.seen
                        .objects
                        .insert(key.clone(), ObjectSeen::AsApplied(object.fingerprint()));
                }
            }
            Step::RefreshPods(_) => unreachable!("the configuration does not change in this world"),
            Step::SetOwners(owners) => self.set_owners(owners),
            Step::DeleteSecret(kind) => drop(self.seen.secrets.remove(kind)),
            Step::DeleteObject(key) => drop(self.seen.objects.remove(key)),
            Step::RoutePods(pods) => {
                for (id, routed) in &pods[..some(pods.len())] {
                    self.seen.pods.get_mut(id).unwrap().routed = Some(*routed);
                }
            }
            Step::LabelPods(pods) => {
                for (id, role) in &pods[..some(pods.len())] {
                    self.seen.pods.get_mut(id).unwrap().role = Some(*role);
                }
            }
            Step::CreateVolume(node) => {
                assert!(
                    !self.seen.volumes.contains_key(node) && !self.retired.contains(node),
                    "an id is used twice: {node}"
                );
                assert!(!self.members.contains_key(node), "a member gets an empty volume: {node}");
                self.seen.volumes.insert(*node, volume());
            }
            Step::CreatePod { node, bootstrap } => self.start_pod(*node, *bootstrap),
            Step::ClearPod(node) => {
                assert_eq!(
                    self.seen.pods[node].phase,
                    PodPhase::Finished,
                    "a living pod is cleared: {node}"
                );
                self.seen.pods.remove(node);
            }
            Step::RestartPod(node) => self.restart(*node),
            Step::DeletePod(node) => {
                assert!(!self.members.contains_key(node), "a member's pod is deleted: {node}");
                self.seen.pods.get_mut(node).unwrap().terminating = true;
            }
            Step::DeleteVolume(node) => {
                assert!(!self.members.contains_key(node), "a member's volume is deleted: {node}");
                self.seen.volumes.get_mut(node).unwrap().terminating = true;
            }
            Step::RetireVolume(node) => {
                assert!(!self.members.contains_key(node), "a member's volume is retired: {node}");
                self.seen.volumes.get_mut(node).unwrap().retired = true;
            }
            Step::AddNode(node) => self.add(*node),
            Step::RemoveNode(node) => self.remove(*node),
            Step::SwitchOver(node) => self.switch_over(*node),
            Step::GrowVolume(node) => {
                self.seen.volumes.get_mut(node).unwrap().requested = self.want.storage.bytes;
            }
            Step::Certificates(_) | Step::Wait(_) | Step::Steady => {}
        }
    }

    fn set_owners(&mut self, owners: &[(OwnedObject, bool)]) {
        for (what, owned) in owners {
            let seen = match what {
                OwnedObject::Pod(node) => &mut self.seen.pods.get_mut(node).unwrap().owned,
                OwnedObject::Volume(node) => &mut self.seen.volumes.get_mut(node).unwrap().owned,
                OwnedObject::Secret(kind) => &mut self.seen.secrets.get_mut(kind).unwrap().owned,
            };
            *seen = Owned::when(*owned);
        }
    }

    fn restart(&mut self, node: NodeId) {
        let wanted = Some(template(&self.want));
        assert_ne!(
            self.seen.pods[&node].template, wanted,
            "a pod is restarted for nothing: {node}"
        );
        if self.seen.is_ready(node) {
            assert!(
                self.members.keys().all(|id| self.alive(*id)),
                "a pod is restarted while another one is down: {node}"
            );
            let others_first =
                self.members.keys().all(|id| *id == node || self.seen.pods[id].template == wanted);
            assert!(node != self.primary || others_first, "the primary is restarted before others");
            let alone = self.members.iter().all(|(id, role)| *id == node || *role != Role::Voter);
            assert!(
                node != self.primary || !self.chooses() || alone,
                "the primary is restarted where another member could be it"
            );
        }
        self.seen.pods.get_mut(&node).unwrap().terminating = true;
    }

    fn add(&mut self, node: NodeId) {
        assert!(self.seen.is_ready(node), "a node without a ready pod is added: {node}");
        assert!(!self.members.values().any(|role| *role == Role::Leaving), "two changes at once");
        assert!(
            self.voters().count() >= MAX_VOTERS
                || !self.members.values().any(|role| *role == Role::Learner),
            "two changes at once"
        );
        assert!(!self.retired.contains(&node), "an id comes back: {node}");
        self.members.insert(node, Role::Learner);
        self.directories.insert(node);
        *self.joins.entry(node).or_default() += 1;
    }

    fn switch_over(&mut self, node: NodeId) {
        assert!(self.chooses() && node != self.primary, "a switchover for nothing: {node}");
        assert_eq!(
            self.members.get(&node),
            Some(&Role::Voter),
            "a switchover to a node without a vote: {node}"
        );
        assert!(self.alive(node), "a switchover to a node that is not there: {node}");
        assert!(
            !self
                .seen
                .switchover_attempt
                .as_ref()
                .is_some_and(|asked| asked.target == node && asked.is_fresh(self.seen.now)),
            "asked in a hot loop"
        );
        let asked_for = self.want.switchover == Some(node) && self.seen.switched_to != Some(node);
        let goes = self.seen.volumes.get(&self.primary).is_none_or(|volume| volume.terminating)
            || self.members.len() > self.want.replicas
            || self.seen.pods[&self.primary].template != Some(template(&self.want));
        assert!(asked_for || goes, "a switchover that nobody needs: {node}");
        let refused =
            std::mem::take(&mut self.stubborn).then(|| ("PGR08".to_owned(), "no".to_owned()));
        if refused.is_none() {
            (self.primary, self.epoch) = (node, self.epoch + 1);
        }
        self.seen.switchover_attempt = Some(SwitchoverAttempt::again(
            self.seen.switchover_attempt.as_ref(),
            node,
            self.seen.now,
            refused,
        ));
    }

    fn remove(&mut self, node: NodeId) {
        assert_ne!(node, self.primary, "the primary is removed");
        let lost = self.seen.volumes.get(&node).is_none_or(|volume| volume.terminating);
        if !lost
            && self.members.len() <= self.want.replicas
            && self.members.get(&node) == Some(&Role::Voter)
        {
            let patience = self.want.replace_after.expect("a voter is removed for nothing");
            assert!(
                !self.alive(node)
                    && self.seen.now.duration_since(self.seen.away[&node]) >= patience,
                "{node} is given up too early"
            );
        }
        assert!(self.members.contains_key(&node), "a node is removed that is no member: {node}");
        assert!(!self.members.values().any(|role| *role == Role::Leaving), "two changes at once");
        // The leader refuses what would cost the majority.
        let rest: Vec<NodeId> = self.voters().filter(|id| *id != node).collect();
        if rest.iter().filter(|id| self.alive(**id)).count() * 2 > rest.len() {
            self.members.insert(node, Role::Leaving);
        }
    }

    fn befall(&mut self, fate: &StepFate) {
        match fate {
            StepFate::PodDeleted(n) => {
                if let Some(id) = self.nth(*n) {
                    self.seen.pods.get_mut(&id).unwrap().terminating = true;
                }
            }
            StepFate::PodEvicted(n) => {
                if let Some(id) = self.nth(*n) {
                    self.seen.pods.get_mut(&id).unwrap().phase = PodPhase::Finished;
                }
            }
            StepFate::VolumeDeleted(n) => {
                // Without the primary's there is nothing to go on with where there is no failover,
                // and without the last one nowhere.
                let others = |n: &NodeId| {
                    self.members.keys().any(|id| {
                        id != n && self.seen.volumes.get(id).is_some_and(|v| !v.terminating)
                    })
                };
                if let Some(id) = self
                    .nth(*n)
                    .filter(|n| if self.chooses() { others(n) } else { *n != id(BOOTSTRAP_NODE) })
                    && let Some(volume) = self.seen.volumes.get_mut(&id)
                {
                    volume.terminating = true;
                }
            }
            StepFate::Election(n) => {
                self.leader = self.voters().filter(|id| self.alive(*id)).nth(*n);
            }
            StepFate::Scale(n) => self.want.replicas = *n,
            StepFate::Resources(n) => {
                self.want.image = wanted(1).image;
                self.want.restarted_at = Some(n.to_string());
            }
            StepFate::BadImage => self.want.image.name = NOWHERE.into(),
            StepFate::Policy(retain) => {
                self.want.retention.when_scaled =
                    if *retain { RetentionPolicy::Retain } else { RetentionPolicy::Delete };
            }
            StepFate::MadeAgain => {
                for pod in self.seen.pods.values_mut() {
                    pod.terminating = true;
                }
                self.seen.objects.clear();
                self.seen.known = None;
            }
            StepFate::Request(target) => {
                self.want.switchover = target.map(id).filter(|_| self.chooses());
            }
            StepFate::Failover(n) => self.fail_over(*n),
            StepFate::Refusal => self.stubborn = true,
            StepFate::Patience(passes) => {
                self.want.replace_after = passes.map(SignedDuration::from_secs);
            }
            StepFate::CutOff(n, passes) => {
                self.cut_off.extend(self.nth(*n).map(|id| (id, *passes)));
            }
            StepFate::Quiet
            | StepFate::DiesBefore
            | StepFate::DiesWithin
            | StepFate::Silence
            | StepFate::OldNews
            | StepFate::Recruiting => {}
        }
    }

    /// Whether the request was carried out, or nobody can.
    fn request_is_settled(&mut self) -> bool {
        self.look(false, false);
        let Some(target) = self.want.switchover else { return true };
        request(target, &self.seen) == SwitchoverRequest::Done
            || self.voters().all(|voter| voter != target)
    }

    /// As the status remembers it.
    fn remember_request(&mut self) {
        let target = self.want.switchover;
        let done =
            target.is_some_and(|target| request(target, &self.seen) == SwitchoverRequest::Done);
        self.seen.switched_to = target.filter(|_| done);
    }

    /// One pass of the operator, and what befalls it.
    fn pass(&mut self, fate: &StepFate) -> Step {
        self.befall(fate);
        self.look(matches!(fate, StepFate::OldNews), matches!(fate, StepFate::Recruiting));
        if matches!(fate, StepFate::Silence) {
            self.seen.group = None;
        }
        let step = next_step(&self.want, &self.seen);
        let group = self.seen.group.clone();
        match fate {
            StepFate::DiesBefore => {}
            StepFate::DiesWithin => {
                self.act(&step, false);
                (self.absences, self.seen.switchover_attempt) = (Absences::default(), None);
            }
            _ => {
                self.remember_request();
                self.act(&step, true);
                self.seen.known = self.seen.known.or(group.as_ref().map(|g| g.cluster_id));
            }
        }
        if let Some(group) = group.filter(|g| g.authoritative) {
            (self.last_week, self.last_week_next) = (group.members, group.next_node_id);
        }
        self.tick();
        step
    }
}

mod fate;
mod forever;

proptest! {
    // PROPTEST_CASES=10000 for a long one.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens the invariants hold, and afterwards the cluster becomes what is wanted.
    #[test]
    fn it_gets_there(failover: bool, fates in prop::collection::vec(fates(), 0..100), replicas in 1..9usize) {
        let mut world = PlanWorld::new(failover);
        for fate in &fates {
            world.pass(fate);
        }
        world.want.replicas = replicas;
        world.want.image = wanted(1).image;
        let mut steps = Vec::new();
        for _ in 0..300 {
            let step = world.pass(&StepFate::Quiet);
            steps.push(step.clone());
            if step == Step::Steady && world.request_is_settled() {
                break;
            }
        }
        if world.is_beyond_help() {
            prop_assert_eq!(steps.last(), Some(&Step::Wait(WaitReason::NoQuorum)));
            return Ok(());
        }
        prop_assert_eq!(steps.last(), Some(&Step::Steady), "{:#?}\nlast steps: {:?}", world, &steps[steps.len().saturating_sub(12)..]);
        let members: Vec<NodeId> = world.members.keys().copied().collect();
        prop_assert_eq!(members.len(), replicas);
        prop_assert_eq!(world.seen.pods.keys().copied().collect::<Vec<_>>(), members.clone());
        for (id, volume) in &world.seen.volumes {
            prop_assert!(members.contains(id) || volume.retired, "a volume is left over: {id}");
        }
        let current = |pod: &PodSeen| pod.template == Some(template(&world.want));
        prop_assert!(world.seen.pods.values().all(current), "a pod is not as the spec has it");
        prop_assert!(world.joins.values().all(|n| *n == 1), "an id joined twice");
        prop_assert_eq!(world.bootstrapped, 1);
        prop_assert!(world.members.contains_key(&world.primary));
        prop_assert!(world.request_is_settled(), "{:?}", world.want.switchover);
    }
}
