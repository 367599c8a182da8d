//! Where the members choose the primary.

use super::*;

/// With failover, the primary where it is said to be.
pub(super) fn with_primary(want: &ClusterSpec, members: u32, primary: u32) -> Observed {
    let mut seen = healthy(want, members);
    seen.group.as_mut().unwrap().primary = Some(id(primary));
    for (n, pod) in &mut seen.pods {
        pod.role = Some(if *n == id(primary) { PodRole::Primary } else { PodRole::Replica });
    }
    seen
}

fn switchover_attempt(target: u32, seen: &Observed, refused: Option<&str>) -> SwitchoverAttempt {
    SwitchoverAttempt {
        target: id(target),
        at: seen.now,
        refusals: 1,
        refused: refused.map(|words| ("PGR08".into(), words.into())),
    }
}

#[test]
fn a_request_is_one_call_and_is_not_repeated() {
    let mut want = with_failover(3);
    want.switchover = Some(id(3));
    let mut seen = with_primary(&want, 3, 1);
    assert_eq!(next_step(&want, &seen), Step::SwitchOver(id(3)));
    seen.switchover_attempt = Some(switchover_attempt(3, &seen, None));
    assert_eq!(
        next_step(&want, &seen),
        Step::Steady,
        "it is switchover_attempt once, and the next look shows what came of it"
    );
    // Done, and a later failover moves the primary on.
    let mut seen = with_primary(&want, 3, 2);
    seen.switched_to = Some(id(3));
    assert_eq!(next_step(&want, &seen), Step::Steady);
    want.switchover = Some(id(1));
    assert_eq!(next_step(&want, &seen), Step::SwitchOver(id(1)), "another request");
}

#[test]
fn a_request_that_can_not_be_carried_out_keeps_nothing_else_waiting() {
    let mut want = with_failover(4);
    want.switchover = Some(id(9));
    assert_eq!(step(&want, &mut with_primary(&want, 3, 1)), Step::CreateVolume(id(4)));
    want.switchover = Some(id(3));
    let mut seen = with_primary(&want, 3, 1);
    seen.group.as_mut().unwrap().members[2].lag_bytes = Some(17 << 20);
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(4)));
    let mut seen = with_primary(&want, 3, 1);
    seen.switchover_attempt = Some(switchover_attempt(3, &seen, Some("not now")));
    assert_eq!(step(&want, &mut seen), Step::CreateVolume(id(4)));
    seen.now += SignedDuration::from_secs(4);
    assert_eq!(step(&want, &mut seen), Step::SwitchOver(id(3)), "switchover_attempt again");
}

#[test]
fn nothing_is_changed_while_there_is_no_primary() {
    let mut want = with_failover(4);
    want.switchover = Some(id(3));
    let mut seen = with_primary(&want, 3, 1);
    let failover = FailoverSeen {
        phase: Phase::Recruiting,
        waits_for: vec![id(2), id(3)],
        ..first_primary_term()
    };
    seen.group.as_mut().unwrap().failover = Some(failover);
    let Step::Wait(why) = step(&want, &mut seen) else { panic!() };
    assert!(!why.is_ordinary());
    let words = "Waiting for a primary: an answer from one of demo-2, demo-3 is required; until then no member takes writes";
    assert_eq!(why.describe("demo").message, words);
    assert!(WaitReason::NoPrimary(Vec::new()).is_ordinary(), "it takes a moment");
}

#[test]
fn the_primary_is_another_one_before_it_is_scaled_away() {
    let want = with_failover(3);
    let mut seen = with_primary(&want, 5, 5);
    let mut group = seen.group.clone().unwrap();
    group.leader = Some(id(1));
    seen.group = Some(group.clone());
    assert_eq!(
        step(&want, &mut seen),
        Step::SwitchOver(id(2)),
        "one that stays, and does not lead"
    );
    group.members[1].reachable = Some(false);
    group.members[2].lag_bytes = Some(17 << 20);
    seen.group = Some(group.clone());
    assert_eq!(step(&want, &mut seen), Step::SwitchOver(id(1)));
    let mut moved = with_primary(&want, 5, 2);
    assert_eq!(step(&want, &mut moved), Step::RemoveNode(id(5)));
    seen.switchover_attempt = Some(switchover_attempt(2, &seen, None));
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::SwitchingOver(id(2))));
    seen.switchover_attempt = Some(switchover_attempt(2, &seen, Some("no")));
    assert!(matches!(
        step(&want, &mut seen),
        Step::Wait(WaitReason::Refused { change: MembershipRequest::SwitchOver(_), .. })
    ));
    seen.switchover_attempt = None;
    for member in &mut group.members[..4] {
        member.lag_bytes = None;
    }
    seen.group = Some(group);
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::NoSuccessor(id(5))));
}

