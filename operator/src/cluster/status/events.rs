//! What is worth an Event: steps that were taken, and changes that were seen.

use crate::cluster::step::{Step, StepOutcome};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pgraft_api::cluster::PgRaftClusterStatus;
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_api::events::EventReason;
use pgraft_core::Role;

/// One Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEvent {
    /// Its reason.
    pub reason: EventReason,
    /// For people.
    pub note: String,
}

/// What a pass has to tell. The same trouble is told once, not in every pass.
pub fn events(
    cluster: &str,
    outcome: &StepOutcome,
    before: &PgRaftClusterStatus,
    after: &PgRaftClusterStatus,
) -> Vec<ClusterEvent> {
    let mut all: Vec<ClusterEvent> = of_step(cluster, outcome)
        .into_iter()
        .filter(|n| !n.reason.is_warning() || is_new(n, before, after))
        .collect();
    for member in after.members.iter().filter(|m| m.role == Role::Voter) {
        if before.members.iter().any(|m| m.id == member.id && m.role == Role::Learner) {
            all.push(ClusterEvent {
                reason: EventReason::NodeVotes,
                note: format!("Node {} has caught up and is a voter", member.id),
            });
        }
    }
    all.extend(given_up(outcome, before, after));
    all.extend(primary::changed(before, after));
    all.extend(primary::refused(before, after));
    if let (Some(old), Some(new)) = (&before.leader, &after.leader)
        && old != new
    {
        all.push(ClusterEvent {
            reason: EventReason::LeaderChanged,
            note: format!("{new} is the leader, in place of {old}"),
        });
    }
    if has_reason(after, ConditionType::Reconciled, ConditionReason::InvalidSpec)
        && message(before, ConditionType::Reconciled) != message(after, ConditionType::Reconciled)
    {
        all.push(ClusterEvent {
            reason: EventReason::InvalidSpec,
            note: message(after, ConditionType::Reconciled),
        });
    }
    let turned = |type_: ConditionType, from: &str, to: &str| {
        holds(before, type_) == Some(from) && holds(after, type_) == Some(to)
    };
    if turned(ConditionType::QuorumHealthy, "True", "False") {
        all.push(ClusterEvent {
            reason: EventReason::QuorumLost,
            note: message(after, ConditionType::QuorumHealthy),
        });
    }
    let ca_trouble = |status| {
        holds(status, ConditionType::CertificatesReady) == Some("False")
            && has_reason(status, ConditionType::CertificatesReady, ConditionReason::CaUnusable)
    };
    if ca_trouble(after) && !ca_trouble(before) {
        all.push(ClusterEvent {
            reason: EventReason::CaUnusable,
            note: message(after, ConditionType::CertificatesReady),
        });
    }
    all.extend(configuration(before, after));
    if turned(ConditionType::QuorumHealthy, "False", "True") {
        all.push(ClusterEvent {
            reason: EventReason::QuorumRegained,
            note: message(after, ConditionType::QuorumHealthy),
        });
    }
    if holds(after, ConditionType::Ready) == Some("True")
        && holds(before, ConditionType::Ready) != Some("True")
    {
        all.push(ClusterEvent {
            reason: EventReason::ClusterReady,
            note: message(after, ConditionType::Ready),
        });
    }
    all
}

/// Newcomers that have gone without this operator's doing. Its pod and volume go with the next
/// passes, and where the spec still wants one more another id takes its place.
fn given_up(
    outcome: &StepOutcome,
    before: &PgRaftClusterStatus,
    after: &PgRaftClusterStatus,
) -> Vec<ClusterEvent> {
    // Only a leader knows who is reachable: a follower that lags behind may not have heard of the
    // newcomer yet.
    if after.members.iter().all(|m| m.reachable.is_none()) {
        return Vec::new();
    }
    // The pass that follows this operator's own removal finds the member gone.
    let removing = has_reason(before, ConditionType::Progressing, ConditionReason::Shrinking);
    let removed = |id: i64| {
        removing
            || matches!(outcome, StepOutcome::Took(Step::RemoveNode(node)) if i64::from(*node) == id)
    };
    let gone = before.members.iter().filter(|m| {
        m.role == Role::Learner && after.members.iter().all(|now| now.id != m.id) && !removed(m.id)
    });
    let note = |id| {
        format!(
            "Node {id} was removed: it was not reachable within pgraft.join_timeout, or was removed manually"
        )
    };
    gone.map(|m| ClusterEvent { reason: EventReason::NodeGivenUp, note: note(m.id) }).collect()
}

