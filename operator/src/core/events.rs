//! What is worth an Event: steps that were taken, and changes that were seen.

use super::certificates::Work;
use super::step::{Step, StepOutcome, WaitReason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pgraft_api::cluster::PgRaftClusterStatus;
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_api::events::EventReason;
use pgraft_api::names::{self, SecretKind};
use pgraft_core::{NodeId, Role};

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
                note: format!("Node {} has caught up and votes", member.id),
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
            note: format!("{new} leads now; before it was {old}"),
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
            "Node {id} is a member no more: nothing was heard of it within pgraft.join_timeout, or somebody removed it by hand"
        )
    };
    gone.map(|m| ClusterEvent { reason: EventReason::NodeGivenUp, note: note(m.id) }).collect()
}

fn of_step(cluster: &str, outcome: &StepOutcome) -> Option<ClusterEvent> {
    let step = match outcome {
        StepOutcome::Invalid(_) => return None, // the condition tells
        StepOutcome::Failed { message, .. } => {
            return Some(ClusterEvent {
                reason: EventReason::OperationFailed,
                note: message.clone(),
            });
        }
        StepOutcome::Took(step) => step,
    };
    let pod = |node| names::pod(cluster, node);
    let (reason, note) = match step {
        Step::CreateSecrets(kinds) => {
            let names: Vec<String> = kinds.iter().map(|kind| kind.name(cluster)).collect();
            (EventReason::SecretsCreated, format!("Created Secrets {}", names.join(", ")))
        }
        Step::DeleteSecret(kind) => {
            (EventReason::SecretDeleted, format!("Deleted Secret {}", kind.name(cluster)))
        }
        Step::Certificates(work) if work.contains(&Work::RenewCa) => (
            EventReason::CaRenewed,
            format!(
                "Made a new CA in Secret {}; members come to trust it before it signs",
                SecretKind::Ca.name(cluster)
            ),
        ),
        Step::Certificates(work) => (EventReason::CertificatesIssued, certificates(cluster, work)),
        Step::ApplyObjects(keys) => {
            let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
            (EventReason::ObjectsApplied, format!("Applied {}", names.join(", ")))
        }
        Step::DeleteObject(key) => {
            (EventReason::ObjectsApplied, format!("Deleted {key}, which has another name now"))
        }
        Step::RoutePods(pods) => (EventReason::RoutesChanged, routes(cluster, pods)),
        Step::LabelPods(pods) => {
            let names: Vec<String> = pods
                .iter()
                .map(|(node, role)| format!("{} is {}", pod(*node), role.as_str()))
                .collect();
            (EventReason::ServicesSwitched, names.join(", "))
        }
        Step::CreateVolume(node) => {
            (EventReason::CreatingVolume, format!("Created volume {}", pod(*node)))
        }
        Step::CreatePod { node, bootstrap: true } => (
            EventReason::CreatingPod,
            format!("Created pod {}, which makes the cluster", pod(*node)),
        ),
        Step::CreatePod { node, bootstrap: false } => {
            (EventReason::CreatingPod, format!("Created pod {}", pod(*node)))
        }
        Step::ClearPod(node) => (
            EventReason::ClearingPod,
            format!("Deleted pod {}, which had ended, to make it again", pod(*node)),
        ),
        Step::RestartPod(node) => {
            let note = format!(
                "Deleted pod {}, to make it again as the spec has it now; its volume and its id stay",
                pod(*node)
            );
            (EventReason::RestartingPod, note)
        }
        Step::AddNode(node) => (
            EventReason::NodeAdded,
            format!("Node {node} is a member; it votes when it has caught up"),
        ),
        Step::RemoveNode(node) => {
            (EventReason::NodeRemoved, format!("Node {node} leaves the group"))
        }
        Step::DeletePod(node) => {
            (EventReason::DeletingPod, format!("Deleted pod {}, which is no member", pod(*node)))
        }
        Step::DeleteVolume(node) => (
            EventReason::DeletingVolume,
            format!("Deleted volume {}, whose member has left", pod(*node)),
        ),
        Step::RetireVolume(node) => (
            EventReason::RetainingVolume,
            format!("Kept volume {}, whose member has left", pod(*node)),
        ),
        Step::GrowVolume(node) => {
            (EventReason::GrowingVolume, format!("Asked for more room on volume {}", pod(*node)))
        }
        Step::Wait(why @ WaitReason::Refused { .. }) if !why.is_ordinary() => {
            (EventReason::ChangeRefused, why.message(cluster))
        }
        Step::Wait(why @ WaitReason::DataLost) => (EventReason::DataLost, why.message(cluster)),
        Step::Wait(why @ WaitReason::InOtherCluster(_)) => {
            (EventReason::ForeignCluster, why.message(cluster))
        }
        // A switchover is told when it has come about.
        Step::SwitchOver(_)
        | Step::RefreshPods(_)
        | Step::SetOwners(_)
        | Step::Wait(_)
        | Step::Steady => return None,
    };
    Some(ClusterEvent { reason, note })
}

fn routes(cluster: &str, pods: &[(NodeId, bool)]) -> String {
    let said = pods.iter().map(|(node, routed)| match (names::pod(cluster, *node), routed) {
        (pod, false) => format!("took {pod} out of the Services: the leader does not reach it"),
        (pod, true) => format!("put {pod} into the Services"),
    });
    capitalized(&said.collect::<Vec<_>>().join(", "))
}

fn certificates(cluster: &str, work: &[Work]) -> String {
    let said = work.iter().map(|work| match work {
        Work::RenewCa => "made a new CA".to_owned(),
        Work::Issue(node) => format!("issued the certificate of {}", names::pod(cluster, *node)),
        Work::Trust(node) => format!("told {} whom to trust", names::pod(cluster, *node)),
        Work::Share(kind) => format!("wrote ca.crt into Secret {}", kind.name(cluster)),
        Work::Remove(node) => format!("deleted the certificate of {}", names::pod(cluster, *node)),
    });
    capitalized(&said.collect::<Vec<_>>().join(", "))
}

fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
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
    use crate::core::fixtures::*;
    use crate::core::status::{ConditionSubject, derive};
    use crate::core::step::MembershipRequest;
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
        let step = crate::core::plan::next_step(&want, &seen);
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
        assert_eq!(crate::core::plan::next_step(&want, &seen), Step::CreateVolume(id(4)));
        // Removed by the operator it is nobody's surprise.
        let removing = derive(SUBJECT, &seen, &StepOutcome::Took(Step::RemoveNode(id(3))), &before);
        let told = reasons(&StepOutcome::Took(Step::RemoveNode(id(3))), &before, &removing);
        assert_eq!(told, [EventReason::NodeRemoved]);
    }
}
