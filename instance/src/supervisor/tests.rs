//! Every phase with every event; what holds in every run is in `runs.rs`, failing starts are in
//! `failing_starts.rs`.

mod failing_starts;
mod runs;

use std::fmt::Write as _;

use super::*;
use pgraft_core::liveness::Unresponsive;

const PHASES: [SupervisorPhase; 12] = [
    SupervisorPhase::Clearing,
    SupervisorPhase::Inspecting,
    SupervisorPhase::Initializing,
    SupervisorPhase::Cloning,
    SupervisorPhase::Rewinding,
    SupervisorPhase::Running(StartMode::Primary),
    SupervisorPhase::Running(StartMode::Standby),
    SupervisorPhase::Halting,
    SupervisorPhase::Waiting,
    SupervisorPhase::Stopping,
    SupervisorPhase::Draining,
    SupervisorPhase::Ended,
];

const FACTS: SupervisorFacts = SupervisorFacts {
    data: DataDirectory::Empty,
    named: Named::Other,
    epoch: 1,
    diverged: false,
    failover: false,
    bootstrap: BootstrapNode::No,
    replaced_ago: None,
};

const EVENTS: [SupervisorEvent; 30] = [
    SupervisorEvent::Cleared,
    SupervisorEvent::ClearFailed,
    SupervisorEvent::Inspected(FACTS),
    SupervisorEvent::InspectFailed,
    SupervisorEvent::Initialized,
    SupervisorEvent::InitFailed,
    SupervisorEvent::Cloned,
    SupervisorEvent::CloneFailed,
    SupervisorEvent::NoPrimary,
    SupervisorEvent::Needs(Repair::Rewind),
    SupervisorEvent::Needs(Repair::Clone),
    SupervisorEvent::Needs(Repair::Replace),
    SupervisorEvent::Rewound,
    SupervisorEvent::RewindFailed,
    SupervisorEvent::RewindPutOff,
    SupervisorEvent::WorkerSilent,
    SupervisorEvent::Concern(Some(Unresponsive::Unanswered)),
    SupervisorEvent::Unresponsive(Unresponsive::Unanswered),
    SupervisorEvent::StoppedByOthers,
    SupervisorEvent::SettingsTooLow,
    SupervisorEvent::StartFailed(StartFailure::Other),
    SupervisorEvent::StartFailed(StartFailure::DamagedData),
    SupervisorEvent::Exited { ran_for: Duration::from_secs(1) },
    SupervisorEvent::Exited { ran_for: SETTLED_RUN },
    SupervisorEvent::Exited { ran_for: HEALTHY_RUN },
    SupervisorEvent::Woke,
    SupervisorEvent::FilesChanged,
    SupervisorEvent::Shutdown,
    SupervisorEvent::JobEnded,
    SupervisorEvent::Drained,
];

/// A new event must come into the table: this doesn't compile without it.
const fn is_in_the_table(event: SupervisorEvent) -> bool {
    match event {
        SupervisorEvent::Cleared
        | SupervisorEvent::ClearFailed
        | SupervisorEvent::Inspected(_)
        | SupervisorEvent::InspectFailed
        | SupervisorEvent::Initialized
        | SupervisorEvent::InitFailed
        | SupervisorEvent::Cloned
        | SupervisorEvent::CloneFailed
        | SupervisorEvent::NoPrimary
        | SupervisorEvent::Needs(_)
        | SupervisorEvent::Rewound
        | SupervisorEvent::RewindFailed
        | SupervisorEvent::RewindPutOff
        | SupervisorEvent::WorkerSilent
        | SupervisorEvent::Concern(_)
        | SupervisorEvent::Unresponsive(_)
        | SupervisorEvent::StoppedByOthers
        | SupervisorEvent::SettingsTooLow
        | SupervisorEvent::StartFailed(_)
        | SupervisorEvent::Exited { .. }
        | SupervisorEvent::Woke
        | SupervisorEvent::FilesChanged
        | SupervisorEvent::Shutdown
        | SupervisorEvent::JobEnded
        | SupervisorEvent::Drained => true,
    }
}

