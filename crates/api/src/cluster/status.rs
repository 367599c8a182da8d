//! What the operator has seen.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pgraft_core::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was seen in the last pass; never what was meant.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PgRaftClusterStatus {
    /// The generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods, ready or not.
    #[serde(default)]
    pub replicas: i32,

    /// Voters (and, beyond the seventh member, followers without a vote) whose pod is ready.
    #[serde(default)]
    pub ready_replicas: i32,

    /// The label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// What is going on, in a few words, for people. Programs read the conditions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,

    /// The cluster's identity, from the first `pgraft_init()` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// The pod of the Raft leader; for a member outside of this operator's pods, its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// The pod that takes writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,

    /// Raft's term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,

    /// The members, as the leader sees them, or as any member that answers does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub members: Vec<ClusterMemberStatus>,

    /// How many must agree, and how many can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,

    /// The latest change of the primary, as the members tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<LastFailoverStatus>,

    /// The request in `spec.switchover` that was carried out; not set while it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverStatus>,

    /// Ready, Available, Progressing, Degraded, QuorumHealthy, PodsUpToDate, CertificatesReady,
    /// ConfigurationValid, SwitchoverDone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One member of the Raft group.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMemberStatus {
    /// Its node id; never used again after it has left.
    pub id: i64,

    /// Its pod, or its host when it is none of this operator's.
    pub name: String,

    /// Where its Raft member listens.
    pub address: String,

    /// The port of that.
    pub port: i32,

    /// The role in the Raft group.
    #[schemars(with = "String", extend("enum" = ["learner", "voter", "leaving"]))]
    pub role: Role,

    /// Whether it is the Raft leader.
    pub leader: bool,

    /// Whether it takes writes.
    pub primary: bool,

    /// Whether the leader heard of it lately. Not set when no leader was there to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,

    /// Since when the leader has not reached it; not set while it does.
    /// `spec.failover.replaceAfter` counts from here, whichever operator looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since: Option<Time>,

    /// The timeline that its WAL is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,

    /// How far its WAL is on disk, as Postgres writes it (`0/3000148`). It moves with every write,
    /// so it is brought up to date only when something else in the status has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_lsn: Option<String>,

    /// Bytes of WAL that the primary has and it has not replayed, in steps: 0 is less than 1 MiB,
    /// and from there on each step is twice the last one. Written every 10 seconds at most, when
    /// nothing else has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
}

/// A change of the primary.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastFailoverStatus {
    /// The pod that was the primary.
    pub from: String,

    /// The pod that is, or was until the next change.
    pub to: String,

    /// Why.
    pub reason: FailoverReason,

    /// When the members began with it.
    pub at: Time,

    /// Milliseconds from there until the new primary had its standbys behind it.
    pub duration_ms: i64,

    /// Counts the primaries: the bootstrap node's epoch is 1.
    pub epoch: i64,
}

/// Why the primary is another one.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverReason {
    /// A majority of the voters heard nothing of the primary for `failover.leaseTimeout`.
    LeaseExpired,
    /// The primary's Postgres had ended.
    Released,
    /// The primary handed over: somebody asked for it, or its server was told to stop.
    Switchover,
    /// Somebody named it, and accepted that acknowledged writes may be lost.
    Forced,
}

/// A request that was carried out.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverStatus {
    /// The pod that was asked for, and became the primary.
    pub target: String,
}

/// How many voters must agree, and how many can.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Members that vote.
    pub voters: i32,

    /// How many of them must agree to anything.
    pub required: i32,

    /// How many of them answer.
    pub available: i32,

    /// `available/required`, for the column QUORUM: `3/2` is three that answer where two are
    /// needed.
    pub summary: String,
}
