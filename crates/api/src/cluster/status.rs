//! `status` of a PgRaftCluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pgraft_core::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The observed state of the cluster.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PgRaftClusterStatus {
    /// The generation of the spec that this status refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The number of pods, ready or not.
    #[serde(default)]
    pub replicas: i32,

    /// The number of voters whose pods are ready; beyond the seventh member, learners count too.
    #[serde(default)]
    pub ready_replicas: i32,

    /// The label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// The current activity, as text for people. Programs should use the conditions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,

    /// The identity of the cluster, set by `pgraft_init()`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// The pod of the Raft leader, or its address if it is not a pod of this operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// The pod of the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,

    /// The Raft term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,

    /// The members, as reported by the leader, or by another member if no leader answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub members: Vec<ClusterMemberStatus>,

    /// How many voters are required for a majority, and how many answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,

    /// The latest change of the primary, as reported by the members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<LastFailoverStatus>,

    /// The request in `spec.switchover` if it was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverStatus>,

    /// Ready, Available, Progressing, Degraded, QuorumHealthy, PodsUpToDate, Reconciled,
    /// CertificatesReady, ConfigurationValid, SwitchoverDone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One member of the Raft group.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMemberStatus {
    /// The node id. It is not reused after the member has left.
    pub id: i64,

    /// The pod, or the host of a member that is not a pod of this operator.
    pub name: String,

    /// The host of its Raft member.
    pub address: String,

    /// The port of its Raft member.
    pub port: i32,

    /// The role in the Raft group.
    #[schemars(with = "String", extend("enum" = ["learner", "voter", "leaving"]))]
    pub role: Role,

    /// Whether it is the Raft leader.
    pub leader: bool,

    /// Whether it is the primary.
    pub primary: bool,

    /// Whether the leader reaches it. Not set if no leader answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,

    /// Since when the leader has not reached it. Not set while the leader reaches it.
    /// `spec.failover.replaceAfter` counts from this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since: Option<Time>,

    /// The timeline of its WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,

    /// The end of its flushed WAL, such as `0/3000148`. Because it changes with every write, it is
    /// updated only together with another field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_lsn: Option<String>,

    /// How many bytes of WAL it lags behind the primary, rounded down to 0 below 1 MiB and to a power
    /// of two above. Updated at most every 10 seconds unless another field changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
}

/// A change of the primary.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastFailoverStatus {
    /// The pod of the previous primary.
    pub from: String,

    /// The pod of the new primary.
    pub to: String,

    /// Why the primary changed.
    pub reason: FailoverReason,

    /// When the change began.
    pub at: Time,

    /// The time until the new primary could confirm writes, in milliseconds.
    pub duration_ms: i64,

    /// The number of the new primary term. The first one is 1.
    pub epoch: i64,
}

/// Why the primary changed.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverReason {
    /// A majority of the voters received no heartbeat of the primary for `failover.leaseTimeout`.
    LeaseExpired,
    /// The primary's Postgres server terminated.
    Released,
    /// The primary handed over, on request or because its server was stopped.
    Switchover,
    /// `pgraft_force_primary` made the new primary, which can lose acknowledged writes.
    Forced,
}

/// A switchover request that was carried out.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverStatus {
    /// The requested pod, which became the primary.
    pub target: String,
}

/// How many voters are required for a majority, and how many answer.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// The number of voters.
    pub voters: i32,

    /// How many voters are required for a majority.
    pub required: i32,

    /// How many voters answer.
    pub available: i32,

    /// `available/required`, for the column QUORUM: `3/2` means that three voters answer and two are
    /// required.
    pub summary: String,
}
