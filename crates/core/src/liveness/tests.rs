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
        LivenessVerdict::Serve | LivenessVerdict::Suspect(_) => None,
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
    (any::<(bool, bool, bool, bool)>(), stopped, prop::option::of(any::<bool>()), commits).prop_map(
        |((on_time, primary, answered, starved), stopped, flushes, commits)| Tick {
            on_time,
            primary,
            answered,
            starved,
            stopped,
            flushes,
            commits,
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
