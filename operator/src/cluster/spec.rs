//! What is wanted, parsed: nothing is optional here that need not be. Made by `validate` only.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use pgraft_core::NodeId;
use pgraft_core::instance_config::StandbyConfig;
use std::collections::BTreeMap;

use pgraft_api::cluster::{PullPolicy, ReadWrite, VolumeRetention};

/// One cluster, as it is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSpec {
    /// Its name: a DNS label of at most 50 characters.
    pub name: String,
    /// Where it lives.
    pub namespace: String,
    /// The identity of the PgRaftCluster, for owner references.
    pub uid: String,
    /// Members; 1 or more.
    pub replicas: usize,
    /// What the pods run.
    pub image: Image,
    /// Postgres settings.
    pub parameters: BTreeMap<String, String>,
    /// Whether a setting that takes effect after a restart causes one.
    pub restart_on_change: bool,
    /// Lines of `pg_hba.conf`.
    pub pg_hba: Vec<String>,
    /// The volume of each member.
    pub storage: Storage,
    /// Where and how pods run.
    pub scheduling: Scheduling,
    /// The first database.
    pub database: String,
    /// Its owner.
    pub owner: String,
    /// Whether the role `postgres` gets a password.
    pub superuser: bool,
    /// What becomes of volumes.
    pub retention: VolumeRetention,
    /// How the Service `-rw` leads to the primary.
    pub read_write: ReadWrite,
    /// How many clients one member's gateway serves at a time; at least 1.
    pub gateway_max_connections: usize,
    /// None where TLS is disabled.
    pub tls: Option<ClusterTls>,
    /// `pgraft.lease_timeout`, where the members choose the primary.
    pub lease_timeout: Option<String>,
    /// `raft.unresponsiveTimeout` of the instance managers.
    pub unresponsive_after: Option<String>,
    /// After how long a member that is away is replaced.
    pub replace_after: Option<SignedDuration>,
    /// When a standby is too far behind to be read from.
    pub standby: StandbyConfig,
    /// Who was asked for as the primary.
    pub switchover: Option<NodeId>,
    /// `pgraft.heartbeat_interval`.
    pub heartbeat_interval: String,
    /// `pgraft.election_timeout`.
    pub election_timeout: String,
    /// What somebody wrote who wants all pods restarted.
    pub restarted_at: Option<String>,
    /// The spec that this was parsed from, in JSON.
    pub accepted: String,
    /// For everything that is made.
    pub inherited_labels: BTreeMap<String, String>,
    /// For everything that is made.
    pub inherited_annotations: BTreeMap<String, String>,
}

/// Who signs the members' certificates, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTls {
    /// The user's own Secret; None is the operator's.
    pub ca_secret: Option<String>,
    /// Of a member's certificate.
    pub lifetime: SignedDuration,
}

/// What the pods run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// When it is pulled.
    pub pull_policy: PullPolicy,
    /// Secrets for its registry.
    pub pull_secrets: Vec<String>,
}

/// The volume of each member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// As the user wrote it.
    pub size: String,
    /// The same in bytes.
    pub bytes: u128,
    /// None is the Kubernetes cluster's default.
    pub class: Option<String>,
}

/// Where and how pods run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scheduling {
    /// CPU and memory.
    pub resources: ResourceRequirements,
    /// The user's; pod anti-affinity is added when it has none.
    pub affinity: Affinity,
    /// Taints to tolerate.
    pub tolerations: Vec<Toleration>,
    /// Labels that a host must have.
    pub node_selector: BTreeMap<String, String>,
    /// Spreading over zones or hosts.
    pub topology_spread: Vec<TopologySpreadConstraint>,
}
