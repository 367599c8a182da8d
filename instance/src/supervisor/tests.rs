//! Every phase with every event, and what holds in every run.

use proptest::prelude::*;
use std::fmt::Write as _;

use super::*;

const PHASES: [Phase; 9] = [
    Phase::Clearing,
    Phase::Inspecting,
    Phase::Initializing,
    Phase::Cloning,
    Phase::Running(Mode::Primary),
    Phase::Running(Mode::Standby),
    Phase::Waiting,
    Phase::Stopping,
    Phase::Ended,
];

const FACTS: Facts = Facts { data: Data::Empty, named: Named::Other, founder: false, cluster_elsewhere: false };

const EVENTS: [Event; 16] = [
    Event::Cleared,
    Event::ClearFailed,
    Event::Inspected(FACTS),
    Event::InspectFailed,
    Event::Initialized,
    Event::InitFailed,
    Event::Cloned,
    Event::CloneFailed,
    Event::NoPrimary,
    Event::StartFailed,
    Event::Exited { ran_for: Duration::from_secs(1) },
    Event::Exited { ran_for: HEALTHY_RUN },
    Event::Woke,
    Event::FilesChanged,
    Event::Shutdown,
    Event::JobEnded,
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
        | Event::StartFailed
        | Event::Exited { .. }
        | Event::Woke
        | Event::FilesChanged
        | Event::Shutdown
        | Event::JobEnded => true,
    }
}

#[test]
fn every_phase_and_event() {
    let mut table = String::new();
    for phase in PHASES {
        let before = State { phase, failures: 2 };
        for event in EVENTS {
            assert!(is_in_the_table(event));
            let (after, commands) = step(before, event);
            let event =
                if matches!(event, Event::Inspected(_)) { "Inspected(empty, primary is other)".into() } else { format!("{event:?}") };
            if (after, commands.len()) == (before, 0) {
                let _ = writeln!(table, "{phase:?} + {event} = ");
            } else {
                let _ = writeln!(table, "{phase:?} + {event} = {:?}, failures {}, {commands:?}", after.phase, after.failures);
            }
        }
    }
    insta::assert_snapshot!(table);
}

fn all_facts() -> impl Iterator<Item = Facts> {
    let bools = [false, true];
    let whole = bools.into_iter().flat_map(move |founding| bools.map(|standby_signal| Data::Whole { founding, standby_signal }));
    let data: Vec<Data> = [Data::Empty, Data::Foreign].into_iter().chain(whole).collect();
    data.into_iter().flat_map(move |data| {
        [Named::Nothing, Named::Nobody, Named::This, Named::Other].into_iter().flat_map(move |named| {
            bools.into_iter().flat_map(move |founder| bools.map(|cluster_elsewhere| Facts { data, named, founder, cluster_elsewhere }))
        })
    })
}

#[test]
fn all_facts_and_what_they_lead_to() {
    let mut table = String::new();
    for facts in all_facts() {
        let Facts { data, named, founder, cluster_elsewhere } = facts;
        let _ = writeln!(table, "{data:?}, primary {named:?}, founder {founder}, cluster elsewhere {cluster_elsewhere}: {:?}", next(facts));
    }
    insta::assert_snapshot!(table);
}

#[test]
fn waits_grow_and_end_growing() {
    let seconds: Vec<f32> = [1, 2, 3, 5, 6, 7, 1000, u32::MAX].map(|n| wait_after(n).as_secs_f32()).into();
    assert_eq!(seconds, [0.5, 1.0, 2.0, 8.0, 15.0, 15.0, 15.0, 15.0]);
}

fn any_facts() -> impl Strategy<Value = Facts> {
    prop::sample::select(all_facts().collect::<Vec<_>>())
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
            Event::Initialized | Event::Cloned => self.facts = None,
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
                    let Data::Whole { founding, standby_signal } = facts.data else { panic!() };
                    assert!(!standby_signal && (facts.named == Named::This || (founding && facts.named == Named::Nothing)));
                }
                (self.server, self.cleared) = (true, false);
            }
            Command::InitDb => {
                let facts = self.facts.expect("initdb without a look at the disk");
                assert!(facts.data == Data::Empty && facts.founder && facts.named == Named::Nothing && !facts.cluster_elsewhere);
                assert!(!self.server);
            }
            Command::Clone => {
                assert_eq!(self.facts.expect("cloned without a look at the disk").data, Data::Empty);
                assert!(!self.server);
            }
            Command::Stop | Command::Reload => assert!(self.server, "there is no server for {command:?}"),
            Command::Exit => assert!(!self.server, "the server is left behind"),
            _ => {}
        }
    }
}

/// Whether the event can happen at all: a server that isn't there does not exit, and what was not begun does not end.
fn can_happen(world: &World, phase: Phase, event: Event) -> bool {
    match event {
        Event::Exited { .. } | Event::StartFailed => world.server,
        Event::Cleared | Event::ClearFailed => phase == Phase::Clearing || (phase == Phase::Stopping && !world.server),
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
                prop_assert!(!commands.iter().any(|c| matches!(c, Command::Start(_) | Command::InitDb | Command::Clone)));
            }
            state = next;
        }
    }
}
