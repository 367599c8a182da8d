//! The next step. One a pass, from what is seen and from nothing that was remembered.
//!
//! ```text
//!  the base      Secrets ▸ certificates ▸ Services, ConfigMap, PDB ▸ owners ▸ labels
//!  what is there the pod of every volume whose member has not left; pods and volumes of those that have left go
//!  the primary   another one, where somebody asks for it              primary.rs
//!  growing       volume ▸ pod ▸ (ready) ▸ AddNode ▸ (voter)           pods before members
//!  shrinking     RemoveNode ▸ (gone) ▸ pod ▸ volume by policy         members before pods
//!  restarting    pod ▸ (ready, caught up) ▸ the next one              restart.rs
//! ```
//!
//! Two things always hold, and the property tests beside this file look for a way around them: **no pod is taken from a member for good**, and
//! **one voter changes at a time**. Both hang on the same rule: what takes something away needs the word of a leader that reaches a majority
//! ([`Group::authoritative`]). A member's living pod is deleted for one reason only, to be made again on its volume and under its id, and then
//! no other member is down.

use pgraft_core::{MAX_VOTERS, NodeId, Role};
use std::collections::{BTreeMap, BTreeSet};

use super::certificates::{self, Subject, TlsSeen, Work};
use super::group::{Group, MemberSeen};
use super::names::{self, PodRole, SecretKind};
use super::observed::{Observed, Owned, PodPhase, VolumeSeen};
use super::render::{Template, objects, template};
use super::step::{Possession, Step, Why};
use super::{Cluster, names::ObjectKey, observed::ObjectSeen};
use crate::api::RetentionPolicy;

/// The next step.
pub fn next_step(want: &Cluster, seen: &Observed) -> Step {
    let plan = Plan { want, seen, template: template(want) };
    let founder = NodeId::default();
    if let Some(step) = plan.base().or_else(|| plan.leftovers()).or_else(|| plan.missing_pod()).or_else(|| plan.stuck_pod()) {
        return step;
    }
    let Some(group) = &seen.group else {
        return plan.before_the_group(founder);
    };
    if let Some(stranger) = group.strangers.first() {
        return Step::Wait(Why::Stranger(*stranger));
    }
    if !group.authoritative {
        let too_few = group.available < group.required();
        return Step::Wait(if too_few { Why::NoQuorum } else { Why::NoLeader });
    }
    let primary = Plan::without_primary(group).or_else(|| plan.requested());
    primary
        .or_else(|| plan.membership(group))
        .or_else(|| plan.larger_volume())
        .or_else(|| plan.restart(group))
        .unwrap_or_else(|| plan.at_rest(group))
}

struct Plan<'a> {
    want: &'a Cluster,
    seen: &'a Observed,
    template: Template,
}

