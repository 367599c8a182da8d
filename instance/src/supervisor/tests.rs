//! Every phase with every event, and what holds in every run.

use proptest::prelude::*;
use std::fmt::Write as _;

use super::*;

const PHASES: [Phase; 12] = [
    Phase::Clearing,
    Phase::Inspecting,
    Phase::Initializing,
    Phase::Cloning,
    Phase::Rewinding,
    Phase::Running(Mode::Primary),
    Phase::Running(Mode::Standby),
    Phase::Halting,
    Phase::Waiting,
    Phase::Stopping,
    Phase::Draining,
    Phase::Ended,
];

const FACTS: Facts = Facts {
    data: Data::Empty,
    named: Named::Other,
    epoch: 1,
    diverged: false,
    failover: false,
    bootstrap: BootstrapNode::No,
};

const EVENTS: [Event; 28] = [
    Event::Cleared,
    Event::ClearFailed,
    Event::Inspected(FACTS),
    Event::InspectFailed,
    Event::Initialized,
    Event::InitFailed,
    Event::Cloned,
    Event::CloneFailed,
    Event::NoPrimary,
    Event::Needs(Repair::Rewind),
    Event::Needs(Repair::Clone),
    Event::Rewound,
    Event::RewindFailed,
    Event::RewindPutOff,
    Event::WorkerSilent,
    Event::Concern(Some(Fault::Unanswered)),
    Event::Unresponsive(Fault::Unanswered),
    Event::StoppedByOthers,
    Event::SettingsTooLow,
    Event::StartFailed,
    Event::Exited { ran_for: Duration::from_secs(1) },
    Event::Exited { ran_for: SETTLED_RUN },
    Event::Exited { ran_for: HEALTHY_RUN },
    Event::Woke,
    Event::FilesChanged,
    Event::Shutdown,
    Event::JobEnded,
    Event::Drained,
];

/// A new event must come into the table: this doesn't compile without it.
const fn is_in_the_table(event: Event) -> bool {
    match event {
        Event::Cleared
        | Event::ClearFailed
        | Event::Inspected(_)
        | Event::InspectFailed
        | Event::Initialized
        | Event::InitFailed
        | Event::Cloned
        | Event::CloneFailed
        | Event::NoPrimary
        | Event::Needs(_)
        | Event::Rewound
        | Event::RewindFailed
        | Event::RewindPutOff
        | Event::WorkerSilent
        | Event::Concern(_)
        | Event::Unresponsive(_)
        | Event::StoppedByOthers
        | Event::SettingsTooLow
        | Event::StartFailed
        | Event::Exited { .. }
        | Event::Woke
        | Event::FilesChanged
        | Event::Shutdown
        | Event::JobEnded
        | Event::Drained => true,
    }
}

