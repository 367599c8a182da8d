//! One table describes a step: what the column STATUS, the conditions and the Events say about it.

use super::{MembershipRequest, Step, WaitReason};
use crate::cluster::certificates::Work;
use pgraft_api::conditions::ConditionReason;
use pgraft_api::events::EventReason;
use pgraft_api::names::{self, SecretKind};
use pgraft_core::NodeId;

/// What is said about a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDescription {
    /// The column STATUS, in a few words.
    pub phase: String,
    /// The message of the conditions.
    pub message: String,
    /// The reason of the conditions.
    pub reason: ConditionReason,
    /// The Event after the step was taken; None for steps that need none.
    pub event: Option<(EventReason, String)>,
}

impl Step {
    /// The name of the variant, for logs and metrics.
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// What is said about this step of the cluster of this name.
    #[allow(clippy::too_many_lines, reason = "a table")]
    pub fn describe(&self, cluster: &str) -> StepDescription {
        use ConditionReason as Condition;
        use EventReason as Event;
        let pod = |node: &NodeId| names::pod(cluster, *node);
        let step = |phase: String, reason, event| StepDescription {
            message: phase.clone(),
            phase,
            reason,
            event,
        };
        match self {
            Self::CreateSecrets(kinds) => step(
                "Creating Secrets".into(),
                Condition::Updating,
                Some((
                    Event::SecretsCreated,
                    format!(
                        "Created Secrets {}",
                        list(kinds.iter().map(|kind| kind.name(cluster)))
                    ),
                )),
            ),
            Self::DeleteSecret(kind) => step(
                format!("Deleting Secret {}", kind.name(cluster)),
                Condition::Updating,
                Some((Event::SecretDeleted, format!("Deleted Secret {}", kind.name(cluster)))),
            ),
            Self::ApplyObjects(keys) => step(
                "Applying Services and configuration".into(),
                Condition::Updating,
                Some((Event::ObjectsApplied, format!("Applied {}", list(keys)))),
            ),
            Self::DeleteObject(key) => step(
                format!("Deleting {key}"),
                Condition::Updating,
                Some((
                    Event::ObjectsApplied,
                    format!("Deleted {key}, which has been replaced by an object of another name"),
                )),
            ),
            Self::Certificates(work) => step(
                "Issuing certificates".into(),
                Condition::Updating,
                Some(certificates(cluster, work)),
            ),
            Self::RefreshPods(_) => {
                step("Refreshing the pods' configuration".into(), Condition::Updating, None)
            }
            Self::SetOwners(_) => step("Setting owners".into(), Condition::Updating, None),
            Self::LabelPods(pods) => step(
                "Pointing Services to the primary".into(),
                Condition::Updating,
                Some((
                    Event::ServicesSwitched,
                    list(
                        pods.iter()
                            .map(|(node, role)| format!("{} is {}", pod(node), role.as_str())),
                    ),
                )),
            ),
            Self::RoutePods(pods) => step(
                "Updating which pods Services select".into(),
                Condition::Updating,
                Some((Event::RoutesChanged, routes(cluster, pods))),
            ),
            Self::CreateVolume(node) => step(
                format!("Creating volume {}", pod(node)),
                Condition::Growing,
                Some((Event::CreatingVolume, format!("Created volume {}", pod(node)))),
            ),
            Self::CreatePod { node, bootstrap } => {
                let created = format!("Created pod {}", pod(node));
                let note = if *bootstrap {
                    format!("{created}, which bootstraps the cluster")
                } else {
                    created
                };
                step(
                    format!("Creating pod {}", pod(node)),
                    Condition::Growing,
                    Some((Event::CreatingPod, note)),
                )
            }
            Self::ClearPod(node) => step(
                format!("Deleting terminated pod {}", pod(node)),
                Condition::Updating,
                Some((
                    Event::ClearingPod,
                    format!("Deleted terminated pod {} in order to recreate it", pod(node)),
                )),
            ),
            Self::RestartPod(node) => step(
                format!("Restarting pod {}", pod(node)),
                Condition::Restarting,
                Some((
                    Event::RestartingPod,
                    format!(
                        "Deleted pod {} in order to recreate it from the current spec; its volume and node id are kept",
                        pod(node)
                    ),
                )),
            ),
            Self::AddNode(node) => step(
                format!("Adding node {node}"),
                Condition::Growing,
                Some((
                    Event::NodeAdded,
                    format!("Added node {node}; it becomes a voter when it has caught up"),
                )),
            ),
            Self::RemoveNode(node) => step(
                format!("Removing node {node}"),
                Condition::Shrinking,
                Some((Event::NodeRemoved, format!("Removed node {node} from the group"))),
            ),
            // An Event follows when the switchover is complete.
            Self::SwitchOver(node) => {
                step(format!("Switching over to {}", pod(node)), Condition::SwitchingOver, None)
            }
            Self::DeletePod(node) => step(
                format!("Deleting pod {}", pod(node)),
                Condition::Shrinking,
                Some((
                    Event::DeletingPod,
                    format!("Deleted pod {}, whose node is not a member", pod(node)),
                )),
            ),
            Self::DeleteVolume(node) => step(
                format!("Deleting volume {}", pod(node)),
                Condition::Shrinking,
                Some((
                    Event::DeletingVolume,
                    format!("Deleted volume {}, whose member has left", pod(node)),
                )),
            ),
            Self::RetireVolume(node) => step(
                format!("Retaining volume {}", pod(node)),
                Condition::Shrinking,
                Some((
                    Event::RetainingVolume,
                    format!("Retained volume {}, whose member has left", pod(node)),
                )),
            ),
            Self::GrowVolume(node) => step(
                format!("Growing volume {}", pod(node)),
                Condition::Updating,
                Some((
                    Event::GrowingVolume,
                    format!("Requested more space for volume {}", pod(node)),
                )),
            ),
            Self::Wait(why) => why.describe(cluster),
            Self::Steady => step("Ready".into(), Condition::AsExpected, None),
        }
    }
}

