//! What holds in every run.

use proptest::prelude::*;

use super::super::*;
use super::{EVENTS, all_facts};

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
            SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed(_) => self.server = false,
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
            SupervisorCommand::Clone | SupervisorCommand::Replace => {
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
        SupervisorEvent::Exited { .. } | SupervisorEvent::StartFailed(_) => world.server,
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
    fn no_run_breaks_a_rule(events in prop::collection::vec(any_event(), 0..60), stop_at in 0_usize..80) {
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
                prop_assert!(!commands.iter().any(|c| matches!(c, SupervisorCommand::Start(_) | SupervisorCommand::InitDb | SupervisorCommand::Clone | SupervisorCommand::Replace | SupervisorCommand::Rewind)));
            }
            state = next;
        }
    }
}
