//! The rolling restart: pods that are not as the spec has them now are made again, each on its
//! volume and under its id.
//!
//! ```text
//!  a pod that is not ready  first, and at once: it takes nothing from anybody, and a better spec may be its only way out
//!  a pod that is            only while every member is well and has nearly all of the WAL; followers ▸ the leader ▸ the primary, which
//!                           is another one before, where the members can choose
//! ```
//!
//! A server with settings that take effect only after a restart counts as such a pod, unless
//! `restartOnChange` is off.
//!
//! Nobody is removed for it: a member whose pod is made again is a server that was restarted.
//! Called by [`super::next_step`].

use pgraft_core::{NodeId, Role};
use std::cmp::Reverse;

use super::Plan;
use super::primary::leaves_a_majority;
use crate::cluster::observe::group::{GroupView, MemberSeen};
use crate::cluster::observe::observed::{PodPhase, PodSeen};
use crate::cluster::render::{configuration_hash, objects};
use crate::cluster::step::{Step, WaitReason};
use crate::cluster::{ClusterSpec, Observed};
use pgraft_api::names;

/// How much WAL a standby may lack while another pod is restarted: one segment, so that it stays
/// with the primary under any load.
const NEARLY_ALL: u64 = 16 << 20;

impl Plan<'_> {
    /// Pods that are not ready and that the spec has otherwise now, and that the group does not
    /// miss: they can't start, or nobody hears of them. No other pod need be ready for that.
    pub(super) fn stuck_pods(&self) -> Vec<Step> {
        let unready = |pod: &PodSeen| matches!(pod.phase, PodPhase::Starting(_));
        let pods =
            self.seen.pods.iter().filter(|(id, pod)| {
                unready(pod) && self.is_stale(**id) && !self.is_missed(**id, pod)
            });
        pods.map(|(id, _)| Step::RestartPod(*id)).collect()
    }

    /// Whether the leader hears of a pod's member, though the pod is not ready.
    fn is_missed(&self, node: NodeId, pod: &PodSeen) -> bool {
        let group = self
            .seen
            .group
            .as_ref()
            .filter(|g| g.authoritative && matches!(pod.phase, PodPhase::Starting(None)));
        group.and_then(|g| g.member(node)).is_some_and(|m| m.reachable == Some(true))
    }

    /// The next pod, or what it waits for. None when all pods are as the spec has them. One that is
    /// not ready is the first.
    pub(super) fn restart(&self, group: &GroupView) -> Option<Step> {
        let stale =
            group.members.iter().filter(|m| self.is_stale(m.id) || self.waits_for_restart(m.id));
        let next = stale.min_by_key(|m| {
            (
                self.seen.is_ready(m.id),
                group.primary == Some(m.id),
                group.leader == Some(m.id),
                Reverse(m.id),
            )
        })?;
        if !self.seen.is_ready(next.id) {
            return Some(self.replace_unready(group, next));
        }
        let held = group.members.iter().find_map(|member| self.holds_back(group, member));
        if let Some(why) = held {
            return Some(Step::Wait(why));
        }
        Some(self.replace(group, next.id))
    }

    /// Another primary first, where the members choose it and there is another one.
    fn replace(&self, group: &GroupView, node: NodeId) -> Step {
        let can_move = group.failover.is_some()
            && group.primary == Some(node)
            && group
                .members
                .iter()
                .any(|m| m.id != node && m.role == Role::Voter && self.is_ours(m));
        if can_move {
            self.hand_over(group, node, |m| !self.is_stale(m.id) && !self.waits_for_restart(m.id))
        } else {
            Step::RestartPod(node)
        }
    }

    /// Pods whose files the kubelet has not refreshed yet, by their annotation, for the ConfigMap
    /// as it is now.
    pub(super) fn outdated_pods(&self) -> Vec<NodeId> {
        if !self.is_configured() {
            return Vec::new();
        }
        let wanted = configuration_hash(self.want);
        let outdated = |pod: &PodSeen| {
            !pod.terminating && pod.configuration.as_ref().is_some_and(|hash| *hash != wanted)
        };
        self.seen.pods.iter().filter(|(_, pod)| outdated(pod)).map(|(id, _)| *id).collect()
    }

    /// A pod that is not ready and whose member votes. Where its vote is needed it waits for
    /// members that are on their way back, and for no others.
    fn replace_unready(&self, group: &GroupView, member: &MemberSeen) -> Step {
        let on_its_way = |m: &&MemberSeen| {
            let pod = self.seen.pods.get(&m.id);
            m.id != member.id
                && self.is_ours(m)
                && pod.is_none_or(|p| p.terminating || p.phase == PodPhase::Starting(None))
        };
        let other =
            group.members.iter().find(on_its_way).filter(|_| !leaves_a_majority(group, member));
        if let Some(why) = other.and_then(|other| self.unwell(other)) {
            return Step::Wait(why);
        }
        match self.replace(group, member.id) {
            Step::Wait(WaitReason::NoSuccessor(_)) => Step::RestartPod(member.id),
            step => step,
        }
    }

    fn is_stale(&self, node: NodeId) -> bool {
        let outdated = |pod: &PodSeen| pod.outdated && self.is_configured();
        self.seen.pods.get(&node).is_some_and(|pod| {
            !pod.terminating && (pod.template != Some(self.template) || outdated(pod))
        })
    }

    fn is_configured(&self) -> bool {
        is_configured(self.want, self.seen)
    }

    /// Whether a setting of a server that runs takes effect only after a restart, and it is wanted
    /// that this happens by itself. Its instance manager sees to it that a standby never has less
    /// than the primary's WAL needs: standbys go first, and it says so itself when one has to be
    /// restarted once more after the primary.
    fn waits_for_restart(&self, node: NodeId) -> bool {
        let (seen, want) = (self.seen, self.want);
        let waits =
            seen.configurations.get(&node).is_some_and(|said| !said.pending_restart.is_empty());
        want.restart_on_change && waits && seen.is_ready(node)
    }

    /// Why no pod may be restarted now, as far as this member is concerned.
    fn holds_back(&self, group: &GroupView, member: &MemberSeen) -> Option<WaitReason> {
        if !self.is_ours(member) {
            return (member.reachable == Some(false))
                .then_some(WaitReason::MemberUnreachable(member.id));
        }
        let behind =
            group.primary != Some(member.id) && member.lag_bytes.is_none_or(|lag| lag > NEARLY_ALL);
        self.unwell(member).or_else(|| behind.then_some(WaitReason::Behind(member.id)))
    }
}

