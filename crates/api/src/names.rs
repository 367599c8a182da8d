//! What things are called, and the labels that find them again. Said once; everybody else asks
//! here.

use pgraft_core::NodeId;
use pgraft_core::instance_config::certificate_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Which cluster an object belongs to. The operator watches nothing that does not carry it.
pub const LABEL_CLUSTER: &str = "pgraft.io/cluster";
/// Who made an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// A member's number, on its pod and its volume.
pub const LABEL_NODE: &str = "pgraft.io/node-id";
/// [`PodRole`], on pods.
pub const LABEL_ROLE: &str = "pgraft.io/role";
/// `true` on a pod that the Services may lead clients to; `false` while the leader does not reach
/// its member.
pub const LABEL_SERVING: &str = "pgraft.io/serving";
/// `true` on a volume whose member has left: it gets no pod again.
pub const LABEL_RETIRED: &str = "pgraft.io/retired";

/// On a pod: what it was made from, as the operator writes it.
pub const ANNOTATION_TEMPLATE: &str = "pgraft.io/pod-template";
/// On a pod: the configuration that its ConfigMap has, as a hash. A change of it makes the kubelet
/// refresh the pod's files at once.
pub const ANNOTATION_CONFIGURATION: &str = "pgraft.io/configuration";
/// `true` on a pod that was made while the ConfigMap `-instance` could not be applied.
pub const ANNOTATION_OUTDATED: &str = "pgraft.io/outdated-configuration";
/// On a PgRaftCluster: another value than before, and all its pods are restarted, one after the
/// other.
pub const ANNOTATION_RESTARTED_AT: &str = "pgraft.io/restarted-at";
/// On a member's certificate Secret: since when its `ca.crt` reads as it does.
pub const ANNOTATION_TRUSTED_SINCE: &str = "pgraft.io/trusted-since";

/// The one field manager.
pub const FIELD_MANAGER: &str = "pgraft-operator";

/// Postgres' port in every pod and Service.
pub const POSTGRES_PORT: u16 = 5432;
/// Raft's port in every pod.
pub const RAFT_PORT: u16 = 7001;
/// The instance manager's port in every pod.
pub const HTTP_PORT: u16 = 8008;
/// The read-write gateway's port in every pod.
pub const GATEWAY_PORT: u16 = 6432;

/// What a pod is to those who look for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodRole {
    /// Takes writes.
    Primary,
    /// Follows.
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

/// The kinds of object that the operator applies and keeps as rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The instance manager's configuration.
    ConfigMap,
    /// `-rw -ro -r -pods`.
    Service,
    /// Keeps the quorum through drains.
    PodDisruptionBudget,
}

/// One object among those of a cluster.
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

/// The Secrets of a cluster: made once, with random passwords or a key. The CA alone is written
/// anew, when it grows old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    /// Passwords that only pgraft uses.
    Internal,
    /// What an application needs to connect.
    App,
    /// The password of the role `postgres`, when it was asked for.
    Superuser,
    /// The CA that signs the members' certificates, where the user has none.
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

/// The pod of a member, and its volume.
pub fn pod(cluster: &str, node: NodeId) -> String {
    format!("{cluster}-{node}")
}

/// The member whose pod is called so.
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

/// All names that a member is called by, from within the namespace and from others.
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

/// The Service that leads to the primary.
pub fn rw_service(cluster: &str) -> String {
    format!("{cluster}-rw")
}

/// The Service that leads to the followers.
pub fn ro_service(cluster: &str) -> String {
    format!("{cluster}-ro")
}

/// The Service that leads to any member.
pub fn r_service(cluster: &str) -> String {
    format!("{cluster}-r")
}

/// The ConfigMap with `instance.yaml`.
pub fn instance_config(cluster: &str) -> String {
    format!("{cluster}-instance")
}

/// The same, as a key.
pub fn instance_config_key(cluster: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::ConfigMap, name: instance_config(cluster) }
}

/// The ConfigMap with the last spec that was accepted.
pub fn accepted_spec(cluster: &str) -> String {
    format!("{cluster}-spec")
}

/// The PodDisruptionBudget.
pub fn budget(cluster: &str) -> String {
    format!("{cluster}-quorum")
}

/// Objects that earlier operators made under other names.
pub fn former_objects(cluster: &str) -> [ObjectKey; 1] {
    [ObjectKey { kind: ObjectKind::PodDisruptionBudget, name: cluster.to_owned() }]
}

/// The host name under which a member is known in the group, the same for as long as it lives.
pub fn host(cluster: &str, namespace: &str, node: NodeId) -> String {
    format!("{}.{}.{namespace}.svc", pod(cluster, node), pods_service(cluster))
}

/// The selector that finds all pods of a cluster, for the scale subresource and for lists.
pub fn selector(cluster: &str) -> String {
    format!("{LABEL_CLUSTER}={cluster}")
}

/// The labels of everything that belongs to a cluster.
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

/// The labels of what belongs to one member.
pub fn node_labels(cluster: &str, node: NodeId) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.insert(LABEL_NODE.to_owned(), node.to_string());
    labels
}
