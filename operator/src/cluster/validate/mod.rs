//! Parses a `PgRaftCluster` into a [`ClusterSpec`](super::ClusterSpec). The API server refuses nearly
//! every invalid spec by the rules of the CRD. This is the second line, for objects that were stored
//! under an older CRD, and for rules that are too expensive in CEL.

pub mod accepted;
pub mod standby;

use jiff::SignedDuration;
use kube::ResourceExt;
use pgraft_core::NodeId;

use super::quantity;
use crate::cluster::spec::{ClusterSpec, ClusterTls, Image, Scheduling, Storage};
use pgraft_api::cluster::{
    FailoverSpec, PgRaftCluster, PgRaftClusterSpec, SwitchoverSpec, TlsMode, TlsSpec,
};
use pgraft_api::names::{self, ANNOTATION_RESTARTED_AT, SecretKind};

/// Why a spec is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The object has no namespace or uid, so it does not come from an API server.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
    /// The name is not valid for the objects that are named after it.
    #[error(
        "metadata.name \"{0}\" must be a DNS label of at most 50 characters that starts with a letter"
    )]
    Name(String),
    /// Too few or too many members.
    #[error("replicas {given} must be between 1 and {max}", max = pgraft_core::MAX_MEMBERS)]
    Replicas {
        /// The given value.
        given: i32,
    },
    /// Not a number of hours, or out of range.
    #[error("tls.certificateDuration \"{0}\" must be between 1h and 8760h, in hours")]
    CertificateDuration(String),
    /// The name of the operator's own CA.
    #[error("tls.caSecret must not be {0}: the operator's own CA has that name")]
    CaSecret(String),
    /// Not a duration, or out of range.
    #[error(
        "failover.replaceAfter \"{0}\" must be between 10s and 8760h, in seconds, minutes or hours"
    )]
    ReplaceAfter(String),
    /// Not a duration, or out of range.
    #[error("standby.maxLag \"{0}\" must be between 1s and 8760h, in seconds, minutes or hours")]
    MaxLag(String),
    /// Not a size.
    #[error("standby.maxLagBytes \"{0}\" must be a size such as 64Mi")]
    MaxLagBytes(String),
    /// A switchover without failover.
    #[error(
        "switchover requires failover.enabled: without failover the bootstrap node stays the primary"
    )]
    SwitchoverWithoutFailover,
    /// Not a pod of this cluster.
    #[error("switchover.target \"{target}\" must be a pod of this cluster: {cluster}-<node id>")]
    SwitchoverTarget {
        /// The given value.
        target: String,
        /// The cluster's name.
        cluster: String,
    },
    /// Not a number of clients.
    #[error("gateway.maxConnections must be between 1 and 100000, and is {0}")]
    GatewayMaxConnections(u32),
    /// Not a size.
    #[error("storage.size \"{0}\" must be a size such as 10Gi")]
    Size(String),
}

/// The highest `gateway.maxConnections`, as in the CRD.
const MAX_GATEWAY_CONNECTIONS: usize = 100_000;

/// The operator's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The image of clusters that name none.
    pub image: String,
}