fn of_step(cluster: &str, outcome: &StepOutcome) -> Option<ClusterEvent> {
    let (reason, note) = match outcome {
        StepOutcome::Invalid(_) => return None, // reported by the condition
        StepOutcome::Failed { message, .. } => (EventReason::OperationFailed, message.clone()),
        StepOutcome::Took(step) => step.describe(cluster).event?,
    };
    Some(ClusterEvent { reason, note })
}

fn condition(status: &PgRaftClusterStatus, type_: ConditionType) -> Option<&Condition> {
    status.conditions.iter().find(|c| c.type_ == type_.as_str())
}

fn has_reason(status: &PgRaftClusterStatus, type_: ConditionType, reason: ConditionReason) -> bool {
    condition(status, type_).is_some_and(|c| c.reason == reason.name())
}

/// Told anew for each other problem.
fn configuration(
    before: &PgRaftClusterStatus,
    after: &PgRaftClusterStatus,
) -> Option<ClusterEvent> {
    let type_ = ConditionType::ConfigurationValid;
    let (was, is) = (holds(before, type_), holds(after, type_));
    let reason = match is {
        Some("False") if was != is || message(before, type_) != message(after, type_) => {
            EventReason::ConfigurationInvalid
        }
        Some("True") if was == Some("False") => EventReason::ConfigurationValid,
        _ => return None,
    };
    Some(ClusterEvent { reason, note: message(after, type_) })
}

/// What fails is tried again and again, and other things fail beside it: it is told when it is not
/// there yet.
fn is_new(
    events: &ClusterEvent,
    before: &PgRaftClusterStatus,
    after: &PgRaftClusterStatus,
) -> bool {
    match events.reason {
        EventReason::OperationFailed => {
            !message(before, ConditionType::Reconciled).contains(&events.note)
        }
        _ => message(before, ConditionType::Degraded) != message(after, ConditionType::Degraded),
    }
}

fn holds(status: &PgRaftClusterStatus, type_: ConditionType) -> Option<&str> {
    condition(status, type_).map(|c| c.status.as_str())
}

fn message(status: &PgRaftClusterStatus, type_: ConditionType) -> String {
    condition(status, type_).map(|c| c.message.clone()).unwrap_or_default()
}

