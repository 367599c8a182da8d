//! Names, labels, annotations and ports of the objects of a cluster.

use pgraft_core::NodeId;
use pgraft_core::instance_config::certificate_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The cluster of an object. The operator watches only objects with this label.
pub const LABEL_CLUSTER: &str = "pgraft.io/cluster";
/// The program that created an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The node id of a member, on its pod and its volume.
pub const LABEL_NODE: &str = "pgraft.io/node-id";
/// [`PodRole`], on pods.
pub const LABEL_ROLE: &str = "pgraft.io/role";
/// `true` on a pod that the Services may select; `false` while the leader does not reach its
/// member.
pub const LABEL_SERVING: &str = "pgraft.io/serving";
/// `true` on a volume whose member has left. It is never used again.
pub const LABEL_RETIRED: &str = "pgraft.io/retired";

/// On a pod: what it was made from, as the operator writes it.
pub const ANNOTATION_TEMPLATE: &str = "pgraft.io/pod-template";
/// On a pod: the configuration that its ConfigMap has, as a hash. A change of it makes the kubelet
/// refresh the pod's files at once.
pub const ANNOTATION_CONFIGURATION: &str = "pgraft.io/configuration";
/// `true` on a pod that was created while the ConfigMap `-instance` could not be applied.
pub const ANNOTATION_OUTDATED: &str = "pgraft.io/outdated-configuration";
/// On a PgRaftCluster: a new value restarts all its pods, one at a time.
pub const ANNOTATION_RESTARTED_AT: &str = "pgraft.io/restarted-at";
/// On a member's certificate Secret: when its `ca.crt` last changed.
pub const ANNOTATION_TRUSTED_SINCE: &str = "pgraft.io/trusted-since";

/// The operator's field manager.
pub const FIELD_MANAGER: &str = "pgraft-operator";

/// Postgres' port in every pod and Service.
pub const POSTGRES_PORT: u16 = 5432;
/// Raft's port in every pod.
pub const RAFT_PORT: u16 = 7001;
/// The instance manager's port in every pod.
pub const HTTP_PORT: u16 = 8008;
/// The read-write gateway's port in every pod.
pub const GATEWAY_PORT: u16 = 6432;

/// The role of a pod, for Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodRole {
    /// The primary.
    Primary,
    /// A standby.
    Replica,
}

impl PodRole {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }

    /// The role of a label's value.
    pub fn parse(value: &str) -> Option<Self> {
        [Self::Primary, Self::Replica].into_iter().find(|role| role.as_str() == value)
    }
}

/// The kinds of objects that the operator applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The configuration of the instance managers, and the last valid spec.
    ConfigMap,
    /// `-rw -ro -r -pods`.
    Service,
    /// Protects the quorum during drains.
    PodDisruptionBudget,
}

/// An object of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// The Secrets of a cluster, created once with random passwords or a key. Only the CA is replaced,
/// before it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    /// Passwords for pgraft's own use.
    Internal,
    /// The login of an application.
    App,
    /// The login of the role `postgres`, if the spec enables it.
    Superuser,
    /// The operator's own CA, unless the spec names another one.
    Ca,
}

impl SecretKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Internal, Self::App, Self::Superuser, Self::Ca];

    /// The Secret's name.
    pub fn name(self, cluster: &str) -> String {
        match self {
            Self::Internal => format!("{cluster}-internal"),
            Self::App => format!("{cluster}-app"),
            Self::Superuser => format!("{cluster}-superuser"),
            Self::Ca => format!("{cluster}-ca"),
        }
    }
}

/// The name of a member's pod and of its volume.
pub fn pod(cluster: &str, node: NodeId) -> String {
    format!("{cluster}-{node}")
}

/// The member whose pod has this name.
pub fn node_of_pod(cluster: &str, pod: &str) -> Option<NodeId> {
    let id = pod.strip_prefix(cluster)?.strip_prefix('-')?;
    NodeId::new(id.parse().ok()?).ok().filter(|node| self::pod(cluster, *node) == pod)
}

/// The Secret with a member's certificate.
pub fn certificate(cluster: &str, node: NodeId) -> String {
    format!("{cluster}-{node}-tls")
}

/// The node whose certificate a Secret of this name holds.
pub fn certificate_of(cluster: &str, secret: &str) -> Option<NodeId> {
    let id = secret.strip_prefix(cluster)?.strip_prefix('-')?.strip_suffix("-tls")?;
    NodeId::new(id.parse().ok()?).ok()
}

/// All names of a member in its certificate, from inside and outside of the namespace.
pub fn certificate_names(cluster: &str, namespace: &str, node: NodeId) -> BTreeSet<String> {
    let pod = format!("{}.{}", pod(cluster, node), pods_service(cluster));
    let hosts =
        [pod, rw_service(cluster), ro_service(cluster), r_service(cluster), pods_service(cluster)];
    let names = hosts.into_iter().flat_map(|host| {
        ["", ".{}", ".{}.svc", ".{}.svc.cluster.local"]
            .map(|more| format!("{host}{}", more.replace("{}", namespace)))
    });
    names
        .chain([
            certificate_name(node),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ])
        .collect()
}

/// The headless Service that gives each pod its host name.
pub fn pods_service(cluster: &str) -> String {
    format!("{cluster}-pods")
}

/// The Service for the primary.
pub fn rw_service(cluster: &str) -> String {
    format!("{cluster}-rw")
}

/// The Service for the standbys.
pub fn ro_service(cluster: &str) -> String {
    format!("{cluster}-ro")
}

/// The Service for any member.
pub fn r_service(cluster: &str) -> String {
    format!("{cluster}-r")
}

/// The ConfigMap with `instance.yaml`.
pub fn instance_config(cluster: &str) -> String {
    format!("{cluster}-instance")
}

/// The ConfigMap with `instance.yaml`, as a key.
pub fn instance_config_key(cluster: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::ConfigMap, name: instance_config(cluster) }
}

/// The ConfigMap with the last valid spec.
pub fn accepted_spec(cluster: &str) -> String {
    format!("{cluster}-spec")
}

/// The PodDisruptionBudget.
pub fn budget(cluster: &str) -> String {
    format!("{cluster}-quorum")
}

/// Objects that earlier versions created under other names.
pub fn former_objects(cluster: &str) -> [ObjectKey; 1] {
    [ObjectKey { kind: ObjectKind::PodDisruptionBudget, name: cluster.to_owned() }]
}

/// The host name of a member in the group. It never changes.
pub fn host(cluster: &str, namespace: &str, node: NodeId) -> String {
    format!("{}.{}.{namespace}.svc", pod(cluster, node), pods_service(cluster))
}

/// The selector that finds all pods of a cluster, for the scale subresource and for lists.
pub fn selector(cluster: &str) -> String {
    format!("{LABEL_CLUSTER}={cluster}")
}

/// The labels of every object of a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "postgresql"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/component", "database"),
        (LABEL_MANAGED_BY, FIELD_MANAGER),
        (LABEL_CLUSTER, cluster),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

/// The labels of an object of one member.
pub fn node_labels(cluster: &str, node: NodeId) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.insert(LABEL_NODE.to_owned(), node.to_string());
    labels
}
