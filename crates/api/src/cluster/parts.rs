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
    /// At every start of a container.
    Always,
    /// If the host does not have it.
    #[default]
    IfNotPresent,
    /// Never; the pod does not start unless the host has it.
    Never,
}

/// Postgres settings.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlSpec {
    /// Whether pods are restarted, one at a time, if a changed setting requires a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_on_change: Option<bool>,

    /// Settings of `postgresql.conf`; names are in lower case. Parameters that pgraft manages are
    /// refused. `shared_preload_libraries` are loaded after pgraft.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256, "x-kubernetes-validations" = parameter_rules()))]
    pub parameters: BTreeMap<String, ParameterValue>,

    /// Lines of `pg_hba.conf`. They follow pgraft's own lines and precede the last ones, which
    /// require a password from all other clients, and TLS from other hosts unless it is disabled.
    #[serde(default, rename = "pg_hba", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub pg_hba: Vec<HbaLine>,
}

/// The value of a setting, as in `postgresql.conf` but without quotes.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct ParameterValue(
    #[schemars(length(max = 8192), regex(pattern = r"^[^\n\r]*$"))] pub String,
);

/// A line of `pg_hba.conf`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(transparent)]
pub struct HbaLine(
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\n\r]*$"))] pub String,
);

/// One rule for each reserved name: its cost does not depend on the length of the user's names, and
/// its message contains the name.
fn parameter_rules() -> Vec<Rule> {
    let reserved = RESERVED_PARAMETERS.iter().map(|name| {
        Rule::new(format!("!('{name}' in self)")).message(Message::Message(format!(
            "postgresql.parameters must not set {name}: it is managed by pgraft"
        )))
    });
    let own = Rule::new("self.all(name, !name.startsWith('pgraft.'))")
        .message("postgresql.parameters must not set pgraft.*: these are managed by pgraft; use spec.raft and spec.failover");
    let includes = INCLUDE_DIRECTIVES.iter().map(|name| {
        Rule::new(format!("!('{name}' in self)")).message(Message::Message(format!(
            "postgresql.parameters must not set {name}: it is not a parameter, and other files are not read"
        )))
    });
    // In lower case, so that the rules above match every spelling.
    let names = Rule::new(r"self.all(name, name.matches('^[a-z_][a-z0-9_$]*([.][a-z_][a-z0-9_$]*)*$'))").message(
        "postgresql.parameters must have lower-case parameter names as keys: letters, digits, '_' and '$', with '.' after the name of an extension",
    );
    reserved.chain([own]).chain(includes).chain([names]).collect()
}

/// The volume of each member.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClass) == has(oldSelf.storageClass) && (!has(self.storageClass) || self.storageClass == oldSelf.storageClass)")
    .message("storage.storageClass cannot be changed: existing volumes would keep theirs"))]
pub struct StorageSpec {
    /// The size, such as `10Gi`. It can be increased if the storage class can expand volumes, and
    /// decreased again until a volume has reached it: volumes never shrink, and a new one is at
    /// least as large as the largest existing one.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('128Mi')) >= 0")
        .message("storage.size must be a size such as 10Gi, and at least 128Mi"))]
    pub size: String,

    /// The storage class. Defaults to that of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(format!("self == '' || self.matches('{OBJECT_NAME}')")).message("storage.storageClass must be the name of a storage class: lower-case letters, digits, '-' and '.'"))]
    pub storage_class: Option<String>,
}

/// How the cluster is created.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSpec {
    /// Creates an empty cluster.
    #[serde(default)]
    pub initdb: InitdbSpec,
}

/// Keywords that denote a role in SQL.
const ROLE_WORDS: &str =
    "['public', 'none', 'user', 'current_user', 'current_role', 'session_user']";
/// Keywords that denote databases or roles in `pg_hba.conf`.
const HBA_WORDS: &str = "['all', 'replication', 'sameuser', 'samerole', 'samegroup']";

/// The first database of a new cluster.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InitdbSpec {
    /// Its name.
    #[serde(default = "app")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_-]*$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['postgres', 'template0', 'template1'])").message("bootstrap.initdb.database must not be postgres, template0 or template1: initdb creates these"))]
    #[x_kube(validation = Rule::new(format!("!(self.lowerAscii() in {HBA_WORDS})")).message("bootstrap.initdb.database must not be a keyword of pg_hba.conf: all, replication, sameuser, samerole or samegroup"))]
    pub database: String,

    /// The role that owns it.
    #[serde(default = "app")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_-]*$"))]
    #[x_kube(validation = Rule::new("self.lowerAscii() != 'postgres' && !self.lowerAscii().startsWith('pg_') && !self.lowerAscii().startsWith('pgraft_')")
        .message("bootstrap.initdb.owner must not be postgres, or start with pg_ or pgraft_"))]
    #[x_kube(validation = Rule::new(format!("!(self.lowerAscii() in {ROLE_WORDS}) && !(self.lowerAscii() in {HBA_WORDS})"))
        .message("bootstrap.initdb.owner must not be a keyword for roles: public, none, user, current_user, current_role or session_user, or one of pg_hba.conf"))]
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

