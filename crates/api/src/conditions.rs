//! The conditions in the status of a PgRaftCluster.

/// The type of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub enum ConditionType {
    /// Every member is ready and the primary takes writes.
    Ready,
    /// The primary takes writes.
    Available,
    /// The operator is changing something, or waits for a change to finish.
    Progressing,
    /// Something is wrong; the message names it.
    Degraded,
    /// A majority of the voters answers.
    QuorumHealthy,
    /// Every pod matches the spec.
    PodsUpToDate,
    /// No step of the operator fails.
    Reconciled,
    /// Every member has a certificate, and a CA can sign the next ones. Absent without TLS.
    CertificatesReady,
    /// Postgres accepts the configuration.
    ConfigurationValid,
    /// The switchover in the spec was carried out. Absent unless the spec has one.
    SwitchoverDone,
}

impl ConditionType {
    /// The value of `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Available => "Available",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::QuorumHealthy => "QuorumHealthy",
            Self::PodsUpToDate => "PodsUpToDate",
            Self::Reconciled => "Reconciled",
            Self::CertificatesReady => "CertificatesReady",
            Self::ConfigurationValid => "ConfigurationValid",
            Self::SwitchoverDone => "SwitchoverDone",
        }
    }
}

/// The reason of a condition. The set is closed, because alerts match these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter, strum::EnumMessage)]
pub enum ConditionReason {
    /// The cluster matches the spec.
    AsExpected,
    /// The cluster is being created.
    Bootstrapping,
    /// A member is joining.
    Growing,
    /// A member is leaving.
    Shrinking,
    /// Objects are being updated.
    Updating,
    /// Pods are being restarted.
    Restarting,
    /// The pod of a member is not ready.
    MemberNotReady,
    /// The leader does not reach the Raft member of a ready pod.
    MemberUnreachable,
    /// The primary takes writes.
    PrimaryServes,
    /// No primary is known.
    NoPrimary,
    /// The primary's pod is not ready.
    PrimaryNotReady,
    /// The primary's pod is ready, but answers neither the leader nor the operator.
    PrimaryUnreachable,
    /// No leader is known.
    NoLeader,
    /// Enough voters answer.
    QuorumReached,
    /// Too few voters answer.
    NoQuorum,
    /// No member answered.
    NoMemberAnswers,
    /// A switchover was requested.
    SwitchingOver,
    /// The primary must leave, and no other member can take over.
    NoSuccessor,
    /// The leader refused a change.
    ChangeRefused,
    /// All volumes and pods are gone.
    DataLost,
    /// A pod belongs to another cluster.
    ForeignCluster,
    /// All members have certificates, and a CA can sign the next ones.
    CertificatesValid,
    /// The CA is missing, invalid or expired, so no certificate can be issued.
    CaUnusable,
    /// A member has no certificate yet, or its certificate has expired.
    CertificateMissing,
    /// Postgres accepts the configuration.
    ConfigurationAccepted,
    /// Postgres rejects a setting or a line of `pg_hba`; the last valid configuration stays in
    /// force.
    ConfigurationRejected,
    /// A member's Postgres fails repeatedly, for a reason other than its configuration.
    ServerFails,
    /// The spec is invalid.
    InvalidSpec,
    /// An object of another owner has a name that the cluster needs.
    ForeignObject,
    /// The spec asks for volumes smaller than the existing ones.
    VolumesLarger,
    /// An operation failed.
    OperationFailed,
}

impl ConditionReason {
    /// The value of `reason`.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator;

    #[test]
    fn a_condition_is_called_as_its_variant() {
        for type_ in ConditionType::iter() {
            assert_eq!(type_.as_str(), format!("{type_:?}"));
        }
    }
}