#[test]
fn every_phase_and_event() {
    let mut table = String::new();
    for phase in PHASES {
        let before = SupervisorState { phase, failures: 2, rewound_in: Some(3), ..at_rest() };
        for event in EVENTS {
            assert!(is_in_the_table(event));
            let (after, commands) = step(before, event);
            let event = if matches!(event, SupervisorEvent::Inspected(_)) {
                "Inspected(empty, primary is other)".into()
            } else {
                format!("{event:?}")
            };
            if (after, commands.len()) == (before, 0) {
                let _ = writeln!(table, "{phase:?} + {event} = ");
            } else {
                let SupervisorState { phase: now, failures, repair, rewound_in, reason: _ } = after;
                let repair =
                    repair.map_or_else(String::new, |repair| format!(", repair {repair:?}"));
                let forgotten = if rewound_in.is_none() { ", no rewind was tried" } else { "" };
                let _ = writeln!(
                    table,
                    "{phase:?} + {event} = {now:?}, failures {failures}{repair}{forgotten}, {commands:?}"
                );
            }
        }
    }
    insta::assert_snapshot!(table);
}

const BOOLS: [bool; 2] = [false, true];

fn all_data() -> impl Iterator<Item = DataDirectory> {
    let whole = BOOLS.into_iter().flat_map(|bootstrapping| {
        BOOLS.map(|standby_signal| DataDirectory::Whole { bootstrapping, standby_signal })
    });
    [DataDirectory::Empty, DataDirectory::Foreign, DataDirectory::Broken].into_iter().chain(whole)
}

/// Those of a node that was asked for no repair.
fn all_facts() -> impl Iterator<Item = SupervisorFacts> {
    all_data().flat_map(|data| {
        [Named::Nothing, Named::Nobody, Named::This, Named::Other].into_iter().flat_map(
            move |named| {
                BOOLS.into_iter().flat_map(move |failover| {
                    [BootstrapNode::No, BootstrapNode::Yes, BootstrapNode::TooLate].map(
                        |bootstrap| SupervisorFacts { data, named, failover, bootstrap, ..FACTS },
                    )
                })
            },
        )
    })
}

fn at_rest() -> SupervisorState {
    begin().0
}

fn running(mode: StartMode) -> SupervisorState {
    SupervisorState { phase: SupervisorPhase::Running(mode), ..at_rest() }
}

#[test]
fn all_facts_and_what_they_lead_to() {
    let mut table = String::new();
    for facts in all_facts() {
        let SupervisorFacts { data, named, failover, bootstrap, .. } = facts;
        let _ = writeln!(
            table,
            "{data:?}, primary {named:?}, failover {failover}, bootstrap node {bootstrap:?}: {:?}",
            next(facts, at_rest())
        );
    }
    insta::assert_snapshot!(table);
}

#[test]
fn all_repairs_and_what_they_lead_to() {
    let mut table = String::new();
    for data in [
        DataDirectory::Empty,
        DataDirectory::Broken,
        DataDirectory::Whole { bootstrapping: false, standby_signal: true },
    ] {
        for named in [Named::Nothing, Named::Nobody, Named::This, Named::Other] {
            for diverged in BOOLS {
                let tried =
                    [(Repair::Rewind, None), (Repair::Rewind, Some(1)), (Repair::Clone, None)];
                let next = tried.map(|(repair, rewound_in)| {
                    let facts = SupervisorFacts { data, named, diverged, failover: true, ..FACTS };
                    next(facts, SupervisorState { repair: Some(repair), rewound_in, ..at_rest() })
                });
                let _ = writeln!(
                    table,
                    "{data:?}, primary {named:?}, diverged {diverged}: rewind, again, clone = {next:?}"
                );
            }
        }
    }
    insta::assert_snapshot!(table);
}

