//! The parts of the spec.

use super::metadata::OBJECT_NAME;
use kube::KubeSchema;
use kube::core::{Message, Rule};
use pgraft_core::instance_config::{INCLUDE_DIRECTIVES, RESERVED_PARAMETERS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of an object in the same namespace.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
pub struct LocalObjectReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(format!("self.matches('{OBJECT_NAME}')")).message("imagePullSecrets must name Secrets: lower-case letters, digits, '-' and '.'"))]
    pub name: String,
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// On every start of a container.
    Always,
    /// When the host does not have it.
    #[default]
    IfNotPresent,
    /// Never: the host has it, or the pod does not start.
    Never,
}

/// Postgres settings.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlSpec {
    /// Whether pods are restarted, one after the other, when a changed setting takes effect only
    /// after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_on_change: Option<bool>,

    /// `postgresql.conf`, name by name, in lower case. What pgraft itself sets is refused;
    /// `shared_preload_libraries` is loaded after pgraft.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256, "x-kubernetes-validations" = parameter_rules()))]
    pub parameters: BTreeMap<String, ParameterValue>,

    /// Lines of `pg_hba.conf`, read after pgraft's own and before the closing lines, by which
    /// everybody else needs a password, and TLS from other hosts where there is any.
    #[serde(default, rename = "pg_hba", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub pg_hba: Vec<HbaLine>,
}

/// The value of a setting, as `postgresql.conf` would have it, without quotes.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct ParameterValue(
    #[schemars(length(max = 8192), regex(pattern = r"^[^\n\r]*$"))] pub String,
);

/// One line.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(transparent)]
pub struct HbaLine(
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\n\r]*$"))] pub String,
);

/// One rule a reserved name: its cost does not depend on how long the user's names are, and its
/// message says which one it is.
fn parameter_rules() -> Vec<Rule> {
    let reserved = RESERVED_PARAMETERS.iter().map(|name| {
        Rule::new(format!("!('{name}' in self)")).message(Message::Message(format!(
            "postgresql.parameters must not set {name}: pgraft sets it itself"
        )))
    });
    let own = Rule::new("self.all(name, !name.startsWith('pgraft.'))")
        .message("postgresql.parameters must not set pgraft.*: pgraft sets these itself, and spec.raft has what can be chosen");
    let includes = INCLUDE_DIRECTIVES.iter().map(|name| {
        Rule::new(format!("!('{name}' in self)")).message(Message::Message(format!(
            "postgresql.parameters must not set {name}: it is not a parameter, and no other file is read"
        )))
    });
    // In lower case, so that none of the rules above is evaded by another spelling.
    let names = Rule::new(r"self.all(name, name.matches('^[a-z_][a-z0-9_$]*([.][a-z_][a-z0-9_$]*)*$'))").message(
        "postgresql.parameters must have names of parameters, in lower case: letters, digits, _ and $, and a dot after the name of an extension",
    );
    reserved.chain([own]).chain(includes).chain([names]).collect()
}

/// The volume of each member.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClass) == has(oldSelf.storageClass) && (!has(self.storageClass) || self.storageClass == oldSelf.storageClass)")
    .message("storage.storageClass can't be changed: existing volumes would stay where they are"))]
pub struct StorageSpec {
    /// Bytes, in Kubernetes' units: `10Gi`. May grow where the storage class can expand volumes,
    /// and be taken back as long as no volume has reached it: volumes never shrink, and a new one
    /// is no smaller than the largest there is.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('128Mi')) >= 0")
        .message("storage.size must be a size such as 10Gi, and at least 128Mi"))]
    pub size: String,

    /// The storage class; the Kubernetes cluster's default when it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(format!("self == '' || self.matches('{OBJECT_NAME}')")).message("storage.storageClass must be the name of a storage class: lower-case letters, digits, '-' and '.'"))]
    pub storage_class: Option<String>,
}

/// How the first database comes to be.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// An empty cluster.
    #[serde(default)]
    pub initdb: InitdbSpec,
}

