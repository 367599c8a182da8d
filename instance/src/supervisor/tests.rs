//! Every phase with every event, and what holds in every run.

use proptest::prelude::*;
use std::fmt::Write as _;

use super::*;

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
};

const EVENTS: [SupervisorEvent; 28] = [
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
    SupervisorEvent::Rewound,
    SupervisorEvent::RewindFailed,
    SupervisorEvent::RewindPutOff,
    SupervisorEvent::WorkerSilent,
    SupervisorEvent::Concern(Some(Unresponsive::Unanswered)),
    SupervisorEvent::Unresponsive(Unresponsive::Unanswered),
    SupervisorEvent::StoppedByOthers,
    SupervisorEvent::SettingsTooLow,
    SupervisorEvent::StartFailed,
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
        | SupervisorEvent::StartFailed
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
        let before = SupervisorState { phase, failures: 2, repair: None, rewound_in: Some(3) };
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
                let SupervisorState { phase: now, failures, repair, rewound_in } = after;
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

#[test]
fn all_facts_and_what_they_lead_to() {
    let mut table = String::new();
    for facts in all_facts() {
        let SupervisorFacts { data, named, failover, bootstrap, epoch: _, diverged: _ } = facts;
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
    let up = SupervisorState { phase: SupervisorPhase::Running(StartMode::Standby), ..at_rest() };
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
fn waits_grow_and_end_growing() {
    let seconds: Vec<f32> =
        [1, 2, 3, 5, 6, 7, 1000, u32::MAX].map(|n| wait_after(n).as_secs_f32()).into();
    assert_eq!(seconds, [0.5, 1.0, 2.0, 8.0, 15.0, 15.0, 15.0, 15.0]);
}

fn any_facts() -> impl Strategy<Value = SupervisorFacts> {
    (prop::sample::select(all_facts().collect::<Vec<_>>()), any::<bool>(), 0..3u64)
        .prop_map(|(facts, diverged, epoch)| SupervisorFacts { epoch, diverged, ..facts })
}

fn any_event() -> impl Strategy<Value = SupervisorEvent> {
    prop_oneof![
        3 => prop::sample::select(EVENTS.to_vec()).prop_filter("stops", |e| *e != SupervisorEvent::Shutdown),
        2 => any_facts().prop_map(SupervisorEvent::Inspected),
        2 => Just(SupervisorEvent::Cleared),
        1 => (0_u64..200).prop_map(|s| SupervisorEvent::Exited { ran_for: Duration::from_secs(s) }),
    ]
}

/// What the world is, as the commands make it.
#[derive(Default)]
struct SupervisorWorld {
    server: bool,
    cleared: bool,
    facts: Option<SupervisorFacts>,
}

impl SupervisorWorld {
    fn hears(&mut self, event: SupervisorEvent) {
        match event {
            SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed => self.server = false,
            SupervisorEvent::Cleared if !self.server => self.cleared = true,
            SupervisorEvent::Inspected(facts) => self.facts = Some(facts),
            SupervisorEvent::Initialized
            | SupervisorEvent::Cloned
            | SupervisorEvent::Rewound
            | SupervisorEvent::RewindFailed
            | SupervisorEvent::RewindPutOff => self.facts = None,
            _ => {}
        }
    }

    fn obeys(&mut self, command: SupervisorCommand) {
        match command {
            SupervisorCommand::Start(mode) => {
                assert!(!self.server, "a second server");
                assert!(self.cleared, "started without a look for an earlier one");
                let facts = self.facts.expect("started without a look at the disk");
                assert!(
                    matches!(facts.data, DataDirectory::Whole { .. }),
                    "started on {:?}",
                    facts.data
                );
                if mode == StartMode::Primary {
                    let DataDirectory::Whole { bootstrapping, standby_signal } = facts.data else {
                        panic!()
                    };
                    let named = facts.named == Named::This && !facts.failover;
                    assert!(
                        !standby_signal
                            && (named || (bootstrapping && facts.named == Named::Nothing))
                    );
                }
                (self.server, self.cleared) = (true, false);
            }
            SupervisorCommand::InitDb => {
                let facts = self.facts.expect("initdb without a look at the disk");
                assert!(
                    facts.data == DataDirectory::Empty
                        && facts.bootstrap == BootstrapNode::Yes
                        && facts.named == Named::Nothing
                );
                assert!(!self.server);
            }
            SupervisorCommand::Clone => {
                let facts = self.facts.expect("cloned without a look at the disk");
                let gives_way =
                    matches!(facts.data, DataDirectory::Whole { .. }) && facts.named != Named::This;
                assert!(
                    gives_way || matches!(facts.data, DataDirectory::Empty | DataDirectory::Broken)
                );
                assert!(!self.server);
            }
            SupervisorCommand::Rewind => {
                let facts = self.facts.expect("rewound without a look at the disk");
                assert!(
                    matches!(facts.data, DataDirectory::Whole { .. })
                        && facts.diverged
                        && facts.named != Named::This
                );
                assert!(self.cleared && !self.server);
            }
            SupervisorCommand::Stop
            | SupervisorCommand::Halt
            | SupervisorCommand::Kill
            | SupervisorCommand::Reload => {
                assert!(self.server, "there is no server for {command:?}");
            }
            SupervisorCommand::Exit => assert!(!self.server, "the server is left behind"),
            _ => {}
        }
    }
}

/// Whether the event can happen at all: a server that isn't there does not exit, and what was not
/// begun does not end.
fn can_happen(world: &SupervisorWorld, phase: SupervisorPhase, event: SupervisorEvent) -> bool {
    match event {
        SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed => world.server,
        SupervisorEvent::Cleared | SupervisorEvent::ClearFailed => {
            phase == SupervisorPhase::Clearing
                || (phase == SupervisorPhase::Stopping && !world.server)
        }
        SupervisorEvent::Inspected(_) => phase == SupervisorPhase::Inspecting,
        _ => true,
    }
}

proptest! {
    #[test]
    fn no_run_does_what_must_not_be(events in prop::collection::vec(any_event(), 0..60), stop_at in 0_usize..80) {
        let mut world = SupervisorWorld::default();
        let (mut state, _) = begin();
        for (i, event) in events.into_iter().enumerate() {
            let event = if i == stop_at { SupervisorEvent::Shutdown } else { event };
            if !can_happen(&world, state.phase, event) {
                continue;
            }
            world.hears(event);
            let (next, commands) = step(state, event);
            for command in commands {
                world.obeys(command);
            }
            state = next;
        }
    }

    /// However the events fall, nothing is started after a shutdown began.
    #[test]
    fn nothing_starts_after_shutdown(events in prop::collection::vec(any_event(), 0..40), before in 0_usize..40) {
        let (mut state, _) = begin();
        for (i, event) in events.into_iter().enumerate() {
            let event = if i == before { SupervisorEvent::Shutdown } else { event };
            let (next, commands) = step(state, event);
            if i >= before {
                prop_assert!(!commands.iter().any(|c| matches!(c, SupervisorCommand::Start(_) | SupervisorCommand::InitDb | SupervisorCommand::Clone | SupervisorCommand::Rewind)));
            }
            state = next;
        }
    }
}

/// Ends after a second, each time; what it comes to, and how often it was started before.
fn ends_again_and_again(mode: StartMode, facts: SupervisorFacts) -> (SupervisorCommand, u32) {
    let mut state = SupervisorState {
        phase: SupervisorPhase::Running(mode),
        failures: 0,
        repair: None,
        rewound_in: None,
    };
    let mut starts = 1;
    loop {
        let (waiting, commands) =
            step(state, SupervisorEvent::Exited { ran_for: Duration::from_secs(1) });
        assert!(matches!(commands[..], [SupervisorCommand::Wait(_)]), "it backs off: {commands:?}");
        let (clearing, _) = step(waiting, SupervisorEvent::Woke);
        let (inspecting, _) = step(clearing, SupervisorEvent::Cleared);
        let (next, commands) = step(inspecting, SupervisorEvent::Inspected(facts));
        if !matches!(commands[..], [SupervisorCommand::Start(_)]) || starts > 100 {
            return (commands[0], starts);
        }
        (state, starts) = (next, starts + 1);
    }
}

#[test]
fn a_standby_that_never_stays_up_is_cloned_and_a_primary_never_is() {
    let whole = DataDirectory::Whole { bootstrapping: false, standby_signal: true };
    let standby = SupervisorFacts { data: whole, named: Named::Other, failover: true, ..FACTS };
    assert_eq!(
        ends_again_and_again(StartMode::Standby, standby),
        (SupervisorCommand::Clone, GIVES_UP)
    );
    for named in [Named::This, Named::Nothing, Named::Nobody] {
        let facts = SupervisorFacts { named, ..standby };
        let (command, starts) = ends_again_and_again(StartMode::Standby, facts);
        assert!(
            named != Named::This
                || (command == SupervisorCommand::Start(StartMode::Standby) && starts > 100),
            "{named:?}: {command:?}"
        );
    }
}

#[test]
fn a_server_that_settles_and_ends_again_and_again_backs_off_too() {
    let mut state = SupervisorState {
        phase: SupervisorPhase::Running(StartMode::Standby),
        failures: 0,
        repair: None,
        rewound_in: None,
    };
    for n in 0..ENDS_AT_ONCE {
        let (next, commands) = step(state, SupervisorEvent::Exited { ran_for: SETTLED_RUN });
        assert_eq!(commands, [SupervisorCommand::Clear], "{n}: at once");
        state = SupervisorState { phase: SupervisorPhase::Running(StartMode::Standby), ..next };
    }
    let (_, commands) = step(state, SupervisorEvent::Exited { ran_for: SETTLED_RUN });
    assert!(matches!(commands[..], [SupervisorCommand::Wait(_)]));
    let (next, commands) = step(state, SupervisorEvent::Exited { ran_for: HEALTHY_RUN });
    assert_eq!((next.failures, &commands[..]), (0, &[SupervisorCommand::Clear][..]));
}

#[test]
fn a_standby_whose_settings_are_too_low_is_started_again_and_a_primary_goes_on() {
    let running = |mode| SupervisorState {
        phase: SupervisorPhase::Running(mode),
        failures: 0,
        repair: None,
        rewound_in: None,
    };
    let (halting, commands) = step(running(StartMode::Standby), SupervisorEvent::SettingsTooLow);
    assert_eq!(
        (halting.phase, halting.repair, &commands[..]),
        (SupervisorPhase::Halting, None, &[SupervisorCommand::Halt][..])
    );
    assert_eq!(
        step(running(StartMode::Primary), SupervisorEvent::SettingsTooLow),
        (running(StartMode::Primary), vec![])
    );
}
