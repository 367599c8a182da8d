//! What to do next, and what came of it.

use pgraft_core::{NodeId, SqlState};
use std::fmt;
use std::time::Duration;

use super::certificates::Work;
use super::plan::failures::StepFailureReason;
use super::validate::Invalid;
use pgraft_api::names::{ObjectKey, PodRole, SecretKind};

/// How often the leader of a cluster at rest is asked. A member that it does not reach is to be out
/// of the Services within two seconds of its word.
pub const IDLE_INTERVAL: Duration = Duration::from_millis(1500);

/// One step. Each is idempotent: the operator may die before, within or after any of them, and the
/// next pass goes on.
#[derive(Debug, Clone, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Step {
    /// Make Secrets that are missing, with random passwords.
    CreateSecrets(Vec<SecretKind>),
    /// Delete a Secret that is not wanted any more, and with it the access that it gave.
    DeleteSecret(SecretKind),
    /// Apply objects that are missing or not as rendered.
    ApplyObjects(Vec<ObjectKey>),
    /// Delete an object of an earlier rendering that has another name now.
    DeleteObject(ObjectKey),
    /// Issue and renew certificates, and write who is to be trusted.
    Certificates(Vec<Work>),
    /// Annotate pods with the hash of their configuration, so that the kubelet refreshes their
    /// files at once.
    RefreshPods(Vec<NodeId>),
    /// Set or drop owner references, so that the right things go with the PgRaftCluster.
    SetOwners(Vec<(OwnedObject, bool)>),
    /// Point the Services to the right pods.
    LabelPods(Vec<(NodeId, PodRole)>),
    /// Take the pods of members that the leader does not reach out of the Services (false), and put
    /// them back (true).
    RoutePods(Vec<(NodeId, bool)>),
    /// Make a volume.
    CreateVolume(NodeId),
    /// Make a pod on its volume.
    CreatePod {
        /// Its number.
        node: NodeId,
        /// Whether it makes the cluster.
        bootstrap: bool,
    },
    /// Delete a pod whose containers Kubernetes has ended for good, so that it can be made again on
    /// its volume.
    ClearPod(NodeId),
    /// Delete a member's pod that is not as the spec has it now, so that it is made again on its
    /// volume and under its id.
    RestartPod(NodeId),
    /// Call `pgraft_add_node` on the leader, once.
    AddNode(NodeId),
    /// Call `pgraft_remove_node` on the leader, once.
    RemoveNode(NodeId),
    /// Call `pgraft_switchover`, once.
    SwitchOver(NodeId),
    /// Delete the pod of a node that is no member.
    DeletePod(NodeId),
    /// Delete the volume of a node that is no member.
    DeleteVolume(NodeId),
    /// Mark the volume of a node that has left, so that it gets no pod again.
    RetireVolume(NodeId),
    /// Ask for a larger volume.
    GrowVolume(NodeId),
    /// Nothing to do until something else has happened.
    Wait(WaitReason),
    /// All is as it is wanted.
    Steady,
}

/// What can have an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnedObject {
    /// A pod: always owned.
    Pod(NodeId),
    /// A volume: owned when `whenDeleted` is `Delete`.
    Volume(NodeId),
    /// A Secret: as the volumes, since their data is no use without the passwords.
    Secret(SecretKind),
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// The bootstrap node's pod is not ready yet.
    BootstrapNodeStarting(NodeId, Option<String>),
    /// Pods are there, and none of them answers.
    NobodyAnswers,
    /// No leader is known.
    NoLeader,
    /// Too few voters answer.
    NoQuorum,
    /// Pods and volumes of a cluster that was there are all gone.
    DataLost,
    /// A pod is wanted, and there is no CA that could sign its certificate.
    NoCertificate(NodeId, String),
    /// A newcomer's pod is not ready yet.
    NewcomerStarting(NodeId, Option<String>),
    /// A newcomer receives what it has missed.
    LearnerCatchingUp(NodeId),
    /// A member is on its way out.
    Leaving(NodeId),
    /// A pod or volume is on its way out.
    Terminating(NodeId),
    /// A member's pod is on its way out, and is made again.
    Restarting(NodeId),
    /// A standby is too far behind for the next pod to be restarted.
    Behind(NodeId),
    /// A member's pod is not ready.
    MemberNotReady(NodeId, Option<String>),
    /// A pod is ready and the leader does not reach its Raft member.
    MemberUnreachable(NodeId),
    /// The members look for a primary; the word of these is missing.
    NoPrimary(Vec<NodeId>),
    /// Another primary was asked for.
    SwitchingOver(NodeId),
    /// The primary is to go, and nobody is fit to be the next one.
    NoSuccessor(NodeId),
    /// A pod is in another cluster than its label says.
    InOtherCluster(NodeId),
    /// The leader said no.
    Refused {
        /// What was asked.
        change: MembershipRequest,
        /// SQLSTATE, see `pgraft_core::refusal`.
        code: String,
        /// The leader's words.
        message: String,
    },
}