impl Plan<'_> {
    /// What a cluster needs before its first pod, and keeps as long as it lives.
    fn base(&self) -> Option<Step> {
        let Self { want, seen, .. } = self;
        let secrets: Vec<SecretKind> = wanted_secrets(want).filter(|kind| !seen.secrets.contains_key(kind)).collect();
        if !secrets.is_empty() {
            return Some(Step::CreateSecrets(secrets));
        }
        if let Some(unwanted) = seen.secrets.keys().find(|kind| !wanted_secrets(want).any(|wanted| wanted == **kind)) {
            return Some(Step::DeleteSecret(*unwanted));
        }
        let certificates = self.certificates();
        if !certificates.is_empty() {
            return Some(Step::Certificates(certificates));
        }
        let rendered = objects(want, seen.group.as_ref().map_or(0, |g| g.members.len()));
        let stale: Vec<ObjectKey> = rendered
            .iter()
            .filter(|object| seen.objects.get(&object.key()) != Some(&ObjectSeen::AsApplied(object.fingerprint())))
            .map(super::render::Object::key)
            .collect();
        if !stale.is_empty() {
            return Some(Step::ApplyObjects(stale));
        }
        let outdated = self.outdated_pods();
        if !outdated.is_empty() {
            return Some(Step::RefreshPods(outdated));
        }
        let owners = self.wrong_owners();
        if !owners.is_empty() {
            return Some(Step::SetOwners(owners));
        }
        let labels = self.wrong_labels();
        (!labels.is_empty()).then_some(Step::LabelPods(labels))
    }

    /// Every node that has a pod, or a volume that is to get one, has a certificate. Pods come after their certificates.
    fn certificates(&self) -> Vec<Work> {
        let Self { want, seen, .. } = self;
        let (Some(tls), Some(known)) = (&want.tls, &seen.tls) else { return Vec::new() };
        certificates::decide(tls, known, &certified(want, seen), seen.now).work
    }

    /// The step, unless it makes a pod that would wait for its certificate.
    fn create_pod(&self, node: NodeId, founder: bool) -> Step {
        match &self.seen.tls {
            Some(TlsSeen { ca: Err(trouble), nodes, .. }) if !matches!(nodes.get(&node), Some(Some(_))) => {
                Step::Wait(Why::NoCertificate(node, trouble.to_string()))
            }
            _ => Step::CreatePod { node, founder },
        }
    }

    fn wrong_owners(&self) -> Vec<(Possession, bool)> {
        let Self { want, seen, .. } = self;
        let with_data = want.retention.when_deleted == RetentionPolicy::Delete;
        let pods = seen.pods.iter().filter(|(_, pod)| !pod.terminating).map(|(id, pod)| (Possession::Pod(*id), pod.owned, true));
        let volumes = seen.volumes.iter().filter(|(_, v)| !v.terminating).map(|(id, v)| (Possession::Volume(*id), v.owned, with_data));
        let secrets = seen.secrets.iter().map(|(kind, secret)| (Possession::Secret(*kind), secret.owned, with_data));
        let wrong = pods.chain(volumes).chain(secrets).filter(|(_, owned, wanted)| *owned != Owned::when(*wanted));
        wrong.map(|(what, _, wanted)| (what, wanted)).collect()
    }

    fn wrong_labels(&self) -> Vec<(NodeId, PodRole)> {
        let Some(primary) = self.seen.group.as_ref().and_then(|g| g.primary) else { return Vec::new() };
        let role = |id: NodeId| if id == primary { PodRole::Primary } else { PodRole::Replica };
        let pods = self.seen.pods.iter().filter(|(id, pod)| !pod.terminating && pod.role != Some(role(**id)));
        pods.map(|(id, _)| (*id, role(*id))).collect()
    }

    /// What those who have left leave behind, and pods that have ended.
    fn leftovers(&self) -> Option<Step> {
        let Self { want, seen, .. } = self;
        if let Some(group) = seen.group.as_ref().filter(|g| g.authoritative) {
            for id in seen.ids().into_iter().filter(|id| group.is_spent(*id)) {
                let step = self.put_away(id, want.retention.when_scaled);
                if step.is_some() {
                    return step;
                }
            }
        }
        let finished = seen.pods.iter().find(|(_, pod)| pod.phase == PodPhase::Finished && !pod.terminating);
        finished.map(|(id, _)| Step::ClearPod(*id))
    }

    /// Takes away the pod of a node that is no member, then its volume. None when nothing is left to do, or all of it is on its way.
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

    /// A volume without a pod whose member has not left, as far as anybody can tell.
    fn missing_pod(&self) -> Option<Step> {
        let seen = self.seen;
        let is_out = |id: NodeId| match &seen.group {
            Some(group) if group.authoritative => group.member(id).is_none(), // a newcomer's pod is `grow`'s business
            Some(group) => group.is_spent(id),                                // once spent, always spent: old news will do
            None => false,
        };
        let lacks_pod =
            |(id, volume): &(&NodeId, &VolumeSeen)| !volume.retired && !volume.terminating && !seen.pods.contains_key(*id) && !is_out(**id);
        let (&node, _) = seen.volumes.iter().find(lacks_pod)?;
        Some(self.create_pod(node, self.may_found(node)))
    }

    /// Whether this node may make the cluster: there never was one, and nothing is here that could belong to one.
    fn may_found(&self, node: NodeId) -> bool {
        let seen = self.seen;
        node == NodeId::default() && seen.known.is_none() && seen.group.is_none() && seen.ids().into_iter().all(|id| id == node)
    }

    fn before_the_group(&self, founder: NodeId) -> Step {
        let seen = self.seen;
        if seen.pods.is_empty() && seen.volumes.values().all(|v| v.retired) {
            let fresh = seen.known.is_none() && seen.volumes.is_empty();
            return if fresh { Step::CreateVolume(founder) } else { Step::Wait(Why::DataLost) };
        }
        if let Some(id) = self.going() {
            return Step::Wait(Why::Terminating(id));
        }
        let not_ready = seen.pods.iter().find(|(_, pod)| pod.phase != PodPhase::Ready);
        match not_ready {
            Some((id, pod)) if self.may_found(*id) => Step::Wait(Why::FounderStarting(*id, in_the_way(seen, *id, &pod.phase))),
            Some((id, pod)) => Step::Wait(Why::MemberNotReady(*id, in_the_way(seen, *id, &pod.phase))),
            None => Step::Wait(Why::NobodyAnswers),
        }
    }

    /// A pod or volume that is on its way out and stands in the way of the next of its name.
    fn going(&self) -> Option<NodeId> {
        let pods = self.seen.pods.iter().filter(|(_, p)| p.terminating).map(|(id, _)| *id);
        pods.chain(self.seen.volumes.iter().filter(|(_, v)| v.terminating).map(|(id, _)| *id)).next()
    }

    /// Brings the membership one step nearer to what is wanted. The group's word is authoritative here.
    fn membership(&self, group: &Group) -> Option<Step> {
        let Self { want, seen, .. } = self;
        let mut ours: Vec<&MemberSeen> = group.members.iter().filter(|m| self.is_ours(m)).collect();
        // The highest id goes first, and the primary with the others where another member can be it.
        let last_to_go = |m: &MemberSeen| group.failover.is_none() && group.primary == Some(m.id);
        ours.sort_by_key(|m| (last_to_go(m), std::cmp::Reverse(m.id)));

        if let Some(leaving) = group.members.iter().find(|m| m.role == Role::Leaving) {
            return Some(Step::Wait(Why::Leaving(leaving.id)));
        }
        // A member whose volume is gone, or going, can't come back under its id: it makes room for another one.
        let without_volume = |id: &NodeId| match seen.volumes.get(id) {
            Some(volume) => volume.terminating,
            None => !seen.pods.contains_key(id),
        };
        let lost = ours.iter().find(|m| !last_to_go(m) && without_volume(&m.id));
        let leaves = lost.filter(|m| may_leave(group, m)).copied().or_else(|| self.overdue(group, &ours));
        let step = leaves.and_then(|leaves| self.take_out(group, leaves, |m| !without_volume(&m.id)));
        // Another member may be the one that is fit.
        let may_help = ours.len() < want.replicas && matches!(step, Some(Step::Wait(Why::NoHeir(_))));
        if step.is_some() && !may_help {
            return step;
        }
        let surplus = if ours.len() >= want.replicas { self.surplus_newcomer(group) } else { None };
        if surplus.is_some() {
            return surplus;
        }
        if ours.len() > want.replicas {
            let first = ours.iter().find(|m| !last_to_go(m) && may_leave(group, m));
            if let Some(first) = first {
                let surplus = &ours[..ours.len() - want.replicas];
                return self.take_out(group, first, |m| surplus.iter().all(|leaving| leaving.id != m.id));
            }
        }
        if let Some(learner) = group.changing() {
            return Some(Step::Wait(self.why_not_caught_up(learner)));
        }
        (ours.len() < want.replicas).then(|| self.grow(group))
    }

    fn why_not_caught_up(&self, learner: &MemberSeen) -> Why {
        match self.seen.pods.get(&learner.id) {
            Some(pod) if pod.phase != PodPhase::Ready => Why::NewcomerStarting(learner.id, in_the_way(self.seen, learner.id, &pod.phase)),
            _ => Why::LearnerCatchingUp(learner.id),
        }
    }

    /// A pod or volume under an id that was never a member's and that nobody needs any more: the wish was taken back in time.
    fn surplus_newcomer(&self, group: &Group) -> Option<Step> {
        self.newcomers(group).into_iter().find_map(|id| self.put_away(id, RetentionPolicy::Delete))
    }

    /// Ids above all that were ever members', with a pod or a volume: what the operator began before it died, or before this pass.
    fn newcomers(&self, group: &Group) -> BTreeSet<NodeId> {
        let retired = |id: &NodeId| self.seen.volumes.get(id).is_some_and(|v| v.retired);
        self.seen.ids().into_iter().filter(|id| id.get() >= group.next_node_id && !retired(id)).collect()
    }

    /// Pods before members: the next one's volume, its pod, and when that is ready, one call.
    fn grow(&self, group: &Group) -> Step {
        let seen = self.seen;
        let begun = self.newcomers(group).into_iter().find(|id| {
            let going = seen.pods.get(id).is_some_and(|p| p.terminating) || seen.volumes.get(id).is_some_and(|v| v.terminating);
            !going
        });
        let Some(id) = begun else {
            return match self.next_id(group) {
                Some(id) => Step::CreateVolume(id),
                None => Step::Steady, // two thousand million members were there before
            };
        };
        match (seen.volumes.get(&id), seen.pods.get(&id)) {
            (None, _) => Step::CreateVolume(id),
            (Some(_), None) => self.create_pod(id, false),
            (Some(_), Some(pod)) if pod.phase == PodPhase::Ready => Step::AddNode(id),
            (Some(_), Some(pod)) => Step::Wait(Why::NewcomerStarting(id, in_the_way(self.seen, id, &pod.phase))),
        }
    }

    /// The lowest id above all that were ever used, by a member, a pod or a volume.
    fn next_id(&self, group: &Group) -> Option<NodeId> {
        let seen = self.seen.ids().into_iter().next_back().map_or(0, |id| id.get().saturating_add(1));
        NodeId::new(i64::from(group.next_node_id.max(seen))).ok()
    }

    fn larger_volume(&self) -> Option<Step> {
        let small = |v: &VolumeSeen| !v.terminating && !v.retired && v.requested < self.want.storage.bytes;
        self.seen.volumes.iter().find(|(_, v)| small(v)).map(|(id, _)| Step::GrowVolume(*id))
    }

    /// Nothing is to be done; is all well?
    fn at_rest(&self, group: &Group) -> Step {
        for member in group.members.iter().filter(|m| self.is_ours(m)) {
            if let Some(why) = self.unwell(member) {
                return Step::Wait(why);
            }
        }
        self.going().map_or(Step::Steady, |id| Step::Wait(Why::Terminating(id)))
    }

    /// What is wrong with a member of ours.
    fn unwell(&self, member: &MemberSeen) -> Option<Why> {
        match self.seen.pods.get(&member.id) {
            Some(pod) if pod.terminating => Some(Why::Restarting(member.id)),
            Some(pod) if pod.phase != PodPhase::Ready => Some(Why::MemberNotReady(member.id, in_the_way(self.seen, member.id, &pod.phase))),
            Some(_) if member.reachable == Some(false) => Some(Why::MemberUnreachable(member.id)),
            Some(_) => None,
            None => Some(Why::MemberNotReady(member.id, Some("it has no pod".into()))),
        }
    }

    /// Whether a member is one of this operator's pods. Others (a server outside of Kubernetes, added by hand) are left alone.
    fn is_ours(&self, member: &MemberSeen) -> bool {
        let Self { want, .. } = self;
        member.address.host() == names::host(&want.name, &want.namespace, member.id)
    }
}