impl WaitReason {
    /// What is said about this wait of the cluster of this name.
    #[allow(clippy::too_many_lines, reason = "a table")]
    pub fn describe(&self, cluster: &str) -> StepDescription {
        use ConditionReason as Condition;
        let pod = |node: &NodeId| names::pod(cluster, *node);
        let (phase, reason, detail) = match self {
            Self::BootstrapNodeStarting(node, why) => {
                (format!("Waiting for pod {}", pod(node)), Condition::Bootstrapping, why.clone())
            }
            Self::NewcomerStarting(node, why) => {
                (format!("Waiting for pod {}", pod(node)), Condition::Growing, why.clone())
            }
            Self::NobodyAnswers => {
                ("Waiting for members to answer".into(), Condition::NoMemberAnswers, None)
            }
            Self::NoLeader => ("Waiting for a leader".into(), Condition::NoLeader, None),
            Self::NoQuorum => (
                "No quorum".into(),
                Condition::NoQuorum,
                Some("too few voters answer; until a majority is back, the membership cannot change, and with failover no member takes writes".into()),
            ),
            Self::DataLost => (
                "Data lost".into(),
                Condition::DataLost,
                Some("all pods and volumes of this cluster are gone; restore the volumes, or delete the PgRaftCluster and create it again".into()),
            ),
            Self::NoCertificate(node, why) => {
                (format!("No certificate for {}", pod(node)), Condition::CaUnusable, Some(why.clone()))
            }
            Self::LearnerCatchingUp(node) => {
                (format!("Waiting for node {node} to catch up"), Condition::Growing, None)
            }
            Self::Leaving(node) => (format!("Removing node {node}"), Condition::Shrinking, None),
            Self::Terminating(node) => {
                (format!("Waiting for {} to terminate", pod(node)), Condition::Shrinking, None)
            }
            Self::Restarting(node) => {
                (format!("Restarting pod {}", pod(node)), Condition::Restarting, None)
            }
            Self::Behind(node) => {
                (format!("Waiting for pod {} to catch up", pod(node)), Condition::Restarting, None)
            }
            Self::MemberNotReady(node, why) => {
                (format!("Pod {} is not ready", pod(node)), Condition::MemberNotReady, why.clone())
            }
            Self::MemberUnreachable(node) => {
                (format!("Node {node} is unreachable"), Condition::MemberUnreachable, None)
            }
            Self::NoPrimary(missing) => {
                let pods = list(missing.iter().map(pod));
                let detail = (!missing.is_empty()).then(|| {
                    format!("an answer from one of {pods} is required; until then no member takes writes")
                });
                ("Waiting for a primary".into(), Condition::NoPrimary, detail)
            }
            Self::SwitchingOver(node) => {
                (format!("Switching over to {}", pod(node)), Condition::SwitchingOver, None)
            }
            Self::NoSuccessor(node) => (
                format!("No member can take over from {}", pod(node)),
                Condition::NoSuccessor,
                Some("no other voter has a ready pod, is reachable and has nearly all of the WAL".into()),
            ),
            Self::InOtherCluster(node) => {
                (format!("Pod {} belongs to another cluster", pod(node)), Condition::ForeignCluster, None)
            }
            Self::Refused { change, message, .. } => {
                return StepDescription {
                    phase: format!("{change}: refused"),
                    message: format!("{change}: {message}"),
                    reason: Condition::ChangeRefused,
                    event: self.event().map(|event| (event, format!("{change}: {message}"))),
                };
            }
        };
        let message = detail.map_or_else(|| phase.clone(), |detail| format!("{phase}: {detail}"));
        StepDescription {
            event: self.event().map(|event| (event, message.clone())),
            phase,
            message,
            reason,
        }
    }

    /// The reason of the Event, if the wait is worth one.
    fn event(&self) -> Option<EventReason> {
        match self {
            // The condition SwitchoverDone has an Event of its own.
            Self::Refused { change: MembershipRequest::SwitchOver(_), .. } => None,
            Self::Refused { .. } if !self.is_ordinary() => Some(EventReason::ChangeRefused),
            Self::DataLost => Some(EventReason::DataLost),
            Self::InOtherCluster(_) => Some(EventReason::ForeignCluster),
            _ => None,
        }
    }
}

fn routes(cluster: &str, pods: &[(NodeId, bool)]) -> String {
    let changes = pods.iter().map(|(node, routed)| match (names::pod(cluster, *node), routed) {
        (pod, false) => {
            format!("removed {pod} from the Services because the leader does not reach it")
        }
        (pod, true) => format!("added {pod} to the Services"),
    });
    capitalized(&list(changes))
}

fn certificates(cluster: &str, work: &[Work]) -> (EventReason, String) {
    if work.contains(&Work::RenewCa) {
        let secret = SecretKind::Ca.name(cluster);
        let note = format!(
            "Created a new CA in Secret {secret}; it signs as soon as all members trust it"
        );
        return (EventReason::CaRenewed, note);
    }
    let changes = work.iter().map(|work| match work {
        Work::RenewCa => String::new(),
        Work::Issue(node) => format!("issued the certificate of {}", names::pod(cluster, *node)),
        Work::Trust(node) => format!("updated the trusted CAs of {}", names::pod(cluster, *node)),
        Work::Share(kind) => format!("updated ca.crt in Secret {}", kind.name(cluster)),
        Work::Remove(node) => format!("deleted the certificate of {}", names::pod(cluster, *node)),
    });
    (EventReason::CertificatesIssued, capitalized(&list(changes)))
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}
