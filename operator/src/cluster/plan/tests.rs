//! One situation, one step.

use jiff::SignedDuration;
use pgraft_core::failover::Phase;
use pgraft_core::{Address, Role};
use serde_json::json;

use super::*;
use crate::cluster::certificates::{CaTrouble, Certificate};
use crate::cluster::fixtures::*;
use crate::cluster::observe::group::FailoverSeen;
use crate::cluster::observe::observed::PodSeen;
use crate::cluster::plan::failures::{Cause, StepFailureReason};
use crate::cluster::plan::switchover_attempt::SwitchoverAttempt;
use crate::cluster::step::MembershipRequest;
use pgraft_api::names::PodRole;

fn step(want: &ClusterSpec, seen: &mut Observed) -> Step {
    settle(want, seen);
    routed(want, seen)
}

/// The step after the pods' routes, which come before everything else.
fn routed(want: &ClusterSpec, seen: &mut Observed) -> Step {
    let step = next_step(want, seen);
    let Step::RoutePods(pods) = step else { return step };
    for (node, routed) in pods {
        seen.pods.get_mut(&node).unwrap().routed = Some(routed);
    }
    next_step(want, seen)
}

fn starting() -> PodPhase {
    PodPhase::Starting(Some("ImagePullBackOff".into()))
}

#[test]
fn from_nothing_to_the_bootstrap_node() {
    let want = wanted(3);
    let mut seen = empty();
    assert_eq!(
        next_step(&want, &seen),
        Step::CreateSecrets(vec![SecretKind::Internal, SecretKind::App, SecretKind::Ca])
    );
    settle(&want, &mut seen);
    seen.objects.clear();
    assert!(matches!(next_step(&want, &seen), Step::ApplyObjects(keys) if keys.len() == 7));
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(1)));
    seen.volumes.insert(id(1), volume());
    assert_eq!(step(&want, &mut seen), Step::CreatePod { node: id(1), bootstrap: true });
    seen.pods.insert(id(1), PodSeen { phase: starting(), ..pod(false) });
    assert_eq!(
        step(&want, &mut seen),
        Step::Wait(WaitReason::BootstrapNodeStarting(id(1), Some("ImagePullBackOff".into())))
    );
}

#[test]
fn at_rest() {
    let want = wanted(3);
    assert_eq!(next_step(&want, &healthy(&want, 3)), Step::Steady);
}

#[test]
fn growing_is_volume_pod_member() {
    let want = wanted(4);
    let mut seen = healthy(&want, 3);
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(4)));
    seen.volumes.insert(id(4), volume());
    assert_eq!(step(&want, &mut seen), Step::CreatePod { node: id(4), bootstrap: false });
    seen.pods
        .insert(id(4), PodSeen { phase: starting(), role: Some(PodRole::Replica), ..pod(false) });
    assert_eq!(
        step(&want, &mut seen),
        Step::Wait(WaitReason::NewcomerStarting(id(4), Some("ImagePullBackOff".into())))
    );
    seen.pods.insert(id(4), pod(false));
    assert_eq!(step(&want, &mut seen), Step::AddNode(id(4)));
    let mut members: Vec<_> = (1..=3).map(|n| member(n, Role::Voter)).collect();
    members.push(member(4, Role::Learner));
    seen.group = Some(group(&members, 5));
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::LearnerCatchingUp(id(4))));
    members[3] = member(4, Role::Voter);
    seen.group = Some(group(&members, 5));
    assert_eq!(step(&want, &mut seen), Step::Steady);
}

#[test]
fn shrinking_is_member_pod_volume() {
    let want = wanted(2);
    let mut seen = healthy(&want, 3);
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(3)));
    let mut members: Vec<_> =
        (1..=3).map(|n| member(n, if n == 3 { Role::Leaving } else { Role::Voter })).collect();
    seen.group = Some(group(&members, 4));
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::Leaving(id(3))));
    members.pop();
    seen.group = Some(group(&members, 4));
    assert_eq!(step(&want, &mut seen), Step::DeletePod(id(3)));
    seen.pods.remove(&id(3));
    assert_eq!(step(&want, &mut seen), Step::DeleteVolume(id(3)));
    seen.volumes.remove(&id(3));
    assert_eq!(step(&want, &mut seen), Step::Steady);
}