#[test]
fn every_phase_and_event() {
    let mut table = String::new();
    for phase in PHASES {
        let before = State { phase, failures: 2, repair: None, rewound_in: Some(3) };
        for event in EVENTS {
            assert!(is_in_the_table(event));
            let (after, commands) = step(before, event);
            let event = if matches!(event, Event::Inspected(_)) {
                "Inspected(empty, primary is other)".into()
            } else {
                format!("{event:?}")
            };
            if (after, commands.len()) == (before, 0) {
                let _ = writeln!(table, "{phase:?} + {event} = ");
            } else {
                let State { phase: now, failures, repair, rewound_in } = after;
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

fn all_data() -> impl Iterator<Item = Data> {
    let whole = BOOLS.into_iter().flat_map(|bootstrapping| {
        BOOLS.map(|standby_signal| Data::Whole { bootstrapping, standby_signal })
    });
    [Data::Empty, Data::Foreign, Data::Broken].into_iter().chain(whole)
}

/// Those of a node that was asked for no repair.
fn all_facts() -> impl Iterator<Item = Facts> {
    all_data().flat_map(|data| {
        [Named::Nothing, Named::Nobody, Named::This, Named::Other].into_iter().flat_map(
            move |named| {
                BOOLS.into_iter().flat_map(move |failover| {
                    [BootstrapNode::No, BootstrapNode::Yes, BootstrapNode::TooLate]
                        .map(|bootstrap| Facts { data, named, failover, bootstrap, ..FACTS })
                })
            },
        )
    })
}

fn at_rest() -> State {
    begin().0
}

#[test]
fn all_facts_and_what_they_lead_to() {
    let mut table = String::new();
    for facts in all_facts() {
        let Facts { data, named, failover, bootstrap, epoch: _, diverged: _ } = facts;
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
    for data in
        [Data::Empty, Data::Broken, Data::Whole { bootstrapping: false, standby_signal: true }]
    {
        for named in [Named::Nothing, Named::Nobody, Named::This, Named::Other] {
            for diverged in BOOLS {
                let tried =
                    [(Repair::Rewind, None), (Repair::Rewind, Some(1)), (Repair::Clone, None)];
                let next = tried.map(|(repair, rewound_in)| {
                    let facts = Facts { data, named, diverged, failover: true, ..FACTS };
                    next(facts, State { repair: Some(repair), rewound_in, ..at_rest() })
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
    let diverged = Facts {
        data: Data::Whole { bootstrapping: false, standby_signal: true },
        diverged: true,
        failover: true,
        ..FACTS
    };
    let run = |state: State, events: &[Event]| {
        events.iter().fold((state, vec![]), |(state, mut all), event| {
            let (state, commands) = step(state, *event);
            all.extend(commands);
            (state, all)
        })
    };
    let up = State { phase: Phase::Running(Mode::Standby), ..at_rest() };
    let stopped = [
        Event::Needs(Repair::Rewind),
        Event::Exited { ran_for: Duration::ZERO },
        Event::Cleared,
        Event::Inspected(diverged),
    ];
    let (rewinding, commands) = run(up, &stopped);
    assert_eq!(commands, [Command::Halt, Command::Clear, Command::Inspect, Command::Rewind]);
    let (after, commands) = run(rewinding, &[Event::Rewound, Event::Inspected(diverged)]);
    assert_eq!(commands, [Command::Inspect, Command::Start(Mode::Standby)]);
    let (_, commands) = run(after, &stopped);
    assert_eq!(
        commands.last(),
        Some(&Command::Clone),
        "it did not help, and would not in this epoch"
    );
    let (_, commands) = run(rewinding, &[Event::RewindFailed, Event::Inspected(diverged)]);
    assert_eq!(commands, [Command::Inspect, Command::Clone]);
    let broken = Facts { data: Data::Broken, ..diverged };
    let (_, commands) = run(
        rewinding,
        &[
            Event::RewindFailed,
            Event::Inspected(broken),
            Event::CloneFailed,
            Event::Woke,
            Event::Cleared,
            Event::Inspected(broken),
        ],
    );
    assert_eq!(
        commands.iter().filter(|c| **c == Command::Clone).count(),
        2,
        "until it is whole again"
    );
    let (_, commands) = run(
        rewinding,
        &[Event::RewindPutOff, Event::Woke, Event::Cleared, Event::Inspected(diverged)],
    );
    assert_eq!(
        commands.last(),
        Some(&Command::Start(Mode::Standby)),
        "its member listens, and asks again"
    );
    let (_, commands) = run(
        rewinding,
        &[
            Event::RewindFailed,
            Event::Inspected(diverged),
            Event::CloneFailed,
            Event::Woke,
            Event::Cleared,
            Event::Inspected(diverged),
        ],
    );
    assert_eq!(commands.last(), Some(&Command::Start(Mode::Standby)));
    let follows = Facts { diverged: false, ..diverged };
    let (_, commands) = run(up, &[&stopped[..3], &[Event::Inspected(follows)]].concat());
    assert_eq!(
        commands.last(),
        Some(&Command::Start(Mode::Standby)),
        "the group has moved on meanwhile"
    );
}

#[test]
fn waits_grow_and_end_growing() {
    let seconds: Vec<f32> =
        [1, 2, 3, 5, 6, 7, 1000, u32::MAX].map(|n| wait_after(n).as_secs_f32()).into();
    assert_eq!(seconds, [0.5, 1.0, 2.0, 8.0, 15.0, 15.0, 15.0, 15.0]);
}

fn any_facts() -> impl Strategy<Value = Facts> {
    (prop::sample::select(all_facts().collect::<Vec<_>>()), any::<bool>(), 0..3u64)
        .prop_map(|(facts, diverged, epoch)| Facts { epoch, diverged, ..facts })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => prop::sample::select(EVENTS.to_vec()).prop_filter("stops", |e| *e != Event::Shutdown),
        2 => any_facts().prop_map(Event::Inspected),
        2 => Just(Event::Cleared),
        1 => (0_u64..200).prop_map(|s| Event::Exited { ran_for: Duration::from_secs(s) }),
    ]
}

/// What the world is, as the commands make it.
#[derive(Default)]
struct World {
    server: bool,
    cleared: bool,
    facts: Option<Facts>,
}

impl World {
    fn hears(&mut self, event: Event) {
        match event {
            Event::Exited { .. } | Event::StartFailed => self.server = false,
            Event::Cleared if !self.server => self.cleared = true,
            Event::Inspected(facts) => self.facts = Some(facts),
            Event::Initialized
            | Event::Cloned
            | Event::Rewound
            | Event::RewindFailed
            | Event::RewindPutOff => self.facts = None,
            _ => {}
        }
    }

    fn obeys(&mut self, command: Command) {
        match command {
            Command::Start(mode) => {
                assert!(!self.server, "a second server");
                assert!(self.cleared, "started without a look for an earlier one");
                let facts = self.facts.expect("started without a look at the disk");
                assert!(matches!(facts.data, Data::Whole { .. }), "started on {:?}", facts.data);
                if mode == Mode::Primary {
                    let Data::Whole { bootstrapping, standby_signal } = facts.data else {
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
            Command::InitDb => {
                let facts = self.facts.expect("initdb without a look at the disk");
                assert!(
                    facts.data == Data::Empty
                        && facts.bootstrap == BootstrapNode::Yes
                        && facts.named == Named::Nothing
                );
                assert!(!self.server);
            }
            Command::Clone => {
                let facts = self.facts.expect("cloned without a look at the disk");
                let gives_way =
                    matches!(facts.data, Data::Whole { .. }) && facts.named != Named::This;
                assert!(gives_way || matches!(facts.data, Data::Empty | Data::Broken));
                assert!(!self.server);
            }
            Command::Rewind => {
                let facts = self.facts.expect("rewound without a look at the disk");
                assert!(
                    matches!(facts.data, Data::Whole { .. })
                        && facts.diverged
                        && facts.named != Named::This
                );
                assert!(self.cleared && !self.server);
            }
            Command::Stop | Command::Halt | Command::Kill | Command::Reload => {
                assert!(self.server, "there is no server for {command:?}")
            }
            Command::Exit => assert!(!self.server, "the server is left behind"),
            _ => {}
        }
    }
}

/// Whether the event can happen at all: a server that isn't there does not exit, and what was not
/// begun does not end.
fn can_happen(world: &World, phase: Phase, event: Event) -> bool {
    match event {
        Event::Exited { .. } | Event::StartFailed => world.server,
        Event::Cleared | Event::ClearFailed => {
            phase == Phase::Clearing || (phase == Phase::Stopping && !world.server)
        }
        Event::Inspected(_) => phase == Phase::Inspecting,
        _ => true,
    }
}

proptest! {
    #[test]
    fn no_run_does_what_must_not_be(events in prop::collection::vec(any_event(), 0..60), stop_at in 0_usize..80) {
        let mut world = World::default();
        let (mut state, _) = begin();
        for (i, event) in events.into_iter().enumerate() {
            let event = if i == stop_at { Event::Shutdown } else { event };
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
            let event = if i == before { Event::Shutdown } else { event };
            let (next, commands) = step(state, event);
            if i >= before {
                prop_assert!(!commands.iter().any(|c| matches!(c, Command::Start(_) | Command::InitDb | Command::Clone | Command::Rewind)));
            }
            state = next;
        }
    }
}

/// Ends after a second, each time; what it comes to, and how often it was started before.
fn ends_again_and_again(mode: Mode, facts: Facts) -> (Command, u32) {
    let mut state =
        State { phase: Phase::Running(mode), failures: 0, repair: None, rewound_in: None };
    let mut starts = 1;
    loop {
        let (waiting, commands) = step(state, Event::Exited { ran_for: Duration::from_secs(1) });
        assert!(matches!(commands[..], [Command::Wait(_)]), "it backs off: {commands:?}");
        let (clearing, _) = step(waiting, Event::Woke);
        let (inspecting, _) = step(clearing, Event::Cleared);
        let (next, commands) = step(inspecting, Event::Inspected(facts));
        if !matches!(commands[..], [Command::Start(_)]) || starts > 100 {
            return (commands[0], starts);
        }
        (state, starts) = (next, starts + 1);
    }
}

#[test]
fn a_standby_that_never_stays_up_is_cloned_and_a_primary_never_is() {
    let whole = Data::Whole { bootstrapping: false, standby_signal: true };
    let standby = Facts { data: whole, named: Named::Other, failover: true, ..FACTS };
    assert_eq!(ends_again_and_again(Mode::Standby, standby), (Command::Clone, GIVES_UP));
    for named in [Named::This, Named::Nothing, Named::Nobody] {
        let facts = Facts { named, ..standby };
        let (command, starts) = ends_again_and_again(Mode::Standby, facts);
        assert!(
            named != Named::This || (command == Command::Start(Mode::Standby) && starts > 100),
            "{named:?}: {command:?}"
        );
    }
}

#[test]
fn a_server_that_settles_and_ends_again_and_again_backs_off_too() {
    let mut state =
        State { phase: Phase::Running(Mode::Standby), failures: 0, repair: None, rewound_in: None };
    for n in 0..ENDS_AT_ONCE {
        let (next, commands) = step(state, Event::Exited { ran_for: SETTLED_RUN });
        assert_eq!(commands, [Command::Clear], "{n}: at once");
        state = State { phase: Phase::Running(Mode::Standby), ..next };
    }
    let (_, commands) = step(state, Event::Exited { ran_for: SETTLED_RUN });
    assert!(matches!(commands[..], [Command::Wait(_)]));
    let (next, commands) = step(state, Event::Exited { ran_for: HEALTHY_RUN });
    assert_eq!((next.failures, &commands[..]), (0, &[Command::Clear][..]));
}

#[test]
fn a_standby_whose_settings_are_too_low_is_started_again_and_a_primary_goes_on() {
    let running =
        |mode| State { phase: Phase::Running(mode), failures: 0, repair: None, rewound_in: None };
    let (halting, commands) = step(running(Mode::Standby), Event::SettingsTooLow);
    assert_eq!(
        (halting.phase, halting.repair, &commands[..]),
        (Phase::Halting, None, &[Command::Halt][..])
    );
    assert_eq!(
        step(running(Mode::Primary), Event::SettingsTooLow),
        (running(Mode::Primary), vec![])
    );
}
