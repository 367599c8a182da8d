//! `PgRaftCluster`: one Postgres cluster.

use k8s_openapi::api::core::v1::{
    Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::gateway::GatewaySpec;
use super::metadata::{InheritedMetadata, LabelValue, key_rules};
use super::parts::{
    BootstrapSpec, FailoverSpec, LocalObjectReference, PostgresqlSpec, PullPolicy, RaftSpec,
    ServicesSpec, StorageSpec, SwitchoverSpec, VolumeRetention,
};
use super::standby::StandbySpec;
use super::status::PgRaftClusterStatus;
use super::tls::TlsSpec;

/// An optional registry, a path, an optional tag and an optional digest.
const IMAGE: &str = "^([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,128})?$";

/// The spec of a PgRaftCluster.
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
    doc = "A Postgres cluster whose members agree by Raft on the membership and on the primary.",
    // The chart has the CRD as a template, so that an upgrade updates it. Uninstalling the operator
    // must not delete the clusters.
    annotation("helm.sh/resource-policy", "keep"),
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas", description = "Desired number of members"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Members whose pods are ready"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase", description = "The current activity"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The Raft leader's pod"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary", description = "The primary's pod"),
    printcolumn(name = "Quorum", type_ = "string", json_path = ".status.quorum.summary", description = "Reachable voters / required voters"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 50").message("metadata.name must be at most 50 characters long: pods are named <name>-<node id>"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must consist of lower-case letters, digits and hyphens and start with a letter: Services are named after it"),
    validation = Rule::new("!has(self.spec.tls.caSecret) || self.spec.tls.caSecret != self.metadata.name + '-ca'")
        .message("tls.caSecret must not be <name>-ca: the operator's own CA has that name"),
    validation = Rule::new("!has(self.spec.switchover) || self.spec.failover.enabled")
        .message("switchover requires failover.enabled: without failover the bootstrap node stays the primary"),
    validation = Rule::new("!has(self.spec.switchover) || self.spec.switchover.target.startsWith(self.metadata.name + '-')")
        .message("switchover.target must be a pod of this cluster: <name>-<node id>")
)]
#[serde(rename_all = "camelCase")]
pub struct PgRaftClusterSpec {
    /// The number of members. Members beyond the seventh do not vote. `kubectl scale` sets this.
    #[serde(default = "default_replicas")]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas must be at least 1: to stop a cluster, delete it; by default its volumes are retained"))]
    #[x_kube(validation = Rule::new("self <= 64").message("replicas must be at most 64"))]
    pub replicas: i32,

    /// The image of the members. Defaults to the operator's. A change restarts the pods, one at a
    /// time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(format!("self.matches('{IMAGE}')")).message("image must be a reference such as registry.example/pgraft/postgres:1.0"))]
    pub image: Option<String>,

    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,

    /// Secrets with credentials for the registry of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Postgres settings.
    #[serde(default)]
    pub postgresql: PostgresqlSpec,

    /// The volume of each member.
    pub storage: StorageSpec,

    /// The resources of the Postgres container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.limits) || !has(self.requests) || self.requests.all(name, !(name in self.limits) || !isQuantity(self.requests[name]) || !isQuantity(self.limits[name]) || quantity(self.requests[name]).compareTo(quantity(self.limits[name])) <= 0)")
        .message("resources.requests must not exceed resources.limits"))]
    pub resources: Option<ResourceRequirements>,

    /// Where pods may run. Without a podAntiAffinity, members run on different hosts if possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,

    /// Labels that a host must have to run a member.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = key_rules("nodeSelector")))]
    pub node_selector: BTreeMap<String, LabelValue>,

    /// How members are distributed over zones or hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// How the cluster is created. Used only once.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("bootstrap cannot be changed: it is used only when the cluster is created"))]
    pub bootstrap: BootstrapSpec,

    /// Whether the role `postgres` has a password, in the Secret `<name>-superuser`. Setting it to
    /// false deletes the Secret and removes the password.
    #[serde(default)]
    pub enable_superuser_access: bool,

    /// When volumes are deleted.
    #[serde(default)]
    pub persistent_volume_claim_retention_policy: VolumeRetention,

    /// Raft's timing.
    #[serde(default)]
    pub raft: RaftSpec,

    /// Failover.
    #[serde(default)]
    pub failover: FailoverSpec,

    /// When a standby lags too far behind to serve reads.
    #[serde(default)]
    pub standby: StandbySpec,

    /// Requests another primary, once. The condition SwitchoverDone reports the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverSpec>,

    /// Where the Services route connections.
    #[serde(default)]
    pub services: ServicesSpec,

    /// The gateway of each member, to which `<name>-rw` leads.
    #[serde(default)]
    pub gateway: GatewaySpec,

    /// TLS.
    #[serde(default)]
    pub tls: TlsSpec,

    /// Labels and annotations for all objects of this cluster.
    #[serde(default, skip_serializing_if = "InheritedMetadata::is_empty")]
    pub inherited_metadata: InheritedMetadata,
}

const fn default_replicas() -> i32 {
    3
}