/// Validates a spec.
///
/// # Errors
/// [`Invalid`].
pub fn validate(cr: &PgRaftCluster, defaults: &Defaults) -> Result<ClusterSpec, Invalid> {
    let spec = cr.spec.clone();
    // A request is carried out once, and must not be repeated when this spec is used in place of an
    // invalid one.
    let accepted = serde_json::to_string(&PgRaftClusterSpec { switchover: None, ..spec.clone() })
        .unwrap_or_default();
    let name = cr.name_any();
    if !is_name(&name) {
        return Err(Invalid::Name(name));
    }
    let replicas = usize::try_from(spec.replicas)
        .ok()
        .filter(|n| (1..=pgraft_core::MAX_MEMBERS).contains(n))
        .ok_or(Invalid::Replicas { given: spec.replicas })?;
    let bytes = quantity::bytes(&spec.storage.size)
        .filter(|n| *n > 0)
        .ok_or_else(|| Invalid::Size(spec.storage.size.clone()))?;
    let gateway_max_connections = usize::try_from(spec.gateway.max_connections)
        .ok()
        .filter(|n| (1..=MAX_GATEWAY_CONNECTIONS).contains(n))
        .ok_or(Invalid::GatewayMaxConnections(spec.gateway.max_connections))?;
    let tls = tls(&name, spec.tls)?;
    let switchover =
        spec.switchover.map(|request| switchover(&name, request, &spec.failover)).transpose()?;
    let replace_after = spec.failover.replace_after.map(replace_after).transpose()?;
    Ok(ClusterSpec {
        name,
        namespace: cr.namespace().ok_or(Invalid::Incomplete("namespace"))?,
        uid: cr.uid().ok_or(Invalid::Incomplete("uid"))?,
        replicas,
        image: Image {
            name: spec.image.unwrap_or_else(|| defaults.image.clone()),
            pull_policy: spec.image_pull_policy,
            pull_secrets: spec.image_pull_secrets.into_iter().map(|s| s.name).collect(),
        },
        restart_on_change: spec.postgresql.restart_on_change.unwrap_or(true),
        parameters: spec.postgresql.parameters.into_iter().map(|(k, v)| (k, v.0)).collect(),
        pg_hba: spec.postgresql.pg_hba.into_iter().map(|line| line.0).collect(),
        storage: Storage { size: spec.storage.size, bytes, class: spec.storage.storage_class },
        scheduling: Scheduling {
            resources: spec.resources.unwrap_or_default(),
            affinity: spec.affinity.unwrap_or_default(),
            tolerations: spec.tolerations,
            node_selector: spec.node_selector.into_iter().map(|(k, v)| (k, v.0)).collect(),
            topology_spread: spec.topology_spread_constraints,
        },
        database: spec.bootstrap.initdb.database,
        owner: spec.bootstrap.initdb.owner,
        superuser: spec.enable_superuser_access,
        retention: spec.persistent_volume_claim_retention_policy,
        read_write: spec.services.read_write,
        gateway_max_connections,
        tls,
        lease_timeout: spec.failover.enabled.then_some(spec.failover.lease_timeout),
        unresponsive_after: spec.failover.unresponsive_after,
        replace_after,
        standby: standby::parse(spec.standby)?,
        switchover,
        heartbeat_interval: spec.raft.heartbeat_interval,
        election_timeout: spec.raft.election_timeout,
        restarted_at: cr.annotations().get(ANNOTATION_RESTARTED_AT).cloned(),
        accepted,
        inherited_labels: spec
            .inherited_metadata
            .labels
            .into_iter()
            .map(|(k, v)| (k, v.0))
            .collect(),
        inherited_annotations: spec
            .inherited_metadata
            .annotations
            .into_iter()
            .map(|(k, v)| (k, v.0))
            .collect(),
    })
}

fn tls(cluster: &str, spec: TlsSpec) -> Result<Option<ClusterTls>, Invalid> {
    let TlsSpec { mode, ca_secret, certificate_duration } = spec;
    if mode == TlsMode::Disabled {
        return Ok(None);
    }
    let hours = certificate_duration
        .strip_suffix('h')
        .and_then(|n| n.parse().ok())
        .filter(|n| (1..=8760).contains(n));
    let lifetime = hours
        .map(SignedDuration::from_hours)
        .ok_or(Invalid::CertificateDuration(certificate_duration))?;
    match ca_secret {
        Some(name) if name == SecretKind::Ca.name(cluster) => Err(Invalid::CaSecret(name)),
        ca_secret => Ok(Some(ClusterTls { ca_secret, lifetime })),
    }
}

fn switchover(
    cluster: &str,
    request: SwitchoverSpec,
    failover: &FailoverSpec,
) -> Result<NodeId, Invalid> {
    let SwitchoverSpec { target } = request;
    if !failover.enabled {
        return Err(Invalid::SwitchoverWithoutFailover);
    }
    names::node_of_pod(cluster, &target)
        .ok_or_else(|| Invalid::SwitchoverTarget { target, cluster: cluster.to_owned() })
}

fn replace_after(text: String) -> Result<SignedDuration, Invalid> {
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).unwrap_or_default();
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let seconds = number.parse::<u32>().ok().zip(seconds).map(|(n, unit)| i64::from(n) * unit);
    seconds
        .filter(|n| (10..=8760 * 3600).contains(n))
        .map(SignedDuration::from_secs)
        .ok_or(Invalid::ReplaceAfter(text))
}

