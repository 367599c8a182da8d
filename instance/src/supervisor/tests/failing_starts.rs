//! Servers that end again and again.

use super::super::*;
use super::{FACTS, running};

const STANDBY: SupervisorFacts = SupervisorFacts {
    data: DataDirectory::Whole { bootstrapping: false, standby_signal: true },
    named: Named::Other,
    failover: true,
    ..FACTS
};

const EXITED: SupervisorEvent = SupervisorEvent::Exited { ran_for: Duration::from_secs(1) };
const DAMAGED: SupervisorEvent = SupervisorEvent::StartFailed(StartFailure::DamagedData);
const OTHER: SupervisorEvent = SupervisorEvent::StartFailed(StartFailure::Other);

/// From a failed start to the next decision.
fn after_failure(
    state: SupervisorState,
    failure: SupervisorEvent,
    facts: SupervisorFacts,
) -> (SupervisorState, Vec<SupervisorCommand>, Duration) {
    let (waiting, commands) = step(state, failure);
    let [SupervisorCommand::Wait(wait)] = commands[..] else { panic!("{commands:?}") };
    let (clearing, _) = step(waiting, SupervisorEvent::Woke);
    let (inspecting, _) = step(clearing, SupervisorEvent::Cleared);
    let (next, commands) = step(inspecting, SupervisorEvent::Inspected(facts));
    (next, commands, wait)
}

/// The first command other than a start, and how many starts failed before it; None after 100.
fn first_repair(
    mode: StartMode,
    failure: SupervisorEvent,
    facts: SupervisorFacts,
) -> Option<(SupervisorCommand, u32)> {
    let mut state = running(mode);
    for failures in 1..=100 {
        let (next, commands, _) = after_failure(state, failure, facts);
        if !matches!(commands[..], [SupervisorCommand::Start(_)]) {
            return Some((commands[0], failures));
        }
        state = next;
    }
    None
}

#[test]
fn a_standby_that_keeps_failing_to_start_is_cloned_and_a_primary_never_is() {
    let cloned = Some((SupervisorCommand::Replace, FAILURES_BEFORE_REPLACE));
    for failure in [EXITED, DAMAGED] {
        assert_eq!(first_repair(StartMode::Standby, failure, STANDBY), cloned);
        for named in [Named::Nothing, Named::Nobody] {
            let facts = SupervisorFacts { named, ..STANDBY };
            let repair = first_repair(StartMode::Standby, failure, facts);
            assert_eq!(repair, cloned, "the clone finds no primary and changes nothing");
        }
        let facts = SupervisorFacts { named: Named::This, ..STANDBY };
        assert_eq!(first_repair(StartMode::Standby, failure, facts), None);
        let alone = SupervisorFacts {
            data: DataDirectory::Whole { bootstrapping: false, standby_signal: false },
            failover: false,
            ..facts
        };
        assert_eq!(first_repair(StartMode::Primary, failure, alone), None);
    }
    assert_eq!(first_repair(StartMode::Standby, OTHER, STANDBY), None, "a clone would not help");
}

/// Runs a server that never starts for a day, and returns how often it was cloned. The instance
/// manager restarts after `restart_after` clones.
fn clones_in_a_day(restart_after: u32) -> u32 {
    let (mut state, mut now, mut last, mut clones) =
        (running(StartMode::Standby), Duration::ZERO, None::<Duration>, 0);
    while now < Duration::from_hours(24) {
        let replaced_ago = last.map(|last| now.saturating_sub(last));
        let facts = SupervisorFacts { replaced_ago, ..STANDBY };
        let (next, commands, wait) = after_failure(state, EXITED, facts);
        now += wait + Duration::from_secs(1);
        state = next;
        if commands == [SupervisorCommand::Replace] {
            (clones, last) = (clones + 1, Some(now));
            let (inspecting, _) = step(state, SupervisorEvent::Cloned);
            (state, _) = step(inspecting, SupervisorEvent::Inspected(facts));
            if clones == restart_after {
                state = running(StartMode::Standby);
            }
        }
        let limited = last.is_some_and(|last| now.saturating_sub(last) < REPLACE_INTERVAL);
        if let Some(FailureReason::ReplacedRecently { .. }) = state.reason {
            assert!(limited || state.failures > 0);
        }
    }
    clones
}

#[test]
fn a_clone_that_does_not_start_either_is_made_again_only_after_hours() {
    assert_eq!(clones_in_a_day(u32::MAX), 4);
    assert_eq!(clones_in_a_day(1), 4, "a restart of the instance manager changes nothing");
}

#[test]
fn the_reason_for_not_cloning_is_shown_until_the_server_runs() {
    let facts = SupervisorFacts { replaced_ago: Some(Duration::from_mins(12)), ..STANDBY };
    let reason = FailureReason::ReplacedRecently { ago: Duration::from_mins(12) };
    let state =
        SupervisorState { failures: FAILURES_BEFORE_REPLACE - 1, ..running(StartMode::Standby) };
    let (limited, commands, _) = after_failure(state, EXITED, facts);
    assert_eq!(
        commands,
        [SupervisorCommand::Explain(reason), SupervisorCommand::Start(StartMode::Standby)]
    );
    assert_eq!(limited.reason, Some(reason));
    let (failed_again, commands, _) = after_failure(limited, EXITED, facts);
    assert_eq!(commands, [SupervisorCommand::Start(StartMode::Standby)]);
    assert_eq!(failed_again.reason, Some(reason));
    let (healthy, _) = step(failed_again, SupervisorEvent::Exited { ran_for: HEALTHY_RUN });
    assert_eq!(healthy.reason, None);
}

#[test]
fn the_reasons_are_messages_for_people() {
    let all = [
        FailureReason::ForeignData,
        FailureReason::DataLost,
        FailureReason::ClusterElsewhere,
        FailureReason::ReplacedRecently { ago: Duration::from_secs(750) },
    ];
    insta::assert_snapshot!(all.map(|reason| reason.to_string()).join("\n"));
}

#[test]
fn a_settled_server_that_keeps_ending_backs_off() {
    let mut state = running(StartMode::Standby);
    for n in 0..IMMEDIATE_RESTARTS {
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
fn a_standby_whose_settings_are_too_low_is_restarted_and_a_primary_is_not() {
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