/// What stands for a role in SQL.
const ROLE_WORDS: &str =
    "['public', 'none', 'user', 'current_user', 'current_role', 'session_user']";
/// What stands for databases or roles in `pg_hba.conf`.
const HBA_WORDS: &str = "['all', 'replication', 'sameuser', 'samerole', 'samegroup']";

/// A fresh cluster's first database.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InitdbSpec {
    /// Its name.
    #[serde(default = "app")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_-]*$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['postgres', 'template0', 'template1'])").message("bootstrap.initdb.database must be a database of your own, not one that initdb makes"))]
    #[x_kube(validation = Rule::new(format!("!(self.lowerAscii() in {HBA_WORDS})")).message("bootstrap.initdb.database must not be a word of pg_hba.conf: all, replication, sameuser, samerole or samegroup"))]
    pub database: String,

    /// The role that owns it.
    #[serde(default = "app")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_-]*$"))]
    #[x_kube(validation = Rule::new("self.lowerAscii() != 'postgres' && !self.lowerAscii().startsWith('pg_') && !self.lowerAscii().startsWith('pgraft_')")
        .message("bootstrap.initdb.owner must be a role of your own: not postgres, and nothing that begins with pg_ or pgraft_"))]
    #[x_kube(validation = Rule::new(format!("!(self.lowerAscii() in {ROLE_WORDS}) && !(self.lowerAscii() in {HBA_WORDS})"))
        .message("bootstrap.initdb.owner must not be a word that Postgres reserves for roles: public, none, user, current_user, current_role, session_user, or one of pg_hba.conf"))]
    pub owner: String,
}

impl Default for InitdbSpec {
    fn default() -> Self {
        Self { database: app(), owner: app() }
    }
}

fn app() -> String {
    "app".to_owned()
}

/// What becomes of a member's volume.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRetention {
    /// When its member was scaled away. Its node id is never used again, so a retained volume is an
    /// archive, not a start for the next member.
    #[serde(default = "delete")]
    pub when_scaled: RetentionPolicy,

    /// When the PgRaftCluster is deleted. `Retain` keeps the Secrets as well, and a PgRaftCluster
    /// made again under the same name goes on with the same data.
    #[serde(default = "retain")]
    pub when_deleted: RetentionPolicy,
}

/// What becomes of a volume.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPolicy {
    /// It stays.
    Retain,
    /// It is deleted, and the data in it.
    Delete,
}

const fn delete() -> RetentionPolicy {
    RetentionPolicy::Delete
}

const fn retain() -> RetentionPolicy {
    RetentionPolicy::Retain
}

impl Default for VolumeRetention {
    fn default() -> Self {
        Self { when_scaled: delete(), when_deleted: retain() }
    }
}

/// A time as Postgres writes it.
const TIME: &str = "^[1-9][0-9]{0,5}(ms|s)$";

/// Raft's timing. A pod takes a change when it is next made.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(format!("!self.heartbeatInterval.matches('{TIME}') || !self.electionTimeout.matches('{TIME}') || duration(self.heartbeatInterval) + duration(self.heartbeatInterval) + duration(self.heartbeatInterval) <= duration(self.electionTimeout)"))
    .message("raft.electionTimeout must be at least three times raft.heartbeatInterval, or every pause looks like a dead leader"))]
pub struct RaftSpec {
    /// How often the leader speaks.
    #[serde(default = "default_heartbeat")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("raft.heartbeatInterval must be a time such as 100ms or 2s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('10ms') && duration(self) <= duration('60s'))")).message("raft.heartbeatInterval must be between 10ms and 60s"))]
    pub heartbeat_interval: String,

    /// How long a member waits for the leader before it asks for votes.
    #[serde(default = "default_election")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("raft.electionTimeout must be a time such as 100ms or 2s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('100ms') && duration(self) <= duration('600s'))")).message("raft.electionTimeout must be between 100ms and 600s"))]
    pub election_timeout: String,
}

fn default_heartbeat() -> String {
    "200ms".to_owned()
}

fn default_election() -> String {
    "1s".to_owned()
}

