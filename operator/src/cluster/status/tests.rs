//! The status in the situations that users look at.

use pgraft_core::Role;
use pgraft_core::status::WalPosition;

use super::*;
use crate::cluster::fixtures::*;
use crate::cluster::plan::next_step;
use crate::cluster::render::template;

fn subject() -> ConditionSubject<'static> {
    ConditionSubject {
        name: "demo",
        namespace: "default",
        generation: Some(2),
        replicas: 3,
        template: Some(template(&wanted(3))),
        storage: None,
        switchover: None,
        invalid: None,
    }
}

fn status(seen: &Observed, outcome: &StepOutcome) -> PgRaftClusterStatus {
    derive(subject(), seen, outcome, &PgRaftClusterStatus::default())
}

/// `Ready=True/AsExpected`, one a line.
fn conditions(status: &PgRaftClusterStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

#[test]
fn all_is_well() {
    let want = wanted(3);
    let seen = healthy(&want, 3);
    insta::assert_yaml_snapshot!(status(&seen, &StepOutcome::Took(next_step(&want, &seen))));
}

#[test]
fn in_the_making() {
    let want = wanted(3);
    let mut seen = empty();
    settle(&want, &mut seen);
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(status.phase, "Creating volume demo-1");
    let all = [
        "Ready=False/Bootstrapping",
        "Available=False/NoMemberAnswers",
        "Progressing=True/Bootstrapping",
        "Degraded=False/AsExpected",
    ];
    assert_eq!(conditions(&status)[..4], all);
    assert_eq!(conditions(&status)[4], "QuorumHealthy=Unknown/NoMemberAnswers");
}

#[test]
fn growing() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let members = [member(1, Role::Voter), member(2, Role::Voter), member(3, Role::Learner)];
    seen.group = Some(group(&members, 4));
    settle(&want, &mut seen);
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(status.phase, "Waiting for node 3 to catch up");
    assert_eq!((status.replicas, status.ready_replicas), (3, 2));
    let all = [
        "Ready=False/Growing",
        "Available=True/PrimaryServes",
        "Progressing=True/Growing",
        "Degraded=False/AsExpected",
        "QuorumHealthy=True/QuorumReached",
        "PodsUpToDate=True/AsExpected",
        "Reconciled=True/AsExpected",
    ];
    assert_eq!(conditions(&status), all);
}

#[test]
fn a_member_is_down() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    seen.pods.get_mut(&id(3)).unwrap().phase = PodPhase::Starting(Some("CrashLoopBackOff".into()));
    let members = [
        member(1, Role::Voter),
        member(2, Role::Voter),
        MemberSeen { reachable: Some(false), ..member(3, Role::Voter) },
    ];
    seen.group = Some(group(&members, 4));
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(status.phase, "Pod demo-3 is not ready");
    assert_eq!(status.quorum.as_ref().unwrap().summary, "2/2");
    let all = [
        "Ready=False/MemberNotReady",
        "Available=True/PrimaryServes",
        "Progressing=False/MemberNotReady",
        "Degraded=True/MemberNotReady",
        "QuorumHealthy=True/QuorumReached",
        "PodsUpToDate=True/AsExpected",
        "Reconciled=True/AsExpected",
    ];
    assert_eq!(conditions(&status), all);
    assert_eq!(status.conditions[3].message, "Pod demo-3 is not ready: CrashLoopBackOff");
}

/// A Raft leader that is a standby, and one more, have fallen behind.
#[test]
fn standbys_that_are_behind_are_named_with_the_reason() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    for (node, reason) in
        [(2, "replay of WAL has been paused"), (3, "this standby has received no WAL")]
    {
        seen.pods.get_mut(&id(node)).unwrap().phase = PodPhase::Starting(None);
        seen.unready.insert(id(node), reason.into());
    }
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(conditions(&status)[1], "Available=True/PrimaryServes");
    assert_eq!(conditions(&status)[3], "Degraded=True/MemberNotReady");
    let all = "pod demo-2 is not ready: replay of WAL has been paused; pod demo-3 is not ready: this standby has received no WAL";
    assert_eq!(status.conditions[3].message, all);
}

