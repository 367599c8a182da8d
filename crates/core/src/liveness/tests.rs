//! What is a reason, for how long, and what never is one.

use super::*;
use proptest::prelude::*;

const BOUND: u32 = 12;

const WELL: Tick = Tick {
    on_time: true,
    primary: true,
    answered: true,
    starved: false,
    stopped: None,
    flushes: Some(true),
    commits: Some(Commits::Advance),
    successor: true,
};

/// What each fault looks like.
const ILL: [(Unresponsive, Tick); 7] = [
    (
        Unresponsive::Stopped(ProcessState::Postmaster),
        Tick { stopped: Some(ProcessState::Postmaster), answered: false, ..WELL },
    ),
    (
        Unresponsive::Stopped(ProcessState::Checkpointer),
        Tick { stopped: Some(ProcessState::Checkpointer), ..WELL },
    ),
    (
        Unresponsive::Stopped(ProcessState::WalWriter),
        Tick { stopped: Some(ProcessState::WalWriter), ..WELL },
    ),
    (Unresponsive::Unanswered, Tick { answered: false, flushes: None, commits: None, ..WELL }),
    (Unresponsive::NotFlushed, Tick { flushes: Some(false), ..WELL }),
    (
        Unresponsive::SendersStopped,
        Tick { commits: Some(Commits::Wait { sender_stopped: true }), ..WELL },
    ),
    (
        Unresponsive::Unconfirmed,
        Tick { commits: Some(Commits::Wait { sender_stopped: false }), ..WELL },
    ),
];

fn heard() -> LivenessJudge {
    let mut judge = LivenessJudge::new(BOUND);
    assert_eq!(judge.observe(WELL), LivenessVerdict::Serve);
    judge
}

fn releases(
    judge: &mut LivenessJudge,
    ticks: impl IntoIterator<Item = Tick>,
) -> Option<Unresponsive> {
    ticks.into_iter().find_map(|tick| match judge.observe(tick) {
        LivenessVerdict::Release(fault) => Some(fault),
        LivenessVerdict::Serve | LivenessVerdict::Suspect(_) | LivenessVerdict::Retain(_) => None,
    })
}

#[test]
fn each_fault_is_suspected_first_and_releases_at_the_bound() {
    for (fault, ill) in ILL {
        let mut judge = heard();
        for n in 1..BOUND {
            let want = if n >= BOUND / 3 {
                LivenessVerdict::Suspect(fault)
            } else {
                LivenessVerdict::Serve
            };
            assert_eq!(judge.observe(ill), want, "{fault}, tick {n}");
        }
        let want = if fault.releases() {
            LivenessVerdict::Release(fault)
        } else {
            LivenessVerdict::Suspect(fault)
        };
        assert_eq!(judge.observe(ill), want, "{fault}");
    }
}

#[test]
fn of_a_standby_only_answers_count() {
    for (fault, ill) in ILL {
        let standby = Tick { primary: false, ..ill };
        let counts = matches!(
            fault,
            Unresponsive::Unanswered | Unresponsive::Stopped(ProcessState::Postmaster)
        );
        let released = releases(&mut heard(), std::iter::repeat_n(standby, 100));
        assert_eq!(released, counts.then_some(fault), "{fault}");
    }
}

#[test]
fn silence_of_a_server_that_never_answered_may_be_its_start() {
    for (fault, ill) in ILL {
        let mut judge = LivenessJudge::new(BOUND);
        let silent = Tick { answered: false, ..ill };
        let unheard = matches!(fault, Unresponsive::Unanswered | Unresponsive::Unconfirmed);
        assert_eq!(
            releases(&mut judge, std::iter::repeat_n(silent, 100)),
            (!unheard).then_some(fault),
            "{fault}"
        );
    }
}

#[test]
fn an_observer_that_was_paused_does_not_fire() {
    for (fault, ill) in ILL {
        let late = Tick { on_time: false, ..ill };
        let mut judge = heard();
        assert_eq!(releases(&mut judge, std::iter::repeat_n(late, 1000)), None, "{fault}");
        assert_eq!(
            releases(&mut judge, std::iter::repeat_n(ill, BOUND as usize - 1)),
            None,
            "{fault}: late ticks were counted"
        );
    }
}