#[test]
fn a_volume_that_is_to_stay_is_marked_and_gets_no_pod() {
    let want = parsed(
        &json!({"replicas": 2, "storage": {"size": "1Gi"}, "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain"}}),
    );
    let mut seen = healthy(&want, 2);
    seen.group = Some(group(&[member(1, Role::Voter), member(2, Role::Voter)], 4));
    seen.volumes.insert(id(3), volume());
    assert_eq!(step(&want, &mut seen), Step::RetireVolume(id(3)));
    seen.volumes.insert(id(3), VolumeSeen { retired: true, ..volume() });
    assert_eq!(step(&want, &mut seen), Step::Steady);
    let want = wanted(3);
    assert_eq!(
        step(&want, &mut seen),
        Step::CreateVolume(id(4)),
        "its id is not used again either"
    );
}

#[test]
fn the_primary_leaves_last_even_when_its_id_is_the_highest() {
    let want = wanted(1);
    let mut seen = healthy(&want, 3);
    let mut group = seen.group.unwrap();
    group.primary = Some(id(3));
    seen.group = Some(group);
    for (n, pod) in &mut seen.pods {
        pod.role = Some(if *n == id(3) { PodRole::Primary } else { PodRole::Replica });
    }
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(2)));
}

#[test]
fn a_wish_taken_back_in_time_leaves_nothing() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    seen.volumes.insert(id(4), volume());
    seen.pods.insert(id(4), pod(false));
    assert_eq!(step(&want, &mut seen), Step::DeletePod(id(4)));
    seen.pods.remove(&id(4));
    assert_eq!(step(&want, &mut seen), Step::DeleteVolume(id(4)));
}

#[test]
fn a_learner_that_nobody_wants_any_more_is_taken_out() {
    let want = wanted(3);
    let mut seen = healthy(&want, 4);
    let mut members: Vec<_> = (1..=3).map(|n| member(n, Role::Voter)).collect();
    members.push(member(4, Role::Learner));
    seen.group = Some(group(&members, 5));
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(4)));
    let want = wanted(2);
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(4)), "one change at a time");
}

#[test]
fn a_missing_pod_comes_back_on_its_volume_whoever_answers() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    seen.pods.remove(&id(2));
    assert_eq!(step(&want, &mut seen), Step::CreatePod { node: id(2), bootstrap: false });
    seen.group = None;
    assert_eq!(step(&want, &mut seen), Step::CreatePod { node: id(2), bootstrap: false });
}

#[test]
fn an_evicted_pod_is_made_again() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    seen.pods.insert(id(2), PodSeen { phase: PodPhase::Finished, ..pod(false) });
    assert_eq!(step(&want, &mut seen), Step::ClearPod(id(2)));
}

#[test]
fn a_new_object_over_old_volumes_bootstraps_nothing() {
    let want = wanted(3);
    let mut seen = empty();
    for n in 1..=3 {
        seen.volumes.insert(id(n), volume());
    }
    seen.volumes.insert(id(4), VolumeSeen { retired: true, ..volume() });
    for n in 1..=3 {
        assert_eq!(step(&want, &mut seen), Step::CreatePod { node: id(n), bootstrap: false });
        seen.pods.insert(id(n), PodSeen { phase: starting(), ..pod(false) });
    }
    assert!(matches!(step(&want, &mut seen), Step::Wait(WaitReason::MemberNotReady(..))));
}

#[test]
fn a_cluster_whose_volumes_are_gone_is_not_founded_again() {
    let want = wanted(3);
    let mut seen = empty();
    seen.known = Some(cluster_id());
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::DataLost));
    seen.known = None;
    seen.volumes.insert(id(3), VolumeSeen { retired: true, ..volume() });
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::DataLost));
}

#[test]
fn a_member_without_a_volume_makes_room_for_another() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    seen.pods.remove(&id(2));
    seen.volumes.remove(&id(2));
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(2)));
    let mut lost_primary = healthy(&want, 3);
    lost_primary.pods.remove(&id(1));
    lost_primary.volumes.remove(&id(1));
    assert!(
        matches!(step(&want, &mut lost_primary), Step::Wait(WaitReason::MemberNotReady(node, _)) if node == id(1))
    );
}