/// Whether it is a DNS label (RFC 1035) that leaves room for `-` and the longest node id.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 50
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner)
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(spec: &Value) -> Result<ClusterSpec, Invalid> {
        let cr = json!({
            "apiVersion": "pgraft.io/v1alpha1", "kind": "PgRaftCluster",
            "metadata": {"name": "demo", "namespace": "default", "uid": "u"}, "spec": spec,
        });
        validate(
            &serde_json::from_value(cr).unwrap(),
            &Defaults { image: "pgraft/postgres:test".into() },
        )
    }

    #[test]
    fn the_shortest_spec_gets_all_defaults() {
        let cluster = parse(&json!({"storage": {"size": "1Gi"}})).unwrap();
        assert_eq!(cluster.replicas, 3);
        assert_eq!(cluster.image.name, "pgraft/postgres:test");
        assert_eq!((cluster.database.as_str(), cluster.owner.as_str()), ("app", "app"));
        assert_eq!(cluster.storage.bytes, 1 << 30);
        assert_eq!(
            (cluster.heartbeat_interval.as_str(), cluster.election_timeout.as_str()),
            ("200ms", "1s")
        );
    }

    #[test]
    fn refuses_an_invalid_spec() {
        assert_eq!(
            parse(&json!({"replicas": 0, "storage": {"size": "1Gi"}})),
            Err(Invalid::Replicas { given: 0 })
        );
        assert_eq!(
            parse(&json!({"replicas": 65, "storage": {"size": "1Gi"}})),
            Err(Invalid::Replicas { given: 65 })
        );
        assert_eq!(parse(&json!({"storage": {"size": "lots"}})), Err(Invalid::Size("lots".into())));
        let gateway = |max: u32| {
            parse(&json!({"storage": {"size": "1Gi"}, "gateway": {"maxConnections": max}}))
                .map(|c| c.gateway_max_connections)
        };
        assert_eq!(gateway(100_000), Ok(100_000));
        assert_eq!(gateway(0), Err(Invalid::GatewayMaxConnections(0)));
        assert_eq!(gateway(100_001), Err(Invalid::GatewayMaxConnections(100_001)));
        let tls = |tls: Value| parse(&json!({"storage": {"size": "1Gi"}, "tls": tls}));
        assert_eq!(
            tls(json!({"certificateDuration": "90d"})),
            Err(Invalid::CertificateDuration("90d".into()))
        );
        assert_eq!(
            tls(json!({"certificateDuration": "8761h"})),
            Err(Invalid::CertificateDuration("8761h".into()))
        );
        assert_eq!(tls(json!({"caSecret": "demo-ca"})), Err(Invalid::CaSecret("demo-ca".into())));
        assert_eq!(tls(json!({"mode": "Disabled"})).unwrap().tls, None);
        assert_eq!(
            tls(json!({"caSecret": "mine"})).unwrap().tls.unwrap().ca_secret.as_deref(),
            Some("mine")
        );
        let spec = |failover: Value, target: &str| {
            parse(&json!({"storage": {"size": "1Gi"}, "failover": failover, "switchover": {"target": target}})).map(|c| c.switchover)
        };
        let on = || json!({"enabled": true});
        assert_eq!(spec(on(), "demo-3"), Ok(NodeId::new(3).ok()));
        assert_eq!(spec(json!({}), "demo-3"), Err(Invalid::SwitchoverWithoutFailover));
        for target in ["demo-", "demo-03", "demo-x-3", "other-3", "3", "demo-0"] {
            let refused =
                Invalid::SwitchoverTarget { target: target.into(), cluster: "demo".into() };
            assert_eq!(spec(on(), target), Err(refused));
        }
        let after = |text: &str| {
            parse(&json!({"storage": {"size": "1Gi"}, "failover": {"replaceAfter": text}}))
                .map(|c| c.replace_after.unwrap().as_secs())
        };
        assert_eq!((after("90s"), after("10m"), after("24h")), (Ok(90), Ok(600), Ok(86400)));
        for text in ["9s", "1d", "", "h", "9000h", "1.5h", "-1h"] {
            assert_eq!(after(text), Err(Invalid::ReplaceAfter(text.into())));
        }
        for name in ["PORT", "pgraft.node_id", "Synchronous_Standby_Names"] {
            let spec =
                json!({"storage": {"size": "1Gi"}, "postgresql": {"parameters": {name: "1"}}});
            // An object from before the CRD refused it: the instance manager ignores the parameter
            // and reports it.
            assert!(parse(&spec).is_ok(), "{name}");
        }
    }

    #[test]
    fn checks_the_name() {
        assert!(is_name("demo") && is_name("a") && is_name("a-1") && is_name(&"a".repeat(50)));
        assert!(
            !is_name("")
                && !is_name("1a")
                && !is_name("a-")
                && !is_name("a.b")
                && !is_name("A")
                && !is_name(&"a".repeat(51))
        );
    }
}
