//! The next step, one a pass. What failed lately is left out until it is tried again, and nothing
//! else waits for it.
//!
//! ```text
//!  the base      routes ▸ Secrets ▸ certificates ▸ Services, ConfigMaps, PDB ▸ owners ▸ labels
//!  what is there the pod of every volume whose member has not left; pods and volumes of those that have left go; larger volumes
//!  the primary   another one, where somebody asks for it              primary.rs
//!  growing       volume ▸ pod ▸ (ready) ▸ AddNode ▸ (voter)           pods before members
//!  shrinking     RemoveNode ▸ (gone) ▸ pod ▸ volume by policy         members before pods
//!  restarting    pod ▸ (ready, caught up) ▸ the next one              restart.rs
//! ```
//!
//! Two things always hold, and the property tests beside this file look for a way around them: **no
//! pod is taken from a member for good**, and **one voter changes at a time**. Both hang on the
//! same rule: what takes something away needs the word of a leader that reaches a majority
//! ([`Group::authoritative`]). A member's living pod is deleted for one reason only, to be made
//! again on its volume and under its id, and then no other member is down.

pub mod failures;
pub mod switchover;
pub mod switchover_attempt;

use pgraft_core::{MAX_VOTERS, NodeId, Role};
use std::collections::{BTreeMap, BTreeSet};

use super::ClusterSpec;
use super::certificates::{self, SecretSubject, TlsSeen, Work};
use super::render::{Template, objects, template};
use super::step::{OwnedObject, Step, WaitReason};
use crate::cluster::observe::group::{GroupView, MemberSeen};
use crate::cluster::observe::observed::{Observed, Owned, PodPhase, PodSeen, VolumeSeen};
use failures::{ObjectFailure, ObjectTarget};
use pgraft_api::cluster::RetentionPolicy;
use pgraft_api::names::ObjectKey;
use pgraft_api::names::{self, PodRole, SecretKind};

/// The next step.
pub fn next_step(want: &ClusterSpec, seen: &Observed) -> Step {
    plan(want, seen).step
}

/// The next step, and what is not tried now because it failed lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The next step.
    pub step: Step,
    /// What was wanted and left out.
    pub resting: BTreeSet<ObjectTarget>,
}

impl Planned {
    /// No step: there is no valid spec.
    pub fn nothing() -> Self {
        Self { step: Step::Steady, resting: BTreeSet::new() }
    }
}

/// The first step, stage by stage, that did not fail lately. A step that failed keeps nothing else
/// waiting: what depends on it says so itself.
pub fn plan(want: &ClusterSpec, seen: &Observed) -> Planned {
    let plan = Plan { want, seen, template: template(want) };
    let mut search = Search { seen, resting: BTreeSet::new(), apart: None };
    let stages = [
        Plan::base,
        Plan::leftovers,
        Plan::missing_pods,
        Plan::stuck_pods,
        Plan::larger_volumes,
        Plan::with_the_group,
    ];
    let first = stages.iter().flat_map(|stage| stage(&plan)).find_map(|step| search.take(step));
    // Nothing but what failed lately.
    let step = first.or(search.apart.map(Step::Wait)).unwrap_or(Step::Steady);
    Planned { step, resting: search.resting }
}

/// Leaves out what failed lately.
struct Search<'a> {
    seen: &'a Observed,
    resting: BTreeSet<ObjectTarget>,
    /// The first wait that nothing else need wait for.
    apart: Option<WaitReason>,
}

impl Search<'_> {
    /// None where the search goes on.
    fn take(&mut self, step: Step) -> Option<Step> {
        match step {
            Step::Wait(why) if why.is_apart() => {
                self.apart.get_or_insert(why);
                None
            }
            Step::Wait(_) | Step::Steady => Some(self.apart.take().map_or(step, Step::Wait)),
            step => step.only(|target| self.is_due(target)),
        }
    }

    fn is_due(&mut self, target: &ObjectTarget) -> bool {
        let Some(failure) = self.seen.failing.resting(target, self.seen.now) else { return true };
        if let Some(refusal) = failures::wait(failure) {
            self.apart.get_or_insert(refusal);
        }
        self.resting.insert(target.clone());
        false
    }
}

