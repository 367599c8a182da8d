//! The reasons of the Events about a PgRaftCluster.

/// The reason of an Event. The set is closed, because people filter by these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter, strum::EnumMessage)]
pub enum EventReason {
    /// Secrets were created.
    SecretsCreated,
    /// Keys were added to Secrets that an earlier version created.
    SecretsCompleted,
    /// A Secret was deleted because the spec no longer grants the access that it gave.
    SecretDeleted,
    /// Certificates were issued, renewed or deleted, or trusted CAs were updated.
    CertificatesIssued,
    /// The operator replaced its own CA.
    CaRenewed,
    /// The CA is missing, invalid or expired.
    CaUnusable,
    /// Services, ConfigMaps or the PodDisruptionBudget were updated.
    ObjectsApplied,
    /// Services select other pods.
    ServicesSwitched,
    /// A pod was removed from the Services because the leader does not reach its member, or was
    /// added again.
    RoutesChanged,
    /// A volume was created.
    CreatingVolume,
    /// A pod was created.
    CreatingPod,
    /// A terminated pod was deleted in order to be recreated.
    ClearingPod,
    /// A member's pod was deleted in order to be recreated from the current spec.
    RestartingPod,
    /// The leader added a node.
    NodeAdded,
    /// A member became a voter.
    NodeVotes,
    /// The group removed a new node that did not join in time.
    NodeGivenUp,
    /// The leader removed a node.
    NodeRemoved,
    /// The pod of a node that is not a member was deleted.
    DeletingPod,
    /// The volume of a node that is not a member was deleted.
    DeletingVolume,
    /// The volume of a node that is not a member was kept.
    RetainingVolume,
    /// A larger volume was requested.
    GrowingVolume,
    /// All members are ready.
    ClusterReady,
    /// Another member became the leader.
    LeaderChanged,
    /// The primary was lost, and the members chose another one.
    FailedOver,
    /// The primary handed over, because a user or the operator requested it or its server was
    /// stopped.
    SwitchedOver,
    /// Too few voters answer.
    QuorumLost,
    /// Enough voters answer again.
    QuorumRegained,
    /// The leader refused a change.
    ChangeRefused,
    /// All volumes and pods are gone.
    DataLost,
    /// A pod belongs to another cluster.
    ForeignCluster,
    /// Postgres rejects the configuration, or fails repeatedly.
    ConfigurationInvalid,
    /// Postgres accepts the configuration again.
    ConfigurationValid,
    /// The spec is invalid.
    InvalidSpec,
    /// An operation failed.
    OperationFailed,
}

impl EventReason {
    /// Whether the Event is a warning.
    pub fn is_warning(self) -> bool {
        match self {
            Self::QuorumLost
            | Self::NodeGivenUp
            | Self::FailedOver
            | Self::CaUnusable
            | Self::ChangeRefused
            | Self::DataLost
            | Self::ForeignCluster
            | Self::ConfigurationInvalid
            | Self::InvalidSpec
            | Self::OperationFailed => true,
            Self::SecretsCreated
            | Self::SecretsCompleted
            | Self::SecretDeleted
            | Self::CertificatesIssued
            | Self::CaRenewed
            | Self::ObjectsApplied
            | Self::ServicesSwitched
            | Self::RoutesChanged
            | Self::CreatingVolume
            | Self::CreatingPod
            | Self::ClearingPod
            | Self::RestartingPod
            | Self::NodeAdded
            | Self::NodeVotes
            | Self::NodeRemoved
            | Self::DeletingPod
            | Self::DeletingVolume
            | Self::RetainingVolume
            | Self::GrowingVolume
            | Self::ClusterReady
            | Self::LeaderChanged
            | Self::SwitchedOver
            | Self::ConfigurationValid
            | Self::QuorumRegained => false,
        }
    }
}