/// From the word of the worker to a server that follows, and what is tried when that comes to
/// nothing.
#[test]
fn a_rewind_from_beginning_to_end() {
    let diverged = SupervisorFacts {
        data: DataDirectory::Whole { bootstrapping: false, standby_signal: true },
        diverged: true,
        failover: true,
        ..FACTS
    };
    let run = |state: SupervisorState, events: &[SupervisorEvent]| {
        events.iter().fold((state, vec![]), |(state, mut all), event| {
            let (state, commands) = step(state, *event);
            all.extend(commands);
            (state, all)
        })
    };
    let up = running(StartMode::Standby);
    let stopped = [
        SupervisorEvent::Needs(Repair::Rewind),
        SupervisorEvent::Exited { ran_for: Duration::ZERO },
        SupervisorEvent::Cleared,
        SupervisorEvent::Inspected(diverged),
    ];
    let (rewinding, commands) = run(up, &stopped);
    assert_eq!(
        commands,
        [
            SupervisorCommand::Halt,
            SupervisorCommand::Clear,
            SupervisorCommand::Inspect,
            SupervisorCommand::Rewind
        ]
    );
    let (after, commands) =
        run(rewinding, &[SupervisorEvent::Rewound, SupervisorEvent::Inspected(diverged)]);
    assert_eq!(
        commands,
        [SupervisorCommand::Inspect, SupervisorCommand::Start(StartMode::Standby)]
    );
    let (_, commands) = run(after, &stopped);
    assert_eq!(
        commands.last(),
        Some(&SupervisorCommand::Clone),
        "it did not help, and would not in this epoch"
    );
    let (_, commands) =
        run(rewinding, &[SupervisorEvent::RewindFailed, SupervisorEvent::Inspected(diverged)]);
    assert_eq!(commands, [SupervisorCommand::Inspect, SupervisorCommand::Clone]);
    let broken = SupervisorFacts { data: DataDirectory::Broken, ..diverged };
    let (_, commands) = run(
        rewinding,
        &[
            SupervisorEvent::RewindFailed,
            SupervisorEvent::Inspected(broken),
            SupervisorEvent::CloneFailed,
            SupervisorEvent::Woke,
            SupervisorEvent::Cleared,
            SupervisorEvent::Inspected(broken),
        ],
    );
    assert_eq!(
        commands.iter().filter(|c| **c == SupervisorCommand::Clone).count(),
        2,
        "until it is whole again"
    );
    let (_, commands) = run(
        rewinding,
        &[
            SupervisorEvent::RewindPutOff,
            SupervisorEvent::Woke,
            SupervisorEvent::Cleared,
            SupervisorEvent::Inspected(diverged),
        ],
    );
    assert_eq!(
        commands.last(),
        Some(&SupervisorCommand::Start(StartMode::Standby)),
        "its member listens, and asks again"
    );
    let (_, commands) = run(
        rewinding,
        &[
            SupervisorEvent::RewindFailed,
            SupervisorEvent::Inspected(diverged),
            SupervisorEvent::CloneFailed,
            SupervisorEvent::Woke,
            SupervisorEvent::Cleared,
            SupervisorEvent::Inspected(diverged),
        ],
    );
    assert_eq!(commands.last(), Some(&SupervisorCommand::Start(StartMode::Standby)));
    let follows = SupervisorFacts { diverged: false, ..diverged };
    let (_, commands) = run(up, &[&stopped[..3], &[SupervisorEvent::Inspected(follows)]].concat());
    assert_eq!(
        commands.last(),
        Some(&SupervisorCommand::Start(StartMode::Standby)),
        "the group has moved on meanwhile"
    );
}

#[test]
fn waits_double_up_to_the_maximum() {
    let seconds: Vec<f32> =
        [1, 2, 3, 5, 6, 7, 1000, u32::MAX].map(|n| wait_after(n).as_secs_f32()).into();
    assert_eq!(seconds, [0.5, 1.0, 2.0, 8.0, 15.0, 15.0, 15.0, 15.0]);
}