/// Whether a pod that is made now starts with the configuration that the spec has.
pub fn is_configured(want: &ClusterSpec, seen: &Observed) -> bool {
    let key = names::instance_config_key(&want.name);
    objects(want, 0).iter().filter(|object| object.key() == key).all(|object| seen.has(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;
    use crate::cluster::observe::observed::Observed;
    use crate::cluster::plan::next_step;
    use pgraft_core::configuration::ConfigurationStatus;

    fn pending(seen: &mut Observed, nodes: &[u32]) {
        let waits = || ConfigurationStatus {
            pending_restart: vec!["shared_buffers".into()],
            ..ConfigurationStatus::default()
        };
        seen.configurations = nodes.iter().map(|n| (id(*n), waits())).collect();
    }

    #[test]
    fn settings_that_need_a_restart_cause_one_standbys_first() {
        let mut want = with_failover(3);
        let mut seen = healthy(&want, 3);
        for (waiting, next) in [
            (&[1, 2, 3][..], Step::RestartPod(id(3))),
            (&[1, 2], Step::RestartPod(id(2))),
            (&[1], Step::SwitchOver(id(2))),
        ] {
            pending(&mut seen, waiting);
            assert_eq!(next_step(&want, &seen), next);
        }
        want.restart_on_change = false;
        assert_eq!(next_step(&want, &seen), Step::Steady);
    }

    #[test]
    fn a_restart_for_a_setting_waits_for_members_that_are_unwell() {
        let want = with_failover(3);
        let mut seen = healthy(&want, 3);
        pending(&mut seen, &[1, 2, 3]);
        seen.pods.get_mut(&id(2)).unwrap().phase = PodPhase::Starting(None);
        assert_eq!(next_step(&want, &seen), Step::Wait(WaitReason::MemberNotReady(id(2), None)));
    }

    #[test]
    fn pods_are_refreshed_when_the_configuration_has_changed() {
        let mut want = wanted(3);
        let mut seen = healthy(&want, 3);
        for pod in seen.pods.values_mut() {
            pod.configuration = Some(configuration_hash(&want));
        }
        seen.pods.get_mut(&id(2)).unwrap().configuration = None;
        assert_eq!(next_step(&want, &seen), Step::Steady);
        want.parameters.insert("work_mem".into(), "9MB".into());
        assert!(matches!(next_step(&want, &seen), Step::ApplyObjects(_)), "the ConfigMap first");
        settle(&want, &mut seen);
        assert_eq!(next_step(&want, &seen), Step::RefreshPods(vec![id(1), id(3)]));
    }
}
