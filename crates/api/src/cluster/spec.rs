//! `PgRaftCluster`: one Postgres cluster that keeps itself available.

use k8s_openapi::api::core::v1::{
    Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::metadata::{InheritedMetadata, LabelValue, key_rules};
use super::parts::{
    BootstrapSpec, FailoverSpec, LocalObjectReference, PostgresqlSpec, PullPolicy, RaftSpec,
    ServicesSpec, StorageSpec, SwitchoverSpec, VolumeRetention,
};
use super::standby::StandbySpec;
use super::status::PgRaftClusterStatus;
use super::tls::TlsSpec;

/// A registry where there is one, a path, a tag, a digest.
const IMAGE: &str = "^([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,128})?$";

/// What a user wants.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "pgraft.io",
    version = "v1alpha1",
    kind = "PgRaftCluster",
    plural = "pgraftclusters",
    shortname = "pgr",
    category = "all",
    namespaced,
    status = "PgRaftClusterStatus",
    derive = "PartialEq",
    doc = "A Postgres cluster whose members agree by Raft on who they are, and who takes writes.",
    // The chart ships the CRD as a template, so that an upgrade brings the new one; uninstalling
    // the operator must not take the clusters along.
    annotation("helm.sh/resource-policy", "keep"),
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas", description = "How many members are wanted"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Members whose pod is ready"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase", description = "What is going on"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The Raft leader's pod"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary", description = "The pod that takes writes"),
    printcolumn(name = "Quorum", type_ = "string", json_path = ".status.quorum.summary", description = "Voters that answer / voters that must agree"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 50").message("metadata.name must be at most 50 characters long: a member's pod is called <name>-<node id>"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be made of lower-case letters, digits and hyphens and begin with a letter: Services are named after it"),
    validation = Rule::new("!has(self.spec.tls.caSecret) || self.spec.tls.caSecret != self.metadata.name + '-ca'")
        .message("tls.caSecret must not be <name>-ca: the operator's own CA is called so"),
    validation = Rule::new("!has(self.spec.switchover) || self.spec.failover.enabled")
        .message("switchover needs failover.enabled: without it the bootstrap node stays the primary"),
    validation = Rule::new("!has(self.spec.switchover) || self.spec.switchover.target.startsWith(self.metadata.name + '-')")
        .message("switchover.target must be a pod of this cluster: <name>-<node id>")
)]
#[serde(rename_all = "camelCase")]
pub struct PgRaftClusterSpec {
    /// How many members the cluster has. Members beyond the seventh follow without a vote. `kubectl
    /// scale` sets this.
    #[serde(default = "default_replicas")]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas must be at least 1: to stop a cluster, delete it; its volumes stay unless you asked otherwise"))]
    #[x_kube(validation = Rule::new("self <= 64").message("replicas must be at most 64"))]
    pub replicas: i32,

    /// The image that members run; the operator's default when it is not set. A pod takes a new
    /// image when it is next made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(format!("self.matches('{IMAGE}')")).message("image must be a reference such as registry.example/pgraft/postgres:1.0"))]
    pub image: Option<String>,

    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,

    /// Secrets with the credentials for the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Postgres settings.
    #[serde(default)]
    pub postgresql: PostgresqlSpec,

    /// The volume of each member.
    pub storage: StorageSpec,

    /// What the Postgres container asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.limits) || !has(self.requests) || self.requests.all(name, !(name in self.limits) || !isQuantity(self.requests[name]) || !isQuantity(self.limits[name]) || quantity(self.requests[name]).compareTo(quantity(self.limits[name])) <= 0)")
        .message("resources.requests must not be more than resources.limits"))]
    pub resources: Option<ResourceRequirements>,

    /// Where pods may run. Without a podAntiAffinity of your own, members are kept on different
    /// hosts where that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,

    /// Labels that a host must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = key_rules("nodeSelector")))]
    pub node_selector: BTreeMap<String, LabelValue>,

    /// How members are spread over zones or hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// How the first database comes to be. Read once, when the cluster is made.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("bootstrap is read once, when the cluster is made, and can't be changed afterwards"))]
    pub bootstrap: BootstrapSpec,

    /// Whether the role `postgres` gets a password, in the Secret `<name>-superuser`. Taken back,
    /// the Secret goes and the password with it.
    #[serde(default)]
    pub enable_superuser_access: bool,

    /// What becomes of a member's volume.
    #[serde(default)]
    pub persistent_volume_claim_retention_policy: VolumeRetention,

    /// Raft's timing.
    #[serde(default)]
    pub raft: RaftSpec,

    /// Failover.
    #[serde(default)]
    pub failover: FailoverSpec,

    /// When a standby is too far behind to be read from.
    #[serde(default)]
    pub standby: StandbySpec,

    /// Who is to be the primary now. Asked of the members once; the condition SwitchoverDone says
    /// what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverSpec>,

    /// Where the Services lead.
    #[serde(default)]
    pub services: ServicesSpec,

    /// TLS.
    #[serde(default)]
    pub tls: TlsSpec,

    /// Labels and annotations for everything that the operator makes for this cluster.
    #[serde(default, skip_serializing_if = "InheritedMetadata::is_empty")]
    pub inherited_metadata: InheritedMetadata,
}

const fn default_replicas() -> i32 {
    3
}