#[test]
fn no_quorum() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let down = |n| MemberSeen { reachable: Some(false), ..member(n, Role::Voter) };
    seen.group = Some(group(&[member(1, Role::Voter), down(2), down(3)], 4));
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(status.phase, "No quorum");
    let all = [
        "Ready=False/NoQuorum",
        "Available=True/PrimaryServes",
        "Progressing=False/NoQuorum",
        "Degraded=True/NoQuorum",
        "QuorumHealthy=False/NoQuorum",
        "PodsUpToDate=True/AsExpected",
        "Reconciled=True/AsExpected",
    ];
    assert_eq!(conditions(&status), all);
}

/// Its host froze: Kubernetes calls the pod ready for most of a minute.
#[test]
fn a_primary_that_answers_nobody_does_not_serve() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let mut group = seen.group.clone().unwrap();
    group.leader = Some(id(2));
    group.silent = vec![id(1)];
    let available =
        |seen: &Observed| conditions(&status(seen, &StepOutcome::Took(Step::Steady)))[1].clone();
    seen.group = Some(group.clone());
    assert_eq!(available(&seen), "Available=True/PrimaryServes", "the leader reaches it");
    group.members[0].reachable = Some(false);
    seen.group = Some(group.clone());
    assert_eq!(available(&seen), "Available=False/PrimaryUnreachable");
    group.silent.clear();
    seen.group = Some(group);
    assert_eq!(available(&seen), "Available=True/PrimaryServes", "it answers the operator");
}

#[test]
fn differing_in_lag_only() {
    let seen = healthy(&wanted(3), 3);
    let before = status(&seen, &StepOutcome::Took(Step::Steady));
    let mut after = before.clone();
    after.members[2].lag_bytes = Some(4096);
    assert!(differ_in_lag_only(&before, &after));
    after.members[2].reachable = Some(false);
    assert!(!differ_in_lag_only(&before, &after));
}

/// What a busy cluster's standbys lack is another number at every look, and what the members have
/// written too.
#[test]
fn lag_is_shown_in_steps_and_wal_alone_is_no_news() {
    for (lag, shown) in [
        (0, 0),
        (1 << 20, 1 << 20),
        ((1 << 20) - 1, 0),
        ((1 << 22) - 1, 1 << 21),
        (5 << 40, 1_i64 << 42),
        (u64::MAX, i64::MAX),
    ] {
        assert_eq!(in_steps(lag), shown, "{lag}");
    }
    let mut seen = healthy(&wanted(3), 3);
    let before = status(&seen, &StepOutcome::Took(Step::Steady));
    let member = |seen: &mut Observed| seen.group.as_mut().unwrap().members[1].clone();
    let moved = MemberSeen {
        wal: Some(WalPosition { timeline: 1, lsn: 0x2_0000_0000 }),
        lag_bytes: Some(1000),
        ..member(&mut seen)
    };
    seen.group.as_mut().unwrap().members[1] = moved.clone();
    let after = derive(subject(), &seen, &StepOutcome::Took(Step::Steady), &before);
    assert_eq!(after.members[1].flush_lsn.as_deref(), Some("2/0"));
    assert!(differ_in_wal_only(&before, &after));
    seen.group.as_mut().unwrap().members[1] =
        MemberSeen { wal: Some(WalPosition { timeline: 2, lsn: 0 }), ..moved.clone() };
    assert!(
        !differ_in_wal_only(
            &before,
            &derive(subject(), &seen, &StepOutcome::Took(Step::Steady), &before)
        ),
        "another timeline is news"
    );
    // Nothing is forgotten when it is not heard any more.
    seen.group.as_mut().unwrap().members[1] =
        MemberSeen { wal: None, lag_bytes: None, reachable: Some(false), ..moved };
    let gone = derive(subject(), &seen, &StepOutcome::Took(Step::Steady), &after);
    assert_eq!(
        (gone.members[1].flush_lsn.as_deref(), gone.members[1].lag_bytes),
        (Some("2/0"), None)
    );
}

