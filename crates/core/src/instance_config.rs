//! The instance manager's configuration file: written by hand on a plain host, rendered by the
//! operator on Kubernetes.
//!
//! What differs from node to node stands on the command line (`--node-id`, `--advertise-address`,
//! `--bootstrap`), so that one file serves all.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::defaults;

/// `pgraft-instance run --config FILE`, in YAML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InstanceConfig {
    /// PGDATA. Its parent must be writable: a clone is made beside it.
    pub data_directory: String,
    /// `pgraft.data_dir`. Outside of [`Self::data_directory`]: a base backup must never copy a
    /// node's identity.
    pub raft_directory: String,
    /// Where `initdb`, `postgres` and `pg_basebackup` are.
    pub bin_directory: String,
    /// Where Postgres puts its Unix socket.
    pub socket_directory: String,
    /// The Postgres server.
    pub postgresql: PostgresqlConfig,
    /// The Raft member.
    #[serde(default)]
    pub raft: RaftConfig,
    /// Whether the members choose the primary (`pgraft.failover`), the same on every node. Without
    /// it the bootstrap node stays the primary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failover: bool,
    /// A TCP port that leads to the primary. Without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayConfig>,
    /// When a standby is too far behind to be read from.
    #[serde(default, skip_serializing_if = "StandbyConfig::is_default")]
    pub standby: StandbyConfig,
    /// TLS for Postgres and the Raft member. Without it neither has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// `host:port` of the HTTP listener (`/livez /readyz /status`); the host `*` is every address,
    /// of IPv6 and of IPv4.
    pub http_listen: String,
    /// `host:port` of other nodes' HTTP listeners, asked for the primary by a node that has no data
    /// yet. A name may stand for many addresses.
    #[serde(default)]
    pub peers: Vec<String>,
    /// The first database, made by the bootstrap node.
    #[serde(default)]
    pub bootstrap: BootstrapConfig,
    /// A directory with one file a password: `replication-password`, and where wanted
    /// `owner-password`, `operator-password` and `superuser-password`. Files that change are read
    /// again.
    pub secrets_directory: String,
}

/// The Postgres server's part of [`InstanceConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PostgresqlConfig {
    /// TCP port.
    pub port: u16,
    /// As Postgres' own setting.
    pub listen_addresses: String,
    /// Settings of the user's. None of [`RESERVED_PARAMETERS`].
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`, put after pgraft's own and before the closing line, which lets in
    /// whoever has a password: `host all all all scram-sha-256`, with TLS `hostssl`.
    #[serde(default)]
    pub pg_hba: Vec<String>,
}

/// The Raft member's part of [`InstanceConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RaftConfig {
    /// `pgraft.port`.
    pub port: u16,
    /// `pgraft.listen_address`; `*` is every one, of IPv6 and of IPv4.
    pub listen_address: String,
    /// `pgraft.heartbeat_interval`, with Postgres' units.
    pub heartbeat_interval: String,
    /// `pgraft.election_timeout`, with Postgres' units.
    pub election_timeout: String,
    /// `pgraft.lease_timeout`, with Postgres' units: how long nobody hears of the primary before
    /// another one takes its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_timeout: Option<String>,
    /// With `failover`: how long the server may answer no connection, flush no WAL or have a
    /// stopped process before the instance manager kills it, so that another one takes over. Three
    /// times `leaseTimeout` unless set, and not shorter than that. With Postgres' units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresponsive_timeout: Option<String>,
    /// `pgraft.allow_plaintext`: without TLS on more than the loopback, for a network that nobody
    /// else is on.
    pub allow_plaintext: bool,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            port: defaults::RAFT_PORT,
            listen_address: "*".into(),
            heartbeat_interval: defaults::setting(defaults::HEARTBEAT_INTERVAL),
            election_timeout: defaults::setting(defaults::ELECTION_TIMEOUT),
            lease_timeout: None,
            unresponsive_timeout: None,
            allow_plaintext: false,
        }
    }
}

/// When a standby is not ready for reads: `/readyz` says so, and the read-only Service leaves it
/// out. Nothing is counted while the cluster has no primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct StandbyConfig {
    /// How long a standby may receive no WAL, not replay, or be behind the primary, with Postgres'
    /// units.
    pub max_lag: String,
    /// How many bytes of WAL a standby may have to replay, with Postgres' units. Without it any
    /// number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lag_bytes: Option<String>,
}

impl Default for StandbyConfig {
    fn default() -> Self {
        Self { max_lag: defaults::setting(defaults::MAX_LAG), max_lag_bytes: None }
    }
}

impl StandbyConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The read-write gateway's part of [`InstanceConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayConfig {
    /// TCP port.
    pub port: u16,
    /// The address that it listens on; `*` is every one, of IPv6 and of IPv4.
    #[serde(default = "everywhere")]
    pub listen_address: String,
    /// How long a client waits for a primary that takes it before it gets an error, with Postgres'
    /// units.
    #[serde(default = "hold_time")]
    pub hold_time: String,
    /// Clients at a time.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    /// For where clients are led to a member for a while after it was told to stop, as a Service's
    /// are: its gateway then goes on, beside the server's end and after it, until no client has
    /// come for so long; five times as long at most. Without it the gateway ends with the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_time: Option<String>,
}

impl GatewayConfig {
    /// On that port, with all defaults.
    pub fn on(port: u16) -> Self {
        Self {
            port,
            listen_address: everywhere(),
            hold_time: hold_time(),
            max_connections: max_connections(),
            drain_time: None,
        }
    }
}

fn everywhere() -> String {
    "*".into()
}

