//! `<cluster>-instance`: the instance manager's configuration, the same for every member.
//! `<cluster>-spec`: the last spec that was accepted.

use k8s_openapi::api::core::v1::ConfigMap;
use pgraft_core::instance_config::{
    BootstrapConfig, GatewayConfig, InstanceConfig, PostgresqlConfig, RaftConfig, TlsConfig,
};
use std::collections::BTreeMap;

use super::metadata::metadata;
use super::places::{
    CONFIG_FILE, SECRETS_DIRECTORY, SOCKET_DIRECTORY, STATE_DIRECTORY, TLS_DIRECTORY,
};
use super::template::fnv1a;
use crate::cluster::ClusterSpec;
use pgraft_api::names::{self, GATEWAY_PORT, HTTP_PORT, POSTGRES_PORT, RAFT_PORT};

/// A Service leads clients to a pod for a second or two after it was told to stop, until every host
/// has heard of it.
const DRAIN_TIME: &str = "3s";

/// The key in `-spec`.
pub const SPEC_FILE: &str = "spec.json";

pub(super) fn config_map(want: &ClusterSpec) -> ConfigMap {
    // Plain maps and strings: there is no value that YAML could refuse.
    let yaml = serde_saphyr::to_string(&instance_config(want)).unwrap_or_default();
    ConfigMap {
        metadata: metadata(want, names::instance_config(&want.name), names::labels(&want.name)),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), yaml)])),
        ..ConfigMap::default()
    }
}

/// What pods are annotated with. The same configuration has the same hash in the next operator.
pub fn configuration_hash(want: &ClusterSpec) -> String {
    format!("{:016x}", fnv1a(&serde_json::to_vec(&instance_config(want)).unwrap_or_default()))
}

/// The last spec that was accepted, for an operator that starts while there is none that can be
/// accepted.
pub(super) fn accepted_spec(want: &ClusterSpec) -> ConfigMap {
    ConfigMap {
        metadata: metadata(want, names::accepted_spec(&want.name), names::labels(&want.name)),
        data: Some(BTreeMap::from([(SPEC_FILE.to_owned(), want.accepted.clone())])),
        ..ConfigMap::default()
    }
}

fn instance_config(want: &ClusterSpec) -> InstanceConfig {
    InstanceConfig {
        data_directory: format!("{STATE_DIRECTORY}/pgdata"),
        raft_directory: format!("{STATE_DIRECTORY}/raft"),
        bin_directory: "/usr/lib/postgresql/17/bin".into(),
        socket_directory: SOCKET_DIRECTORY.into(),
        postgresql: PostgresqlConfig {
            port: POSTGRES_PORT,
            listen_addresses: "*".into(),
            parameters: want.parameters.clone(),
            pg_hba: want.pg_hba.clone(),
        },
        raft: RaftConfig {
            port: RAFT_PORT,
            listen_address: "::".into(),
            heartbeat_interval: want.heartbeat_interval.clone(),
            election_timeout: want.election_timeout.clone(),
            lease_timeout: want.lease_timeout.clone(),
            unresponsive_timeout: want.unresponsive_after.clone(),
            allow_plaintext: want.tls.is_none(),
        },
        failover: want.lease_timeout.is_some(),
        standby: want.standby.clone(),
        gateway: Some(GatewayConfig {
            listen_address: "::".into(),
            drain_time: Some(DRAIN_TIME.into()),
            max_connections: want.gateway_max_connections,
            ..GatewayConfig::on(GATEWAY_PORT)
        }),
        tls: want.tls.as_ref().map(|_| TlsConfig {
            cert_file: format!("{TLS_DIRECTORY}/tls.crt"),
            key_file: format!("{TLS_DIRECTORY}/tls.key"),
            ca_file: format!("{TLS_DIRECTORY}/ca.crt"),
        }),
        http_listen: format!("[::]:{HTTP_PORT}"),
        peers: vec![format!(
            "{}.{}.svc:{HTTP_PORT}",
            names::pods_service(&want.name),
            want.namespace
        )],
        bootstrap: BootstrapConfig { database: want.database.clone(), owner: want.owner.clone() },
        secrets_directory: SECRETS_DIRECTORY.into(),
    }
}
