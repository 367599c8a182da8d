//! Pods that are not ready, or out of the leader's reach.

use super::primary::with_primary;
use super::*;

#[test]
fn a_stale_pod_that_is_not_ready_is_the_first() {
    let want = with_failover(3);
    let not_ready = |seen: &mut Observed, node: u32, reachable: bool| {
        seen.pods.get_mut(&id(node)).unwrap().phase = PodPhase::Starting(None);
        seen.group.as_mut().unwrap().members[node as usize - 1].reachable = Some(reachable);
    };
    let all_stale = || {
        let mut seen = with_primary(&want, 3, 1);
        stale(&mut seen, &[1, 2, 3]);
        seen
    };
    let mut seen = all_stale();
    not_ready(&mut seen, 2, false);
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(2)), "nobody hears of it");
    let mut seen = all_stale();
    not_ready(&mut seen, 2, true);
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(2)), "the others are enough");
    not_ready(&mut seen, 3, false);
    seen.pods.get_mut(&id(3)).unwrap().template = Some(template(&want));
    let wait = Step::Wait(WaitReason::MemberNotReady(id(3), None));
    assert_eq!(
        next_step(&want, &seen),
        wait,
        "its vote is needed until the one that was just made is there"
    );
    seen.pods.get_mut(&id(3)).unwrap().phase = starting();
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(2)), "which does not come");
    // No member is ready, and nobody answers.
    let mut seen = all_stale();
    for node in 1..=3 {
        not_ready(&mut seen, node, false);
    }
    seen.group = None;
    for node in 1..=3 {
        assert_eq!(next_step(&want, &seen), Step::RestartPod(id(node)));
        seen.pods.get_mut(&id(node)).unwrap().terminating = true;
    }
    // The primary, which still answers the leader: another one first, where there is one.
    let mut seen = all_stale();
    not_ready(&mut seen, 1, true);
    assert_eq!(next_step(&want, &seen), Step::SwitchOver(id(2)));
    not_ready(&mut seen, 2, true);
    not_ready(&mut seen, 3, true);
    for node in [2, 3] {
        seen.pods.get_mut(&id(node)).unwrap().template = Some(template(&want));
        seen.pods.get_mut(&id(node)).unwrap().phase = starting();
    }
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(1)), "nobody can take over");
}

#[test]
fn a_pod_that_was_made_with_an_earlier_configuration_is_made_again_once_it_can_be_applied() {
    let want = wanted(1);
    let mut seen = healthy(&want, 1);
    seen.pods.get_mut(&id(1)).unwrap().outdated = true;
    let key = names::instance_config_key("demo");
    let applied = seen.objects.remove(&key).unwrap();
    let refused =
        Cause::Error { reason: StepFailureReason::RefusedByApiServer, message: "no".into() };
    seen.failing.record(&Step::ApplyObjects(vec![key.clone()]), &refused, seen.now);
    assert_eq!(next_step(&want, &seen), Step::Steady, "it would start with the same again");
    seen.objects.insert(key, applied);
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(1)));
}

#[test]
fn who_is_out_of_the_leaders_reach_gets_no_clients() {
    let out = |want: &ClusterSpec, node: u32, change: &dyn Fn(&mut Observed)| {
        let mut seen = healthy(want, 3);
        seen.group.as_mut().unwrap().members[node as usize - 1].reachable = Some(false);
        change(&mut seen);
        match next_step(want, &seen) {
            Step::RoutePods(pods) => Some(pods),
            _ => None,
        }
    };
    let (fixed, chosen) = (wanted(3), with_failover(3));
    assert_eq!(out(&chosen, 2, &|_| ()), Some(vec![(id(2), false)]));
    assert_eq!(
        out(&chosen, 1, &|_| ()),
        Some(vec![(id(1), false)]),
        "a primary that the majority does not hear is none any more"
    );
    assert_eq!(out(&fixed, 1, &|_| ()), None, "a fixed primary serves on");
    assert_eq!(
        out(&chosen, 2, &|s| s.group.as_mut().unwrap().authoritative = false),
        None,
        "only a leader's word counts"
    );
    assert_eq!(out(&chosen, 2, &|s| s.group = None), None);
    let not_ready =
        |s: &mut Observed| s.pods.get_mut(&id(2)).unwrap().phase = PodPhase::Starting(None);
    assert_eq!(out(&chosen, 2, &not_ready), None, "Kubernetes leads nobody to it");
    let taken_out = |s: &mut Observed| s.pods.get_mut(&id(2)).unwrap().routed = Some(false);
    assert_eq!(
        out(&chosen, 2, &|s| (not_ready(s), taken_out(s)).1),
        Some(vec![(id(2), true)]),
        "so that it need not wait for the operator"
    );
    let back = |s: &mut Observed| s.group.as_mut().unwrap().members[1].reachable = Some(true);
    assert_eq!(out(&chosen, 2, &|s| (taken_out(s), back(s)).1), Some(vec![(id(2), true)]));
    let of_an_earlier_operator =
        |s: &mut Observed| s.pods.values_mut().for_each(|pod| pod.routed = None);
    let all = Some(vec![(id(1), true), (id(2), false), (id(3), true)]);
    assert_eq!(out(&chosen, 2, &of_an_earlier_operator), all, "before the Services select by it");
}