struct Plan<'a> {
    want: &'a ClusterSpec,
    seen: &'a Observed,
    template: Template,
}

impl Plan<'_> {
    /// What a cluster needs before its first pod, and keeps as long as it lives.
    fn base(&self) -> Vec<Step> {
        let Self { want, seen, .. } = self;
        let secrets =
            wanted_secrets(want).filter(|kind| !seen.secrets.contains_key(kind)).collect();
        let unwanted =
            seen.secrets.keys().filter(|kind| !wanted_secrets(want).any(|wanted| wanted == **kind));
        let mut steps = vec![Step::RoutePods(self.wrong_routes()), Step::CreateSecrets(secrets)];
        steps.extend(unwanted.map(|kind| Step::DeleteSecret(*kind)));
        let former = names::former_objects(&want.name)
            .into_iter()
            .filter(|key| seen.objects.contains_key(key));
        steps.extend([
            Step::Certificates(self.certificates()),
            Step::ApplyObjects(self.stale_objects()),
        ]);
        steps.extend(former.map(Step::DeleteObject));
        steps.push(Step::RefreshPods(self.outdated_pods()));
        steps.extend([Step::SetOwners(self.wrong_owners()), Step::LabelPods(self.wrong_labels())]);
        steps
    }

    /// Objects that are missing or not as rendered.
    fn stale_objects(&self) -> Vec<ObjectKey> {
        let rendered = objects(self.want, self.seen.group.as_ref().map_or(0, |g| g.members.len()));
        let stale = rendered.iter().filter(|object| !self.seen.has(object));
        stale.map(super::render::Object::key).collect()
    }

    /// All that needs the word of the group.
    fn with_the_group(&self) -> Vec<Step> {
        let Some(group) = &self.seen.group else {
            return vec![self.before_the_group(NodeId::default())];
        };
        if let Some(foreign) = group.foreign.first() {
            return vec![Step::Wait(WaitReason::InOtherCluster(*foreign))];
        }
        if !group.authoritative {
            let too_few = group.available < group.required();
            return vec![Step::Wait(if too_few {
                WaitReason::NoQuorum
            } else {
                WaitReason::NoLeader
            })];
        }
        if let Some(wait) = Self::without_primary(group) {
            return vec![wait];
        }
        let requested = self.requested().into_iter();
        requested
            .chain(self.membership(group))
            .chain(self.restart(group))
            .chain([self.at_rest(group)])
            .collect()
    }

    /// Every node that has a pod, or a volume that is to get one, has a certificate. Pods come
    /// after their certificates.
    fn certificates(&self) -> Vec<Work> {
        let Self { want, seen, .. } = self;
        let (Some(tls), Some(known)) = (&want.tls, &seen.tls) else { return Vec::new() };
        certificates::decide(tls, known, &certified(want, seen), seen.now).work
    }

    /// The step, unless it makes a pod that would wait for its certificate.
    fn create_pod(&self, node: NodeId, bootstrap: bool) -> Step {
        match &self.seen.tls {
            Some(TlsSeen { ca: Err(trouble), nodes, .. })
                if !matches!(nodes.get(&node), Some(Some(_))) =>
            {
                Step::Wait(WaitReason::NoCertificate(node, trouble.to_string()))
            }
            _ => Step::CreatePod { node, bootstrap },
        }
    }

    fn wrong_owners(&self) -> Vec<(OwnedObject, bool)> {
        let Self { want, seen, .. } = self;
        let with_data = want.retention.when_deleted == RetentionPolicy::Delete;
        let pods = seen
            .pods
            .iter()
            .filter(|(_, pod)| !pod.terminating)
            .map(|(id, pod)| (OwnedObject::Pod(*id), pod.owned, true));
        let volumes = seen
            .volumes
            .iter()
            .filter(|(_, v)| !v.terminating)
            .map(|(id, v)| (OwnedObject::Volume(*id), v.owned, with_data));
        let secrets = seen
            .secrets
            .iter()
            .map(|(kind, secret)| (OwnedObject::Secret(*kind), secret.owned, with_data));
        let wrong = pods
            .chain(volumes)
            .chain(secrets)
            .filter(|(_, owned, wanted)| *owned != Owned::when(*wanted));
        wrong.map(|(what, _, wanted)| (what, wanted)).collect()
    }

    fn wrong_labels(&self) -> Vec<(NodeId, PodRole)> {
        let Some(primary) = self.seen.group.as_ref().and_then(|g| g.primary) else {
            return Vec::new();
        };
        let role = |id: NodeId| if id == primary { PodRole::Primary } else { PodRole::Replica };
        let pods = self
            .seen
            .pods
            .iter()
            .filter(|(id, pod)| !pod.terminating && pod.role != Some(role(**id)));
        pods.map(|(id, _)| (*id, role(*id))).collect()
    }

    /// Pods that are not as they should be in the Services' selectors.
    fn wrong_routes(&self) -> Vec<(NodeId, bool)> {
        let wanted = |id: NodeId, pod: &PodSeen| match self
            .seen
            .group
            .as_ref()
            .filter(|g| g.authoritative)
        {
            Some(group) if group.member(id).is_some() => !takes_no_clients(group, id, pod),
            _ => pod.routed.unwrap_or(true), // nobody knows better
        };
        let pods = self.seen.pods.iter().filter(|(_, pod)| !pod.terminating);
        pods.filter(|(id, pod)| pod.routed != Some(wanted(**id, pod)))
            .map(|(id, pod)| (*id, wanted(*id, pod)))
            .collect()
    }

    /// What those who have left leave behind, and pods that have ended.
    fn leftovers(&self) -> Vec<Step> {
        let Self { want, seen, .. } = self;
        let group = seen.group.as_ref().filter(|g| g.authoritative);
        let spent = seen.ids().into_iter().filter(|id| group.is_some_and(|g| g.is_spent(*id)));
        let put_away = spent.filter_map(|id| self.put_away(id, want.retention.when_scaled));
        let finished =
            seen.pods.iter().filter(|(_, pod)| pod.phase == PodPhase::Finished && !pod.terminating);
        put_away.chain(finished.map(|(id, _)| Step::ClearPod(*id))).collect()
    }

    /// Takes away the pod of a node that is no member, then its volume. None when nothing is left
    /// to do, or all of it is on its way.
    fn put_away(&self, id: NodeId, policy: RetentionPolicy) -> Option<Step> {
        match (self.seen.pods.get(&id), self.seen.volumes.get(&id)) {
            (Some(pod), _) if !pod.terminating => Some(Step::DeletePod(id)),
            (Some(_), _) | (None, None) => None,
            (None, Some(volume)) if volume.terminating => None,
            (None, Some(volume)) => match policy {
                RetentionPolicy::Delete if !volume.retired => Some(Step::DeleteVolume(id)),
                RetentionPolicy::Retain if !volume.retired => Some(Step::RetireVolume(id)),
                // What was kept once is kept: the policy of its day said so.
                RetentionPolicy::Delete | RetentionPolicy::Retain => None,
            },
        }
    }

    /// Volumes without a pod whose member has not left, as far as anybody can tell.
    fn missing_pods(&self) -> Vec<Step> {
        let seen = self.seen;
        let is_out = |id: NodeId| match &seen.group {
            Some(group) if group.authoritative => group.member(id).is_none(), // a newcomer's pod is `grow`'s business
            Some(group) => group.is_spent(id), // once spent, always spent: old news will do
            None => false,
        };
        let lacks_pod = |(id, volume): &(&NodeId, &VolumeSeen)| {
            !volume.retired && !volume.terminating && !seen.pods.contains_key(*id) && !is_out(**id)
        };
        let nodes = seen.volumes.iter().filter(lacks_pod).map(|(node, _)| *node);
        nodes.map(|node| self.create_pod(node, self.may_bootstrap(node))).collect()
    }

    /// Whether this node may make the cluster: there never was one, and nothing is here that could
    /// belong to one.
    fn may_bootstrap(&self, node: NodeId) -> bool {
        let seen = self.seen;
        node == NodeId::default()
            && seen.known.is_none()
            && seen.group.is_none()
            && seen.ids().into_iter().all(|id| id == node)
    }

    fn before_the_group(&self, bootstrap: NodeId) -> Step {
        let seen = self.seen;
        if seen.pods.is_empty() && seen.volumes.values().all(|v| v.retired) {
            let fresh = seen.known.is_none() && seen.volumes.is_empty();
            return if fresh {
                Step::CreateVolume(bootstrap)
            } else {
                Step::Wait(WaitReason::DataLost)
            };
        }
        if let Some(id) = self.going() {
            return Step::Wait(WaitReason::Terminating(id));
        }
        let not_ready = seen.pods.iter().find(|(_, pod)| pod.phase != PodPhase::Ready);
        match not_ready {
            Some((id, pod)) if self.may_bootstrap(*id) => Step::Wait(
                WaitReason::BootstrapNodeStarting(*id, in_the_way(seen, *id, &pod.phase)),
            ),
            Some((id, pod)) => {
                Step::Wait(WaitReason::MemberNotReady(*id, in_the_way(seen, *id, &pod.phase)))
            }
            None => Step::Wait(WaitReason::NobodyAnswers),
        }
    }

    /// A pod or volume that is on its way out and stands in the way of the next of its name.
    fn going(&self) -> Option<NodeId> {
        let pods = self.seen.pods.iter().filter(|(_, p)| p.terminating).map(|(id, _)| *id);
        pods.chain(self.seen.volumes.iter().filter(|(_, v)| v.terminating).map(|(id, _)| *id))
            .next()
    }

    /// Brings the membership one step nearer to what is wanted. The group's word is authoritative
    /// here.
    fn membership(&self, group: &GroupView) -> Vec<Step> {
        let Self { want, seen, .. } = self;
        let mut ours: Vec<&MemberSeen> = group.members.iter().filter(|m| self.is_ours(m)).collect();
        // The highest id goes first, and the primary with the others where another member can be
        // it.
        let last_to_go = |m: &MemberSeen| group.failover.is_none() && group.primary == Some(m.id);
        ours.sort_by_key(|m| (last_to_go(m), std::cmp::Reverse(m.id)));

        if let Some(leaving) = group.members.iter().find(|m| m.role == Role::Leaving) {
            return vec![Step::Wait(WaitReason::Leaving(leaving.id))];
        }
        // A member whose volume is gone, or going, can't come back under its id: it makes room for
        // another one.
        let without_volume = |id: &NodeId| match seen.volumes.get(id) {
            Some(volume) => volume.terminating,
            None => !seen.pods.contains_key(id),
        };
        let lost = ours.iter().find(|m| !last_to_go(m) && without_volume(&m.id));
        let leaves =
            lost.filter(|m| may_leave(group, m)).copied().or_else(|| self.overdue(group, &ours));
        let step =
            leaves.and_then(|leaves| self.take_out(group, leaves, |m| !without_volume(&m.id)));
        // Another member may be the one that is fit.
        let may_help = ours.len() < want.replicas
            && matches!(step, Some(Step::Wait(WaitReason::NoSuccessor(_))));
        let mut steps: Vec<Step> = step.into_iter().filter(|_| !may_help).collect();
        if ours.len() >= want.replicas {
            steps.extend(self.surplus_newcomers(group));
            let surplus = ours.len() - want.replicas;
            let stays = |m: &MemberSeen| ours[..surplus].iter().all(|leaving| leaving.id != m.id);
            let leaving =
                ours.iter().filter(|m| !last_to_go(m) && may_leave(group, m)).take(surplus);
            let leaving: Vec<Step> =
                leaving.filter_map(|m| self.take_out(group, m, stays)).collect();
            // While the primary is to hand over, the others that leave may be its heirs.
            let waits = leaving
                .iter()
                .position(|step| matches!(step, Step::Wait(_)))
                .unwrap_or(leaving.len());
            steps.extend(leaving.into_iter().take(waits + 1));
        }
        if let Some(learner) = group.changing() {
            steps.push(Step::Wait(self.why_not_caught_up(learner)));
        } else if ours.len() < want.replicas {
            steps.extend(self.grow(group));
        }
        steps
    }

    fn why_not_caught_up(&self, learner: &MemberSeen) -> WaitReason {
        match self.seen.pods.get(&learner.id) {
            Some(pod) if pod.phase != PodPhase::Ready => WaitReason::NewcomerStarting(
                learner.id,
                in_the_way(self.seen, learner.id, &pod.phase),
            ),
            _ => WaitReason::LearnerCatchingUp(learner.id),
        }
    }

    /// A pod or volume under an id that was never a member's and that nobody needs any more: the
    /// wish was taken back in time.
    fn surplus_newcomers(&self, group: &GroupView) -> Vec<Step> {
        self.newcomers(group)
            .into_iter()
            .filter_map(|id| self.put_away(id, RetentionPolicy::Delete))
            .collect()
    }

    /// Ids above all that were ever members', with a pod or a volume: what the operator began
    /// before it died, or before this pass.
    fn newcomers(&self, group: &GroupView) -> BTreeSet<NodeId> {
        let retired = |id: &NodeId| self.seen.volumes.get(id).is_some_and(|v| v.retired);
        self.seen
            .ids()
            .into_iter()
            .filter(|id| id.get() >= group.next_node_id && !retired(id))
            .collect()
    }

    /// Pods before members: the next one's volume, its pod, and when that is ready, one call.
    fn grow(&self, group: &GroupView) -> Vec<Step> {
        let seen = self.seen;
        let begun = self.newcomers(group).into_iter().find(|id| {
            let going = seen.pods.get(id).is_some_and(|p| p.terminating)
                || seen.volumes.get(id).is_some_and(|v| v.terminating);
            !going
        });
        let Some(id) = begun else { return self.next_volumes(group) };
        vec![match (seen.volumes.get(&id), seen.pods.get(&id)) {
            (None, _) => Step::CreateVolume(id),
            (Some(_), None) => self.create_pod(id, false),
            (Some(_), Some(pod)) if pod.phase == PodPhase::Ready => Step::AddNode(id),
            (Some(_), Some(pod)) => {
                Step::Wait(WaitReason::NewcomerStarting(id, in_the_way(self.seen, id, &pod.phase)))
            }
        }]
    }

    /// The volume of the lowest id above all that were ever used, by a member, a pod or a volume;
    /// where its name is taken, that of the next one.
    fn next_volumes(&self, group: &GroupView) -> Vec<Step> {
        let used =
            self.seen.ids().into_iter().next_back().map_or(0, |id| id.get().saturating_add(1));
        let (mut next, mut steps) = (i64::from(group.next_node_id.max(used)), Vec::new());
        // None when two thousand million members were there before.
        while let Ok(id) = NodeId::new(next) {
            let step = Step::CreateVolume(id);
            let taken = step.targets().iter().any(|target| {
                self.seen.failing.get(target).is_some_and(ObjectFailure::is_name_taken)
            });
            steps.push(step);
            if !taken {
                break;
            }
            next += 1;
        }
        steps
    }

    /// Needs nobody's word: a full disk may be why nobody answers.
    fn larger_volumes(&self) -> Vec<Step> {
        let small =
            |v: &VolumeSeen| !v.terminating && !v.retired && v.requested < self.want.storage.bytes;
        self.seen
            .volumes
            .iter()
            .filter(|(_, v)| small(v))
            .map(|(id, _)| Step::GrowVolume(*id))
            .collect()
    }

    /// Nothing is to be done; is all well?
    fn at_rest(&self, group: &GroupView) -> Step {
        for member in group.members.iter().filter(|m| self.is_ours(m)) {
            if let Some(why) = self.unwell(member) {
                return Step::Wait(why);
            }
        }
        self.going().map_or(Step::Steady, |id| Step::Wait(WaitReason::Terminating(id)))
    }

    /// What is wrong with a member of ours.
    fn unwell(&self, member: &MemberSeen) -> Option<WaitReason> {
        match self.seen.pods.get(&member.id) {
            Some(pod) if pod.terminating => Some(WaitReason::Restarting(member.id)),
            Some(pod) if pod.phase != PodPhase::Ready => Some(WaitReason::MemberNotReady(
                member.id,
                in_the_way(self.seen, member.id, &pod.phase),
            )),
            Some(_) if member.reachable == Some(false) => {
                Some(WaitReason::MemberUnreachable(member.id))
            }
            Some(_) => None,
            None => Some(WaitReason::MemberNotReady(member.id, Some("it has no pod".into()))),
        }
    }

    /// Whether a member is one of this operator's pods. Others (a server outside of Kubernetes,
    /// added by hand) are left alone.
    fn is_ours(&self, member: &MemberSeen) -> bool {
        let Self { want, .. } = self;
        member.address.host() == names::host(&want.name, &want.namespace, member.id)
    }
}