#[test]
fn nothing_is_taken_away_without_a_leader_that_reaches_a_majority() {
    let want = wanted(1);
    let mut seen = healthy(&want, 3);
    let mut deaf = seen.group.clone().unwrap();
    deaf.authoritative = false;
    seen.group = Some(deaf.clone());
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::NoLeader));
    deaf.available = 1;
    deaf.members.pop(); // as one who lags behind would see it
    deaf.next_node_id = 9;
    seen.group = Some(deaf);
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::NoQuorum));
}

#[test]
fn services_follow_the_primary() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let mut group = seen.group.clone().unwrap();
    group.primary = Some(id(2));
    seen.group = Some(group);
    assert_eq!(
        step(&want, &mut seen),
        Step::LabelPods(vec![(id(1), PodRole::Replica), (id(2), PodRole::Primary)])
    );
}

#[test]
fn a_member_down_does_not_stop_growth() {
    let want = wanted(5);
    let mut seen = healthy(&want, 3);
    seen.pods.insert(id(3), PodSeen { phase: starting(), ..pod(false) });
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(4)));
}

#[test]
fn members_elsewhere_are_left_alone_and_not_counted() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let mut members = seen.group.clone().unwrap().members;
    members.push(MemberSeen {
        address: Address::new("192.168.1.14", 7004).unwrap(),
        ..member(9, Role::Voter)
    });
    seen.group = Some(group(&members, 10));
    assert_eq!(step(&want, &mut seen), Step::Steady);
    let want = wanted(4);
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(10)));
}

#[test]
fn owners_follow_the_policy() {
    let want = parsed(
        &json!({"replicas": 1, "storage": {"size": "1Gi"}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}),
    );
    let mut seen = healthy(&want, 1);
    let secrets = [SecretKind::Internal, SecretKind::App, SecretKind::Ca]
        .map(|kind| (OwnedObject::Secret(kind), true));
    let all: Vec<_> = [(OwnedObject::Volume(id(1)), true)].into_iter().chain(secrets).collect();
    assert_eq!(step(&want, &mut seen), Step::SetOwners(all));
}

#[test]
fn access_that_is_not_wanted_any_more_is_taken_back() {
    let want = wanted(1);
    let mut seen = healthy(&want, 1);
    seen.secrets.insert(SecretKind::Superuser, secret());
    assert_eq!(next_step(&want, &seen), Step::DeleteSecret(SecretKind::Superuser));
}

#[test]
fn a_pod_comes_after_its_certificate_and_not_without() {
    let want = wanted(2);
    let mut seen = healthy(&want, 1);
    seen.volumes.insert(id(2), volume());
    settle(&want, &mut seen);
    let tls = TlsSeen {
        ca: Err(CaTrouble::Missing("mine".into())),
        nodes: BTreeMap::new(),
        uids: BTreeMap::new(),
        shared: BTreeMap::new(),
    };
    seen.tls = Some(tls.clone());
    let Step::Wait(why @ WaitReason::NoCertificate(..)) = next_step(&want, &seen) else { panic!() };
    assert_eq!(
        why.describe("demo").message,
        "No certificate for demo-2: there is no Secret mine with the CA"
    );
    let (now, names) = (seen.now, BTreeSet::new());
    let ca = Certificate {
        der: vec![1],
        not_before: now,
        not_after: now + certificates::CA_LIFETIME,
        names,
    };
    seen.tls = Some(TlsSeen { ca: Ok(ca), ..tls });
    assert_eq!(
        next_step(&want, &seen),
        Step::Certificates(vec![Work::Issue(id(1)), Work::Issue(id(2))])
    );
}

#[test]
fn volumes_grow_and_never_shrink() {
    let want = parsed(&json!({"replicas": 1, "storage": {"size": "2Gi"}}));
    let mut seen = healthy(&want, 1);
    assert_eq!(step(&want, &mut seen), Step::GrowVolume(id(1)));
    let want = parsed(&json!({"replicas": 1, "storage": {"size": "512Mi"}}));
    assert_eq!(step(&want, &mut seen), Step::Steady);
}

#[test]
fn beyond_seven_voters_a_learner_is_a_full_member() {
    let want = wanted(9);
    let mut seen = healthy(&want, 8);
    let mut members: Vec<_> = (1..=7).map(|n| member(n, Role::Voter)).collect();
    members.push(member(8, Role::Learner));
    seen.group = Some(group(&members, 9));
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(9)));
}