/// The Secrets that a cluster has.
pub fn wanted_secrets(want: &Cluster) -> impl Iterator<Item = SecretKind> + use<> {
    let (superuser, ca) = (want.superuser, want.tls.as_ref().is_some_and(|tls| tls.ca_secret.is_none()));
    SecretKind::ALL.into_iter().filter(move |kind| match kind {
        SecretKind::Internal | SecretKind::App => true,
        SecretKind::Superuser => superuser,
        SecretKind::Ca => ca,
    })
}

/// Who has a certificate, and the names in it: every node that has a pod, or a volume that may get one.
pub fn certified(want: &Cluster, seen: &Observed) -> BTreeMap<NodeId, Subject> {
    let volumes = seen.volumes.iter().filter(|(_, volume)| !volume.retired).map(|(id, _)| *id);
    let ids: BTreeSet<NodeId> = seen.pods.keys().copied().chain(volumes).collect();
    let subject = |id| Subject { names: names::certificate_names(&want.name, &want.namespace, id), has_pod: seen.pods.contains_key(&id) };
    ids.into_iter().map(|id| (id, subject(id))).collect()
}

/// Whether this member counts as a full one: a voter, or a follower where there are as many voters as there can be.
pub fn counts(group: &Group, member: &MemberSeen) -> bool {
    match member.role {
        Role::Voter => true,
        Role::Learner => group.voters() >= MAX_VOTERS,
        Role::Leaving => false,
    }
}

/// While somebody is on the way in, nobody but them may leave.
fn may_leave(group: &Group, member: &MemberSeen) -> bool {
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
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