fn hold_time() -> String {
    defaults::setting(defaults::HOLD_TIME)
}

const fn max_connections() -> usize {
    defaults::MAX_CONNECTIONS
}

/// The files of a node's certificate, in PEM. They are read again when they change.
///
/// The certificate's subject alternative names hold `node-<id>.pgraft` and the address that other
/// nodes reach this one at; it is for servers and for clients, since a standby shows it to the
/// primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsConfig {
    /// The certificate, and those between it and the CA.
    pub cert_file: String,
    /// Its private key, which nobody but the user that Postgres runs as may read; or root's, and
    /// that user's group may.
    pub key_file: String,
    /// The cluster's CA; during its rotation the old one and the new one.
    pub ca_file: String,
}

impl TlsConfig {
    /// All of the files, by the names of their keys.
    pub const fn files(&self) -> [(&'static str, &String); 3] {
        let Self { cert_file, key_file, ca_file } = self;
        [("tls.certFile", cert_file), ("tls.keyFile", key_file), ("tls.caFile", ca_file)]
    }
}

/// The bootstrap node's first database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct BootstrapConfig {
    /// Database name.
    pub database: String,
    /// The role that owns it.
    pub owner: String,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self { database: defaults::DATABASE.into(), owner: defaults::DATABASE.into() }
    }
}

/// In the Raft directory: `synchronous_standby_names` and the number of the change that it comes
/// from. Written by the worker, read by Postgres.
pub const NAMES_FILE: &str = "names.conf";

/// Settings that pgraft itself makes; a user's value would break the cluster. Everything that
/// begins with `pgraft.` as well.
pub const RESERVED_PARAMETERS: &[&str] = &[
    "archive_cleanup_command",
    "cluster_name",
    "config_file",
    "data_directory",
    "data_sync_retry",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "log_destination",
    "log_line_prefix",
    "logging_collector",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "restore_command",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_level",
    "wal_log_hints",
];

/// Directives of `postgresql.conf` that read other files. They look like parameters and are none.
pub const INCLUDE_DIRECTIVES: &[&str] = &["include", "include_dir", "include_if_exists"];

/// Whether this can be the name of a parameter: parts of letters, digits, `_` and `$`, joined by
/// dots.
pub fn is_parameter_name(name: &str) -> bool {
    let part = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
    };
    name.len() <= 126 && name.split('.').all(part)
}

/// The first reserved one of these names, if there is one.
pub fn reserved_parameter<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().find(|n| {
        n.to_ascii_lowercase().starts_with("pgraft.")
            || RESERVED_PARAMETERS.iter().any(|r| r.eq_ignore_ascii_case(n))
    })
}

/// The role that the operator connects as: reads `pgraft_*`, may add and remove nodes, owns
/// nothing. With TLS, by a client certificate of this name.
pub const OPERATOR_ROLE: &str = "pgraft_operator";

/// The role that standbys stream as.
pub const REPLICATION_ROLE: &str = "pgraft_replication";

/// The name by which a gateway asks a server whether it takes connections. There is no such role
/// and no such database: the server asks for a password, and the gateway goes.
pub const PROBE_ROLE: &str = "pgraft_probe";

/// The name of a node that its certificate must carry, and as which the operator greets it.
pub fn certificate_name(node: crate::NodeId) -> String {
    format!("node-{node}.pgraft")
}

/// The name of a node's replication slot and of its standby connection.
pub fn replication_name(node: crate::NodeId) -> String {
    format!("pgraft_{node}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_docs_is_read() {
        let text = "
dataDirectory: /var/lib/pgraft/pgdata
raftDirectory: /var/lib/pgraft/raft
binDirectory: /usr/lib/postgresql/17/bin
socketDirectory: /var/run/postgresql
httpListen: 0.0.0.0:8008
secretsDirectory: /etc/pgraft/secrets
peers: [demo-pods:8008]
postgresql: {port: 5432, listenAddresses: '*', parameters: {work_mem: 8MB}}
";
        let config: InstanceConfig = serde_saphyr::from_str(text).unwrap();
        assert_eq!(config.raft, RaftConfig::default());
        assert_eq!(
            (config.bootstrap.database.as_str(), &config.tls, config.failover),
            ("app", &None, false)
        );
        let tls = "tls: {certFile: /t/tls.crt, keyFile: /t/tls.key, caFile: /t/ca.crt}";
        let config: InstanceConfig = serde_saphyr::from_str(&format!("{text}{tls}\n")).unwrap();
        assert_eq!(
            config.tls.unwrap().files().map(|(_, file)| file.as_str()),
            ["/t/tls.crt", "/t/tls.key", "/t/ca.crt"]
        );
        assert!(serde_saphyr::from_str::<InstanceConfig>(&format!("{text}\nfoo: 1")).is_err());
    }

    #[test]
    fn reserved_names_are_found_in_any_case() {
        assert_eq!(reserved_parameter(["work_mem", "PORT"]), Some("PORT"));
        assert_eq!(reserved_parameter(["pgraft.node_id"]), Some("pgraft.node_id"));
        assert_eq!(reserved_parameter(["work_mem"]), None);
    }

    #[test]
    fn a_name_is_one_or_more_identifiers() {
        for name in ["work_mem", "_x", "auto_explain.log_min_duration", "a$1.b2"] {
            assert!(is_parameter_name(name), "{name}");
        }
        for name in ["", "a b", "1a", "a.", ".a", "a..b", "a-b", "a=b", "ä", "a\nb"] {
            assert!(!is_parameter_name(name), "{name}");
        }
    }
}