#[test]
fn a_primary_without_a_successor_is_retained_until_there_is_one() {
    for (fault, ill) in ILL {
        let alone = Tick { successor: false, ..ill };
        let mut judge = heard();
        assert_eq!(releases(&mut judge, std::iter::repeat_n(alone, 100)), None, "{fault}");
        if fault.releases() {
            assert_eq!(judge.observe(alone), LivenessVerdict::Retain(fault));
            assert_eq!(judge.observe(ill), LivenessVerdict::Release(fault));
            let standby = Tick { primary: false, ..alone };
            assert_eq!(
                releases(&mut heard(), std::iter::repeat_n(standby, 100)),
                releases(&mut heard(), std::iter::repeat_n(Tick { primary: false, ..ill }, 100)),
                "{fault}: a standby needs no successor"
            );
        }
    }
}

#[test]
fn the_silence_of_a_standby_has_a_longer_bound() {
    let silent = Tick { answered: false, flushes: None, commits: None, ..WELL };
    let standby = Tick { primary: false, ..silent };
    let ticks = |standby_bound, tick| {
        let mut judge = heard();
        judge.set_bounds(BOUND, standby_bound);
        (1..1000).find(|_| matches!(judge.observe(tick), LivenessVerdict::Release(_)))
    };
    assert_eq!(ticks(Some(3 * BOUND), silent), Some(BOUND));
    assert_eq!(ticks(Some(3 * BOUND), standby), Some(3 * BOUND));
    assert_eq!(ticks(Some(1), standby), Some(BOUND), "never a shorter one");
    assert_eq!(ticks(None, standby), None);
    let stopped = Tick { stopped: Some(ProcessState::Postmaster), ..standby };
    assert_eq!(ticks(None, stopped), Some(BOUND), "a stopped postmaster is evidence");
}

/// A member of three voters, of which 1 is the primary.
fn status(state: &str, reachable: [Option<bool>; 2], gate_ms: Option<u64>) -> NodeStatus {
    let member = |id: u32, reachable: Option<bool>| {
        serde_json::json!({"node_id": id, "address": {"host": "h", "port": 7001}, "role": "voter", "is_leader": false, "is_primary": id == 1,
            "postgres": {"host": "h", "port": 5432}, "zone": "", "reachable": reachable, "last_contact_ms": null, "match_index": null, "wal": null,
            "lag_bytes": null})
    };
    serde_json::from_value(serde_json::json!({
        "node_id": 1, "cluster_id": null, "state": state, "term": 7, "leader": if state == "candidate" { None } else { Some(2) }, "epoch": 1,
        "primary": 1, "commit_index": 9, "applied_index": 8, "voters": 3, "quorum": 2, "next_node_id": 4,
        "members": [member(1, None), member(2, reachable[0]), member(3, reachable[1])],
        "failover": {"phase": "steady", "timeline": 1, "step": "", "gate_ms": gate_ms, "waits_for": [], "sync_standbys": [], "sync_required": 0,
            "last": null},
    }))
    .unwrap()
}

#[test]
fn a_successor_is_another_voter_that_streams_while_a_majority_is_reachable() {
    let all = |_: NodeId| Some(true);
    let none = [None, None];
    assert!(has_successor(&status("follower", none, Some(900)), all), "the lease is a majority");
    assert!(has_successor(&status("follower", none, None), all), "there is a Raft leader");
    assert!(!has_successor(&status("candidate", none, None), all), "there is no Raft leader");
    assert!(has_successor(&status("leader", [Some(true), Some(false)], None), all));
    assert!(!has_successor(&status("leader", [Some(false), Some(false)], None), all));
    assert!(has_successor(&status("follower", none, None), |_| None), "nothing is known yet");
    assert!(!has_successor(&status("follower", none, Some(900)), |_| Some(false)));
    assert!(has_successor(&status("follower", none, None), |id| Some(id.get() == 3)));
    let unreachable = status("leader", [Some(true), Some(false)], None);
    assert!(!has_successor(&unreachable, |id| Some(id.get() == 3)), "it streams no longer");
    let mut single = status("leader", none, Some(900));
    single.members.truncate(1);
    assert!(!has_successor(&single, all));
}

#[test]
fn a_bound_is_never_one_failure() {
    for bound in 0..3 {
        for (fault, ill) in ILL {
            let mut judge = LivenessJudge::new(bound);
            judge.observe(WELL);
            assert!(
                !matches!(judge.observe(ill), LivenessVerdict::Release(_)),
                "{fault} with a bound of {bound}"
            );
        }
    }
}