/// Whether a member's volume is deleted.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRetention {
    /// After scaling down. Node ids are never reused, so a retained volume is an archive; no later
    /// member uses it.
    #[serde(default = "delete")]
    pub when_scaled: RetentionPolicy,

    /// After the PgRaftCluster is deleted. `Retain` keeps the Secrets, too; a new PgRaftCluster of
    /// the same name uses the retained data.
    #[serde(default = "retain")]
    pub when_deleted: RetentionPolicy,
}

/// Whether a volume is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPolicy {
    /// The volume is kept.
    Retain,
    /// The volume and its data are deleted.
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

/// A duration, in Postgres' units.
const TIME: &str = "^[1-9][0-9]{0,5}(ms|s)$";

/// Raft's timing. A change restarts the pods, one at a time.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(format!("!self.heartbeatInterval.matches('{TIME}') || !self.electionTimeout.matches('{TIME}') || duration(self.heartbeatInterval) + duration(self.heartbeatInterval) + duration(self.heartbeatInterval) <= duration(self.electionTimeout)"))
    .message("raft.electionTimeout must be at least three times raft.heartbeatInterval"))]
pub struct RaftSpec {
    /// The interval of the leader's heartbeats.
    #[serde(default = "default_heartbeat")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("raft.heartbeatInterval must be a duration such as 100ms or 2s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('10ms') && duration(self) <= duration('60s'))")).message("raft.heartbeatInterval must be between 10ms and 60s"))]
    pub heartbeat_interval: String,

    /// How long a member waits for the leader before it starts an election.
    #[serde(default = "default_election")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("raft.electionTimeout must be a duration such as 100ms or 2s"))]
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

/// A duration of seconds, minutes or hours.
const LONG_TIME: &str = "^[1-9][0-9]{0,5}(s|m|h)$";

/// Whether and how the primary changes.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(format!("!has(self.replaceAfter) || !self.replaceAfter.matches('{LONG_TIME}') || !self.leaseTimeout.matches('{TIME}') || duration(self.replaceAfter) > duration(self.leaseTimeout)"))
    .message("failover.replaceAfter must be longer than failover.leaseTimeout"))]
#[x_kube(validation = Rule::new(format!("!has(self.unresponsiveAfter) || !self.unresponsiveAfter.matches('{TIME}') || !self.leaseTimeout.matches('{TIME}') || duration(self.unresponsiveAfter) >= duration(self.leaseTimeout)"))
    .message("failover.unresponsiveAfter must not be shorter than failover.leaseTimeout"))]
#[x_kube(validation = Rule::new("self.enabled == oldSelf.enabled").message("failover.enabled cannot be changed after the cluster was created"))]
pub struct FailoverSpec {
    /// Whether the members choose the primary, and another one when it is lost. Otherwise the
    /// bootstrap node stays the primary.
    #[serde(default)]
    pub enabled: bool,

    /// How long a primary may serve without an acknowledgement from a majority, and after which time
    /// without it another one takes over. (`raft.electionTimeout` determines how soon a lost Raft
    /// leader is replaced.)
    #[serde(default = "default_lease")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("failover.leaseTimeout must be a duration such as 500ms or 2s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || (duration(self) >= duration('300ms') && duration(self) <= duration('600s'))")).message("failover.leaseTimeout must be between 300ms and 600s"))]
    pub lease_timeout: String,

    /// How long a server may answer no connection, flush no WAL, or have a stopped postmaster,
    /// checkpointer or WAL writer before it is killed, so that another one can take over. Defaults
    /// to three times `leaseTimeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{TIME}')")).message("failover.unresponsiveAfter must be a duration such as 500ms or 6s"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{TIME}') || duration(self) <= duration('3600s')")).message("failover.unresponsiveAfter must be at most 3600s"))]
    pub unresponsive_after: Option<String>,

    /// How long a member may be unreachable before it is removed and replaced by a new member with a
    /// new id and a new volume. By default members are not replaced. One member is replaced at a
    /// time, never the primary, and only while a majority answers. The time counts from
    /// `status.members[].unreachableSince`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new(format!("self.matches('{LONG_TIME}')")).message("failover.replaceAfter must be a duration such as 90s, 10m or 24h"))]
    #[x_kube(validation = Rule::new(format!("!self.matches('{LONG_TIME}') || (duration(self) >= duration('10s') && duration(self) <= duration('8760h'))")).message("failover.replaceAfter must be between 10s and 8760h"))]
    pub replace_after: Option<String>,
}

/// A request for a switchover, carried out once.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverSpec {
    /// The pod of the member that should become the primary, such as `demo-3`. The request is done
    /// when that pod has become the primary, even if the primary changes again later. To request
    /// the same target again, remove `switchover` first.
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

/// Where the Services route connections.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ServicesSpec {
    /// How `<name>-rw` routes connections to the primary.
    #[serde(default)]
    pub read_write: ReadWrite,
}

/// How a Service routes connections to the primary.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadWrite {
    /// Through the gateways of all members, which forward connections to the primary that Raft
    /// names. A failover needs neither the operator nor the API server.
    #[default]
    Gateway,
    /// Directly to the primary's pod, by a label. The Service follows a failover when the operator
    /// has updated the label. Postgres sees the addresses of the clients.
    Direct,
}