/// The Secrets that a cluster has.
pub fn wanted_secrets(want: &ClusterSpec) -> impl Iterator<Item = SecretKind> + use<> {
    let (superuser, ca) =
        (want.superuser, want.tls.as_ref().is_some_and(|tls| tls.ca_secret.is_none()));
    SecretKind::ALL.into_iter().filter(move |kind| match kind {
        SecretKind::Internal | SecretKind::App => true,
        SecretKind::Superuser => superuser,
        SecretKind::Ca => ca,
    })
}

/// Who has a certificate, and the names in it: every node that has a pod, or a volume that may get
/// one.
pub fn certified(want: &ClusterSpec, seen: &Observed) -> BTreeMap<NodeId, SecretSubject> {
    let volumes = seen.volumes.iter().filter(|(_, volume)| !volume.retired).map(|(id, _)| *id);
    let ids: BTreeSet<NodeId> = seen.pods.keys().copied().chain(volumes).collect();
    let subject = |id| SecretSubject {
        names: names::certificate_names(&want.name, &want.namespace, id),
        has_pod: seen.pods.contains_key(&id),
    };
    ids.into_iter().map(|id| (id, subject(id))).collect()
}

/// Whether this member counts as a full one: a voter, or a follower where there are as many voters
/// as there can be.
pub fn counts(group: &GroupView, member: &MemberSeen) -> bool {
    match member.role {
        Role::Voter => true,
        Role::Learner => group.voters() >= MAX_VOTERS,
        Role::Leaving => false,
    }
}

/// Whether a pod that Kubernetes takes for ready is out of the leader's reach, so that clients who
/// are led to it would wait for nothing. One that is not ready gets no clients anyway, and need not
/// wait for this operator when it is ready again. A primary that is fixed goes on by itself.
fn takes_no_clients(group: &GroupView, node: NodeId, pod: &PodSeen) -> bool {
    let fixed = group.failover.is_none() && group.primary == Some(node);
    pod.phase == PodPhase::Ready
        && !fixed
        && group.member(node).is_some_and(|m| m.reachable == Some(false))
}

/// While somebody is on the way in, nobody but them may leave.
fn may_leave(group: &GroupView, member: &MemberSeen) -> bool {
    group.changing().is_none_or(|m| m.id == member.id)
}

/// Why a pod is not ready: what Kubernetes says, or the pod itself.
pub fn in_the_way(seen: &Observed, node: NodeId, phase: &PodPhase) -> Option<String> {
    match phase {
        PodPhase::Starting(why) => why.clone().or_else(|| seen.unready.get(&node).cloned()),
        PodPhase::Ready | PodPhase::Finished => None,
    }
}

mod primary;
mod restart;

pub use restart::is_configured;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