#[test]
fn a_primary_without_a_majority_takes_no_writes_where_the_members_choose_it() {
    let want = with_failover(3);
    let mut seen = healthy(&want, 3);
    for member in &mut seen.group.as_mut().unwrap().members[1..] {
        member.reachable = Some(false);
    }
    let group = seen.group.as_mut().unwrap();
    (group.available, group.authoritative) = (1, false);
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(conditions(&status)[1], "Available=False/NoQuorum");
    assert_eq!(
        status.conditions[4].message,
        "1 of 3 voters answer, 2 are required; no answer from: demo-2, demo-3"
    );
}

#[test]
fn a_refusal_is_shown_in_the_leaders_words() {
    let want = wanted(3);
    let seen = healthy(&want, 3);
    let refused = |code: &str| WaitReason::Refused {
        change: MembershipRequest::Remove(id(3)),
        code: code.into(),
        message: "the leader's words".into(),
    };
    let serious = status(&seen, &StepOutcome::Took(Step::Wait(refused("55006"))));
    assert_eq!(conditions(&serious)[3], "Degraded=True/ChangeRefused");
    assert_eq!(serious.conditions[3].message, "Removing node 3: the leader's words");
    let ordinary = status(&seen, &StepOutcome::Took(Step::Wait(refused("PGR03"))));
    assert_eq!(conditions(&ordinary)[3], "Degraded=False/AsExpected");
}

#[test]
fn nobody_answers_any_more() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let before = status(&seen, &StepOutcome::Took(Step::Steady));
    seen.group = None;
    let after = derive(subject(), &seen, &StepOutcome::Took(next_step(&want, &seen)), &before);
    assert_eq!(after.cluster_id, before.cluster_id, "once known, always known");
    assert_eq!(after.members.len(), 3, "who they are does not change while nobody answers");
    assert!(after.members.iter().all(|m| m.reachable.is_none() && !m.leader));
    assert_eq!((after.leader, after.quorum), (None, None));
}

#[test]
fn the_time_moves_with_the_status_and_with_nothing_else() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    let before = status(&seen, &StepOutcome::Took(Step::Steady));
    seen.now += jiff::SignedDuration::from_secs(60);
    let same = derive(subject(), &seen, &StepOutcome::Took(Step::Steady), &before);
    assert_eq!(same, before);
    let busy = derive(subject(), &seen, &StepOutcome::Took(Step::CreateVolume(id(4))), &before);
    for (old, new) in before.conditions.iter().zip(&busy.conditions) {
        assert_eq!(
            old.status == new.status,
            old.last_transition_time == new.last_transition_time,
            "{}",
            new.type_
        );
    }
    assert_ne!(before.conditions[0].last_transition_time, busy.conditions[0].last_transition_time);
}

#[test]
fn half_way_through_a_rolling_restart() {
    let want = wanted(3);
    let mut seen = healthy(&want, 3);
    for n in [1, 2] {
        seen.pods.get_mut(&id(n)).unwrap().template = None;
    }
    let status = status(&seen, &StepOutcome::Took(next_step(&want, &seen)));
    assert_eq!(status.phase, "Restarting pod demo-2");
    let all = [
        "Ready=False/Restarting",
        "Available=True/PrimaryServes",
        "Progressing=True/Restarting",
        "Degraded=False/AsExpected",
        "QuorumHealthy=True/QuorumReached",
        "PodsUpToDate=False/Restarting",
        "Reconciled=True/AsExpected",
    ];
    assert_eq!(conditions(&status), all);
    assert_eq!(status.conditions[5].message, "2 of 3 pods must still be restarted: demo-1, demo-2");
}