/// What is asked of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipRequest {
    /// `pgraft_add_node`.
    Add(NodeId),
    /// `pgraft_remove_node`.
    Remove(NodeId),
    /// `pgraft_switchover`.
    SwitchOver(NodeId),
}

impl fmt::Display for MembershipRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(node) => write!(f, "Adding node {node}"),
            Self::Remove(node) => write!(f, "Removing node {node}"),
            Self::SwitchOver(node) => write!(f, "Switching over to node {node}"),
        }
    }
}

/// What a pass came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutcome {
    /// The step was taken, or there was none to take.
    Took(Step),
    /// The spec makes no sense.
    Invalid(Invalid),
    /// Something that should have worked did not.
    Failed {
        /// What was tried.
        step: Step,
        /// Why.
        reason: StepFailureReason,
        /// The words for people.
        message: String,
    },
}

impl WaitReason {
    /// Whether what is waited for happens where no watch sees it.
    fn is_within_the_group(&self) -> bool {
        match self {
            Self::LearnerCatchingUp(_)
            | Self::Leaving(_)
            | Self::Behind(_)
            | Self::NoPrimary(_)
            | Self::SwitchingOver(_) => true,
            // It is not asked again at once.
            Self::Refused { change: MembershipRequest::SwitchOver(_), .. } => false,
            Self::Refused { .. } => self.is_ordinary(),
            _ => false,
        }
    }

    /// Whether nothing else need wait for it: what is waited for concerns a node that is no member
    /// yet, or the leader has refused it.
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::NewcomerStarting(..) | Self::NoCertificate(..) | Self::Refused { .. })
    }

    /// Whether this passes by itself in the ordinary course of things.
    pub fn is_ordinary(&self) -> bool {
        match self {
            Self::BootstrapNodeStarting(..)
            | Self::NewcomerStarting(..)
            | Self::LearnerCatchingUp(_)
            | Self::Leaving(_)
            | Self::Terminating(_)
            | Self::Restarting(_)
            | Self::Behind(_)
            | Self::SwitchingOver(_)
            // The primary that is there goes on.
            | Self::Refused { change: MembershipRequest::SwitchOver(_), .. } => true,
            Self::NoPrimary(missing) => missing.is_empty(),
            Self::NobodyAnswers
            | Self::NoLeader
            | Self::NoQuorum
            | Self::DataLost
            | Self::NoCertificate(..)
            | Self::MemberNotReady(..)
            | Self::MemberUnreachable(_)
            | Self::NoSuccessor(_)
            | Self::InOtherCluster(_) => false,
            // Not the leader any more; a change under way; a name that DNS does not know yet.
            Self::Refused { code, .. } => [
                SqlState::NOT_LEADER,
                SqlState::MEMBERSHIP_CHANGE_IN_PROGRESS,
                SqlState::INVALID_PARAMETER_VALUE,
            ]
            .iter()
            .any(|ordinary| code == ordinary.as_str()),
        }
    }
}

impl Step {
    /// When to look again if nothing is seen to happen before. Pods and volumes are watched; what
    /// happens inside the Raft group is not.
    pub fn interval(&self) -> Duration {
        match self {
            // Costs one question to the leader, and the API server nothing.
            Self::Steady => IDLE_INTERVAL,
            Self::Wait(why) if why.is_within_the_group() => Duration::from_millis(250),
            Self::Wait(_) => Duration::from_secs(1),
            _ => Duration::from_millis(50),
        }
    }
}

mod describe;
mod parts;

pub use describe::StepDescription;
