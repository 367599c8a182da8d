//! The instance manager's configuration file: written by hand on a plain host, rendered by the
//! operator on Kubernetes.
//!
//! Values that differ between nodes are on the command line (`--node-id`, `--advertise-address`,
//! `--bootstrap`), so that all nodes can share one file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::defaults;

/// `pgraft-instance run --config FILE`, in YAML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InstanceConfig {
    /// PGDATA. Its parent directory must be writable, because a clone is made there.
    pub data_directory: String,
    /// `pgraft.data_dir`. Must be outside [`Self::data_directory`], because a base backup must not
    /// copy a node's identity.
    pub raft_directory: String,
    /// The directory of `initdb`, `postgres` and `pg_basebackup`.
    pub bin_directory: String,
    /// The directory of Postgres' Unix socket.
    pub socket_directory: String,
    /// The Postgres server.
    pub postgresql: PostgresqlConfig,
    /// The Raft member.
    #[serde(default)]
    pub raft: RaftConfig,
    /// `pgraft.failover`, the same on all nodes. Without it the bootstrap node stays the primary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failover: bool,
    /// The read-write gateway; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayConfig>,
    /// When a standby is not ready for reads.
    #[serde(default, skip_serializing_if = "StandbyConfig::is_default")]
    pub standby: StandbyConfig,
    /// TLS for Postgres and the Raft member; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// `host:port` of the HTTP server (`/livez /readyz /status`). The host `*` means all addresses.
    pub http_listen: String,
    /// `host:port` of other nodes' HTTP servers. A node without data asks them for the primary. A name
    /// may resolve to several addresses.
    #[serde(default)]
    pub peers: Vec<String>,
    /// The first database, created by the bootstrap node.
    #[serde(default)]
    pub bootstrap: BootstrapConfig,
    /// A directory with one file per password: `replication-password`, and optionally
    /// `owner-password`, `operator-password` and `superuser-password`. Changed files are read again.
    pub secrets_directory: String,
}

/// The Postgres server's part of [`InstanceConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PostgresqlConfig {
    /// TCP port.
    pub port: u16,
    /// `listen_addresses` of Postgres.
    pub listen_addresses: String,
    /// Settings of the user. [`RESERVED_PARAMETERS`] are not allowed.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`, after those of pgraft and before the last line, which accepts all roles
    /// with a password: `host all all all scram-sha-256`, with TLS `hostssl`.
    #[serde(default)]
    pub pg_hba: Vec<String>,
}

/// The Raft member's part of [`InstanceConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RaftConfig {
    /// `pgraft.port`.
    pub port: u16,
    /// `pgraft.listen_address`; `*` means all addresses.
    pub listen_address: String,
    /// `pgraft.heartbeat_interval`, with Postgres' units.
    pub heartbeat_interval: String,
    /// `pgraft.election_timeout`, with Postgres' units.
    pub election_timeout: String,
    /// `pgraft.lease_timeout`, with Postgres' units: how long a primary may be unreachable before it
    /// is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_timeout: Option<String>,
    /// With `failover`: how long the server may accept no connections, flush no WAL or have a stopped
    /// process before the instance manager kills it, so that another server takes over. With
    /// Postgres' units; three times `leaseTimeout` by default, which is also the minimum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresponsive_timeout: Option<String>,
    /// `pgraft.allow_plaintext`: allows other addresses than loopback without TLS, for a network
    /// without other hosts.
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

/// When a standby is not ready for reads: `/readyz` fails, and the read-only Service excludes it.
/// Nothing counts while the cluster has no primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct StandbyConfig {
    /// How long a standby may receive no WAL, not replay, or be behind the primary, with Postgres'
    /// units.
    pub max_lag: String,
    /// How many bytes of WAL a standby may have left to replay, with Postgres' units; unlimited by
    /// default.
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
    /// The address that it listens on; `*` means all addresses.
    #[serde(default = "everywhere")]
    pub listen_address: String,
    /// How long a client waits for a primary before it gets an error, with Postgres' units.
    #[serde(default = "hold_time")]
    pub hold_time: String,
    /// The maximum of clients at a time.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    /// After a stop was requested, the gateway keeps forwarding until no new client has connected for
    /// this time, but not longer than five times this time. This is for clients that a Service still
    /// sends to a stopping member. Without it the gateway stops with the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_time: Option<String>,
}

impl GatewayConfig {
    /// A gateway on that port, with all defaults.
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

/// The files of a node's certificate, in PEM format. Changed files are read again.
///
/// The subject alternative names of the certificate must include `node-<id>.pgraft` and the address
/// of this node. The certificate must be valid for servers and clients, because a standby presents
/// it to the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsConfig {
    /// The certificate and the intermediate ones.
    pub cert_file: String,
    /// Its private key. Only the user of Postgres may read it; or it belongs to root, and the group of
    /// that user may read it.
    pub key_file: String,
    /// The cluster's CA; during a rotation the old one and the new one.
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

/// The file in the Raft directory with `synchronous_standby_names` and the number of its change.
/// Written by the worker, included by Postgres' configuration.
pub const NAMES_FILE: &str = "names.conf";

/// Settings that pgraft manages. All settings that begin with `pgraft.` are reserved as well.
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

/// Directives of `postgresql.conf` that include other files. They look like parameters.
pub const INCLUDE_DIRECTIVES: &[&str] = &["include", "include_dir", "include_if_exists"];

/// Whether this is a valid name of a parameter: identifiers of letters, digits, `_` and `$`, joined
/// by dots.
pub fn is_parameter_name(name: &str) -> bool {
    let part = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
    };
    name.len() <= 126 && name.split('.').all(part)
}

/// The first of these names that is reserved, if there is one.
pub fn reserved_parameter<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().find(|n| {
        n.to_ascii_lowercase().starts_with("pgraft.")
            || RESERVED_PARAMETERS.iter().any(|r| r.eq_ignore_ascii_case(n))
    })
}

/// The role of the operator: it may call the `pgraft_*` functions and owns nothing. With TLS it uses
/// a client certificate of this name.
pub const OPERATOR_ROLE: &str = "pgraft_operator";

/// The role of standbys.
pub const REPLICATION_ROLE: &str = "pgraft_replication";

/// The role and database that a gateway names to find out whether a server accepts connections.
/// Neither exists: the gateway disconnects when the server requests a password.
pub const PROBE_ROLE: &str = "pgraft_probe";

/// The DNS name in a node's certificate, which the operator expects.
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
    fn reads_the_example_of_the_docs() {
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
    fn finds_reserved_names_in_any_case() {
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