#[test]
fn each_fault_has_its_words() {
    let words: Vec<String> = ILL.iter().map(|(fault, _)| fault.to_string()).collect();
    let want = [
        "its postmaster is stopped",
        "its checkpointer is stopped",
        "its WAL writer is stopped",
        "it answers no connection",
        "it cannot flush WAL",
        "commits wait for standbys and a walsender is stopped",
        "commits wait and no standby confirms them",
    ];
    assert_eq!(words, want);
}

fn any_tick() -> impl Strategy<Value = Tick> {
    let stopped = prop_oneof![
        4 => Just(None),
        1 => prop::sample::select(vec![ProcessState::Postmaster, ProcessState::Checkpointer, ProcessState::WalWriter]).prop_map(Some),
    ];
    let commits = prop::option::of(prop_oneof![
        Just(Commits::Advance),
        any::<bool>().prop_map(|sender_stopped| Commits::Wait { sender_stopped })
    ]);
    (any::<[bool; 5]>(), stopped, prop::option::of(any::<bool>()), commits).prop_map(
        |([on_time, primary, answered, starved, successor], stopped, flushes, commits)| Tick {
            on_time,
            primary,
            answered,
            starved,
            stopped,
            flushes,
            commits,
            successor,
        },
    )
}

/// Whether the tick speaks against the server, for that fault.
fn speaks_against(tick: Tick, fault: Unresponsive) -> bool {
    match fault {
        Unresponsive::Stopped(process) => tick.stopped == Some(process),
        Unresponsive::Unanswered => !tick.answered,
        Unresponsive::NotFlushed => tick.flushes != Some(true),
        Unresponsive::SendersStopped => !matches!(
            tick.commits,
            Some(Commits::Advance | Commits::Wait { sender_stopped: false })
        ),
        Unresponsive::Unconfirmed => tick.commits != Some(Commits::Advance),
    }
}

proptest! {
    /// Whatever happens: a server is released only for what was seen without a break, by as many
    /// ticks in time as the bound says, of which none that are to be excused.
    #[test]
    fn a_release_has_its_evidence(ticks in prop::collection::vec(any_tick(), 1..200), bound in 2..20u32) {
        let mut judge = LivenessJudge::new(bound);
        for (n, tick) in ticks.iter().enumerate() {
            let LivenessVerdict::Release(fault) = judge.observe(*tick) else { continue };
            prop_assert!(!tick.primary || tick.successor, "{}: no other voter could take over", fault);
            let heard = ticks[..=n].iter().any(|t| t.answered);
            prop_assert!(heard || fault != Unresponsive::Unanswered, "it has never answered");
            let counted = |fault: Unresponsive| {
                let excused = |t: &&Tick| !t.on_time || (t.starved && !matches!(fault, Unresponsive::Stopped(_)));
                ticks[..=n].iter().rev().take_while(|t| speaks_against(**t, fault)).filter(|t| !excused(t)).count()
            };
            // A stopped postmaster is seen by its silence, too.
            let silence = if fault == Unresponsive::Stopped(ProcessState::Postmaster) { counted(Unresponsive::Unanswered) } else { 0 };
            let counted = counted(fault).max(silence);
            prop_assert!(counted >= bound as usize, "{fault}: {counted} of {bound} ticks");
        }
    }

    /// A server that answers, flushes and confirms now and then, however slow, and however starved
    /// in between, is left alone.
    #[test]
    fn a_slow_server_is_left_alone(gaps in prop::collection::vec((0..BOUND as usize, any::<bool>()), 1..50)) {
        let slow = Tick { answered: false, flushes: None, commits: None, ..WELL };
        let mut judge = LivenessJudge::new(BOUND);
        for (gap, starved) in gaps {
            let gap = if starved { gap * 10 } else { gap };
            prop_assert_eq!(releases(&mut judge, std::iter::repeat_n(Tick { starved, ..slow }, gap)), None);
            prop_assert_eq!(judge.observe(WELL), LivenessVerdict::Serve);
        }
    }

    /// From whatever state: a server whose postmaster is stopped for good is released, and no later
    /// than the bound says.
    #[test]
    fn a_stopped_server_is_released(before in prop::collection::vec(any_tick(), 0..50)) {
        let mut judge = LivenessJudge::new(BOUND);
        let released = releases(&mut judge, before);
        let stopped = Tick { stopped: Some(ProcessState::Postmaster), answered: false, flushes: None, commits: None, ..WELL };
        let now = releases(&mut judge, std::iter::repeat_n(stopped, BOUND as usize));
        prop_assert!(released.is_some() || now.is_some());
    }
}