mod primary;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;
    use crate::cluster::status::{ConditionSubject, derive};
    use crate::cluster::step::MembershipRequest;
    use crate::cluster::step::WaitReason;
    use pgraft_core::Role;
    use pgraft_core::configuration::{ConfigurationStatus, Problem};

    const SUBJECT: ConditionSubject<'_> = ConditionSubject {
        name: "demo",
        namespace: "default",
        generation: Some(1),
        replicas: 3,
        template: None,
        storage: None,
        switchover: None,
        invalid: None,
    };

    fn reasons(
        outcome: &StepOutcome,
        before: &PgRaftClusterStatus,
        after: &PgRaftClusterStatus,
    ) -> Vec<EventReason> {
        events("demo", outcome, before, after).into_iter().map(|n| n.reason).collect()
    }

    #[test]
    fn trouble_is_told_once() {
        let seen = healthy(&wanted(3), 3);
        let why = WaitReason::Refused {
            change: MembershipRequest::Remove(id(3)),
            code: "55006".into(),
            message: "no".into(),
        };
        let outcome = StepOutcome::Took(Step::Wait(why));
        let before = derive(
            SUBJECT,
            &seen,
            &StepOutcome::Took(Step::Steady),
            &PgRaftClusterStatus::default(),
        );
        let first = derive(SUBJECT, &seen, &outcome, &before);
        let second = derive(SUBJECT, &seen, &outcome, &first);
        assert_eq!(reasons(&outcome, &before, &first), [EventReason::ChangeRefused]);
        assert_eq!(reasons(&outcome, &first, &second), []);
    }

    #[test]
    fn a_configuration_that_is_rejected_is_told_once_and_again_when_it_is_valid() {
        let mut seen = healthy(&wanted(1), 1);
        let steady = StepOutcome::Took(Step::Steady);
        let mut said = |value: Option<&str>, before: &PgRaftClusterStatus| {
            let problems = value.map(|value| Problem {
                setting: "x".into(),
                line: None,
                value: Some(value.into()),
                message: "bad".into(),
            });
            let status = ConfigurationStatus {
                valid: value.is_none(),
                problems: problems.into_iter().collect(),
                ..Default::default()
            };
            seen.configurations = [(id(1), status)].into();
            let after = derive(SUBJECT, &seen, &steady, before);
            let told: Vec<ClusterEvent> = events("demo", &steady, before, &after)
                .into_iter()
                .filter(|n| n.note.contains(['x', 'f']))
                .collect();
            (after, told.into_iter().map(|n| (n.reason, n.note)).collect::<Vec<_>>())
        };
        let (first, told) = said(Some("1"), &PgRaftClusterStatus::default());
        assert!(
            told.contains(&(EventReason::ConfigurationInvalid, "x \"1\": bad".into())),
            "{told:?}"
        );
        let (second, told) = said(Some("1"), &first);
        assert_eq!(told, []);
        let (third, told) = said(Some("2"), &second);
        assert_eq!(told, [(EventReason::ConfigurationInvalid, "x \"2\": bad".into())]);
        let (_, told) = said(None, &third);
        assert_eq!(told, [(EventReason::ConfigurationValid, "every setting is in force".into())]);
    }

    #[test]
    fn a_member_that_votes_and_a_cluster_that_is_ready() {
        let want = wanted(3);
        let mut seen = healthy(&want, 3);
        seen.group = Some(group(
            &[member(1, Role::Voter), member(2, Role::Voter), member(3, Role::Learner)],
            4,
        ));
        let waiting = StepOutcome::Took(Step::Wait(WaitReason::LearnerCatchingUp(id(3))));
        let before = derive(SUBJECT, &seen, &waiting, &PgRaftClusterStatus::default());
        let after = derive(SUBJECT, &healthy(&want, 3), &StepOutcome::Took(Step::Steady), &before);
        assert_eq!(
            reasons(&StepOutcome::Took(Step::Steady), &before, &after),
            [EventReason::NodeVotes, EventReason::ClusterReady]
        );
    }

    #[test]
    fn a_newcomer_that_was_given_up_is_told_and_its_place_is_taken() {
        let want = wanted(3);
        let mut seen = healthy(&want, 3);
        seen.group = Some(group(
            &[member(1, Role::Voter), member(2, Role::Voter), member(3, Role::Learner)],
            4,
        ));
        let waiting = StepOutcome::Took(Step::Wait(WaitReason::LearnerCatchingUp(id(3))));
        let before = derive(SUBJECT, &seen, &waiting, &PgRaftClusterStatus::default());
        seen.group = Some(group(&[member(1, Role::Voter), member(2, Role::Voter)], 4));
        let step = crate::cluster::plan::next_step(&want, &seen);
        assert_eq!(step, Step::DeletePod(id(3)), "its pod is no member's");
        let outcome = StepOutcome::Took(step);
        let after = derive(SUBJECT, &seen, &outcome, &before);
        assert_eq!(
            reasons(&outcome, &before, &after),
            [EventReason::DeletingPod, EventReason::NodeGivenUp]
        );
        // Pod and volume gone, the next id takes its place.
        seen.pods.remove(&id(3));
        seen.volumes.remove(&id(3));
        assert_eq!(crate::cluster::plan::next_step(&want, &seen), Step::CreateVolume(id(4)));
        // Removed by the operator it is nobody's surprise.
        let removing = derive(SUBJECT, &seen, &StepOutcome::Took(Step::RemoveNode(id(3))), &before);
        let told = reasons(&StepOutcome::Took(Step::RemoveNode(id(3))), &before, &removing);
        assert_eq!(told, [EventReason::NodeRemoved]);
    }
}