impl Default for RaftSpec {
    fn default() -> Self {
        Self { heartbeat_interval: default_heartbeat(), election_timeout: default_election() }
    }
}

/// A time in which people do something.
const LONG_TIME: &str = "^[1-9][0-9]{0,5}(s|m|h)$";

/// Who is the primary, and who decides it.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(format!("!has(self.replaceAfter) || !self.replaceAfter.matches('{LONG_TIME}') || !self.leaseTimeout.matches('{TIME}') || duration(self.replaceAfter) > duration(self.leaseTimeout)"))
    .message("failover.replaceAfter must be longer than failover.leaseTimeout, or a member is given up before the others have noticed"))]
#[x_kube(validation = Rule::new(format!("!has(self.unresponsiveAfter) || !self.unresponsiveAfter.matches('{TIME}') || !self.leaseTimeout.matches('{TIME}') || duration(self.unresponsiveAfter) >= duration(self.leaseTimeout)"))
    .message("failover.unresponsiveAfter must not be shorter than failover.leaseTimeout"))]
#[x_kube(validation = Rule::new("self.enabled == oldSelf.enabled").message("failover.enabled can't be changed after the cluster was made: restore into a new one"))]
pub struct FailoverSpec {
    /// Whether the members choose the primary, and another one when it is lost. Without it the
    /// bootstrap node stays the primary.
    #[serde(default)]
    pub enabled: bool,

    /// For how long a primary may go on without hearing from a majority, and after how long without
    /// it another one takes its place. (How soon a lost Raft leader has a successor is
    /// `raft.electionTimeout`.)
    #[serde(default = "default_lease")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("failover.leaseTimeout must be a time such as 500ms or 2s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('300ms') && duration(self) <= duration('600s'))")).message("failover.leaseTimeout must be between 300ms and 600s"))]
    pub lease_timeout: String,

    /// For how long a server may answer no connection, flush no WAL, or have a stopped postmaster,
    /// checkpointer or WAL writer, before it is killed so that another one takes over. Three times
    /// `leaseTimeout` when it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("failover.unresponsiveAfter must be a time such as 500ms or 6s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || duration(self) <= duration('3600s')")).message("failover.unresponsiveAfter must be at most 3600s"))]
    pub unresponsive_after: Option<String>,

    /// After how long a member that does not answer is taken out for good, and another one made in
    /// its place, with a new id and a new volume; never, when it is not set. One at a time, never
    /// the primary, and only while a majority answers. It is counted from
    /// `status.members[].unreachableSince`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{LONG_TIME}')")).message("failover.replaceAfter must be a time such as 90s, 10m or 24h"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{LONG_TIME}') || (duration(self) >= duration('10s') && duration(self) <= duration('8760h'))")).message("failover.replaceAfter must be between 10s and 8760h"))]
    pub replace_after: Option<String>,
}

/// A request to have another primary, carried out once.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverSpec {
    /// The pod of the member that is to be the primary, such as `demo-3`. Once it has been that the
    /// request is done, wherever the primary goes later; for another time take `switchover` away
    /// first, or name another one.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z][-a-z0-9]*-[1-9][0-9]{0,9}$')").message("switchover.target must be the name of a member's pod, such as demo-3"))]
    pub target: String,
}

fn default_lease() -> String {
    "2s".to_owned()
}

impl Default for FailoverSpec {
    fn default() -> Self {
        Self {
            enabled: false,
            lease_timeout: default_lease(),
            unresponsive_after: None,
            replace_after: None,
        }
    }
}

/// Where the Services lead.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ServicesSpec {
    /// How `<name>-rw` leads to the primary.
    #[serde(default)]
    pub read_write: ReadWrite,
}

/// How a Service leads to the primary.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadWrite {
    /// To every member's gateway, which passes clients on to the primary by what Raft says: a
    /// failover needs neither the operator nor the API server.
    #[default]
    Gateway,
    /// To the primary's pod, which the operator labels: a failover is followed when the operator
    /// has seen it. Postgres sees the clients' own addresses.
    Direct,
}