#[test]
fn a_primary_whose_volume_is_to_go_hands_over() {
    let want = with_failover(3);
    let mut seen = with_primary(&want, 3, 1);
    seen.volumes.get_mut(&id(1)).unwrap().terminating = true;
    assert_eq!(step(&want, &mut seen), Step::SwitchOver(id(2)), "2 and 3 are as good, and 1 leads");
    let mut alone = with_primary(&with_failover(1), 1, 1);
    alone.volumes.get_mut(&id(1)).unwrap().terminating = true;
    assert_eq!(step(&with_failover(1), &mut alone), Step::Wait(WaitReason::NoSuccessor(id(1))));
    assert_eq!(
        step(&with_failover(3), &mut alone),
        Step::CreateVolume(id(2)),
        "another member may help"
    );
}

#[test]
fn a_restart_moves_the_primary_before_its_pod_goes() {
    let want = with_failover(3);
    let mut seen = with_primary(&want, 3, 1);
    stale(&mut seen, &[1, 2, 3]);
    assert_eq!(next_step(&want, &seen), Step::RestartPod(id(3)));
    settle(&want, &mut seen);
    stale(&mut seen, &[1]);
    assert_eq!(next_step(&want, &seen), Step::SwitchOver(id(2)));
    let mut moved = with_primary(&want, 3, 2);
    stale(&mut moved, &[1]);
    assert_eq!(next_step(&want, &moved), Step::RestartPod(id(1)));
    let want = with_failover(1);
    let mut alone = with_primary(&want, 1, 1);
    stale(&mut alone, &[1]);
    assert_eq!(
        next_step(&want, &alone),
        Step::RestartPod(id(1)),
        "there is nobody to hand over to"
    );
}

#[test]
fn who_is_away_for_too_long_makes_room_for_another_one() {
    let mut want = with_failover(5);
    let mut seen = with_primary(&want, 5, 1);
    let away = |seen: &mut Observed, node: u32, seconds: i64| {
        seen.group.as_mut().unwrap().members[node as usize - 1].reachable = Some(false);
        seen.away.insert(id(node), seen.now - SignedDuration::from_secs(seconds));
    };
    away(&mut seen, 4, 90);
    assert_eq!(
        step(&want, &mut seen),
        Step::Wait(WaitReason::MemberUnreachable(id(4))),
        "never, unless it is wanted"
    );
    want.replace_after = Some(SignedDuration::from_secs(90));
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(4)));
    seen.now -= SignedDuration::from_secs(1);
    assert_eq!(step(&want, &mut seen), Step::Wait(WaitReason::MemberUnreachable(id(4))), "not yet");
    seen.now += SignedDuration::from_secs(1);
    seen.group.as_mut().unwrap().primary = Some(id(4));
    assert!(!matches!(next_step(&want, &seen), Step::RemoveNode(_)), "not the primary");
    let mut seen = with_primary(&want, 5, 1);
    away(&mut seen, 4, 90);
    away(&mut seen, 3, 90);
    assert_eq!(step(&want, &mut seen), Step::RemoveNode(id(4)), "one at a time");
    seen.group.as_mut().unwrap().members.remove(3);
    assert!(matches!(step(&want, &mut seen), Step::DeletePod(_)));
    seen.pods.remove(&id(4));
    seen.volumes.remove(&id(4));
    assert_eq!(
        step(&want, &mut seen),
        Step::CreateVolume(id(6)),
        "its successor comes before the next one goes"
    );
    // Whoever is reached again stays.
    let mut back = with_primary(&want, 5, 1);
    back.away.insert(id(4), back.now - SignedDuration::from_secs(90));
    assert_eq!(step(&want, &mut back), Step::Steady);
}