/// Pods of an earlier spec.
fn stale(seen: &mut Observed, nodes: &[u32]) {
    for n in nodes {
        seen.pods.get_mut(&id(*n)).unwrap().template = None;
    }
}

#[test]
fn pods_are_restarted_one_by_one_the_leader_late_and_the_primary_last() {
    let want = wanted(4);
    let mut seen = healthy(&want, 4);
    let mut of_three = seen.group.clone().unwrap();
    of_three.leader = Some(id(3));
    seen.group = Some(of_three);
    stale(&mut seen, &[1, 2, 3, 4]);
    for next in [4, 2, 3, 1] {
        assert_eq!(next_step(&want, &seen), Step::RestartPod(id(next)));
        let as_wanted = healthy(&want, 4).pods.remove(&id(next)).unwrap();
        seen.pods.insert(id(next), PodSeen { terminating: true, ..as_wanted.clone() });
        assert_eq!(next_step(&want, &seen), Step::Wait(WaitReason::Restarting(id(next))));
        seen.pods.remove(&id(next));
        assert_eq!(next_step(&want, &seen), Step::CreatePod { node: id(next), bootstrap: false });
        seen.pods
            .insert(id(next), PodSeen { phase: PodPhase::Starting(None), ..as_wanted.clone() });
        assert_eq!(next_step(&want, &seen), Step::Wait(WaitReason::MemberNotReady(id(next), None)));
        seen.pods.insert(id(next), as_wanted);
    }
    assert_eq!(next_step(&want, &seen), Step::Steady);
}

#[test]
fn no_pod_is_restarted_while_another_member_is_unwell() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    stale(&mut seen, &[1, 2, 3]);
    let with = |change: &dyn Fn(&mut MemberSeen)| {
        let mut seen = seen.clone();
        change(&mut seen.group.as_mut().unwrap().members[1]);
        routed(&want, &mut seen)
    };
    assert_eq!(
        with(&|m| m.reachable = Some(false)),
        Step::Wait(WaitReason::MemberUnreachable(id(2)))
    );
    assert_eq!(with(&|m| m.lag_bytes = Some(17 << 20)), Step::Wait(WaitReason::Behind(id(2))));
    assert_eq!(with(&|m| m.lag_bytes = None), Step::Wait(WaitReason::Behind(id(2))));
    assert_eq!(with(&|m| m.lag_bytes = Some(1 << 20)), Step::RestartPod(id(3)));
    assert_eq!(with(&|m| m.role = Role::Learner), Step::Wait(WaitReason::LearnerCatchingUp(id(2))));
    seen.pods.get_mut(&id(2)).unwrap().phase = PodPhase::Starting(None);
    seen.pods.get_mut(&id(2)).unwrap().template = Some(template(&want));
    assert_eq!(next_step(&want, &seen), Step::Wait(WaitReason::MemberNotReady(id(2), None)));
}

#[test]
fn a_pod_that_can_not_start_is_made_as_the_spec_has_it_now_whoever_answers() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    seen.pods.get_mut(&id(2)).unwrap().phase = starting();
    assert!(
        matches!(next_step(&want, &seen), Step::Wait(WaitReason::MemberNotReady(..))),
        "it is as the spec has it"
    );
    stale(&mut seen, &[1, 2, 3]);
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(2)));
    seen.group = None;
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(2)));
}

#[test]
fn a_server_elsewhere_that_is_down_holds_a_restart_back() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let mut members = seen.group.clone().unwrap().members;
    let elsewhere = Address::new("192.168.1.14", 7004).unwrap();
    members.push(MemberSeen {
        address: elsewhere,
        reachable: Some(false),
        lag_bytes: None,
        ..member(9, Role::Voter)
    });
    seen.group = Some(group(&members, 10));
    settle(&want, &mut seen);
    stale(&mut seen, &[1, 2, 3]);
    assert_eq!(next_step(&want, &seen), Step::Wait(WaitReason::MemberUnreachable(id(9))));
    members[3].reachable = Some(true);
    seen.group = Some(group(&members, 10));
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(3)));
}

mod primary;
mod unready;
