//! What users and the API server see, as snapshots.

use serde_json::json;

use super::*;
use crate::cluster::ClusterSpec;
use crate::cluster::fixtures::{id, parsed, wanted};
use pgraft_api::names::SecretKind;

fn rich() -> ClusterSpec {
    parsed(&json!({
        "replicas": 5,
        "image": "registry.example/pg:1",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "pull"}],
        "postgresql": {"parameters": {"work_mem": "8MB"}, "pg_hba": ["host all all 10.0.0.0/8 scram-sha-256"]},
        "storage": {"size": "10Gi", "storageClass": "fast"},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}},
        "tolerations": [{"key": "db", "operator": "Exists"}],
        "nodeSelector": {"disk": "ssd"},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "bootstrap": {"initdb": {"database": "shop", "owner": "shopkeeper"}},
        "enableSuperuserAccess": true,
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Delete"},
        "raft": {"heartbeatInterval": "50ms", "electionTimeout": "500ms"},
        "gateway": {"maxConnections": 5000},
        "inheritedMetadata": {"labels": {"team": "data", "pgraft.io/cluster": "not-this"}, "annotations": {"note": "hello"}}
    }))
}

#[test]
fn pods() {
    insta::assert_yaml_snapshot!("pod_of_the_bootstrap_node", pod(&wanted(3), id(1), true, true));
    insta::assert_yaml_snapshot!("pod_with_everything", pod(&rich(), id(4), false, true));
}

#[test]
fn volumes() {
    insta::assert_yaml_snapshot!("volume", pvc(&wanted(3), id(1), 0));
    insta::assert_yaml_snapshot!("volume_with_everything", pvc(&rich(), id(4), 0));
}

#[test]
fn kept_objects() {
    for object in objects(&rich(), 5) {
        let name = format!("{:?}_{}", object.key().kind, object.key().name).to_lowercase();
        match &object {
            Object::ConfigMap(o) => insta::assert_yaml_snapshot!(name, o),
            Object::Service(o) => insta::assert_yaml_snapshot!(name, o),
            Object::PodDisruptionBudget(o) => insta::assert_yaml_snapshot!(name, o),
        }
    }
}

#[test]
fn a_read_write_service_that_the_operator_points_to_the_primary() {
    let want = parsed(
        &json!({"replicas": 3, "storage": {"size": "10Gi"}, "services": {"readWrite": "Direct"}}),
    );
    let rw = objects(&want, 3)
        .into_iter()
        .find_map(|o| if let Object::Service(s) = o { Some(s) } else { None })
        .unwrap();
    insta::assert_yaml_snapshot!("service_direct", rw.spec);
}

#[test]
fn secrets_in_words_that_people_know() {
    let passwords = Passwords(["secret1".into(), "secret2".into()]);
    for kind in [SecretKind::Internal, SecretKind::App, SecretKind::Superuser] {
        insta::assert_yaml_snapshot!(
            format!("secret_{kind:?}").to_lowercase(),
            secret(&rich(), kind, &passwords)
        );
    }
    assert!(
        secret(&wanted(1), SecretKind::App, &passwords).metadata.owner_references.is_none(),
        "it stays with the volumes"
    );
}

#[test]
fn the_instance_manager_reads_what_is_rendered() {
    let Object::ConfigMap(map) = &objects(&rich(), 0)[0] else {
        panic!("the ConfigMap is the first")
    };
    let yaml = &map.data.as_ref().unwrap()["instance.yaml"];
    let config: pgraft_core::instance_config::InstanceConfig =
        serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(config.bootstrap.owner, "shopkeeper");
    assert_eq!(config.postgresql.parameters["work_mem"], "8MB");
}

#[test]
fn the_fingerprint_moves_with_every_change() {
    let print = |want: &ClusterSpec, members| {
        objects(want, members).iter().map(Object::fingerprint).collect::<Vec<_>>()
    };
    let base = wanted(3);
    assert_eq!(print(&base, 3), print(&base.clone(), 3));
    assert_ne!(print(&base, 3), print(&base, 5));
    let mut other = base.clone();
    other.parameters.insert("work_mem".into(), "1MB".into());
    assert_ne!(print(&base, 3), print(&other, 3));
}

/// By their documented rules: Argo CD takes an object for its own by the label
/// `app.kubernetes.io/instance` or its tracking annotation, and Flux by the labels that it sets
/// itself; neither deletes what is marked, and neither deletes what has an owner.
#[test]
fn what_is_retained_is_not_pruned() {
    let (want, passwords) = (wanted(1), Passwords(["secret1".into(), "secret2".into()]));
    let ca = Pair { certificate: String::new(), key: String::new() };
    let mut kept = vec![pvc(&want, id(1), 0).metadata, ca_secret(&want, &ca).metadata];
    kept.extend(
        [SecretKind::Internal, SecretKind::App, SecretKind::Superuser]
            .map(|kind| secret(&want, kind, &passwords).metadata),
    );
    for metadata in kept {
        let (labels, annotations) = (metadata.labels.unwrap(), metadata.annotations.unwrap());
        assert!(metadata.owner_references.is_none());
        assert!(
            !labels.contains_key("app.kubernetes.io/instance")
                && !labels.contains_key("kustomize.toolkit.fluxcd.io/name")
        );
        assert!(!annotations.contains_key("argocd.argoproj.io/tracking-id"));
        let options: Vec<&str> =
            annotations["argocd.argoproj.io/sync-options"].split(',').collect();
        assert_eq!(options, ["Prune=false", "Delete=false"]);
        assert_eq!(annotations["argocd.argoproj.io/compare-options"], "IgnoreExtraneous");
        assert_eq!(annotations["kustomize.toolkit.fluxcd.io/prune"], "disabled");
    }
    for object in objects(&want, 1) {
        let metadata = match object {
            Object::ConfigMap(o) => o.metadata,
            Object::Service(o) => o.metadata,
            Object::PodDisruptionBudget(o) => o.metadata,
        };
        assert_eq!(
            metadata.owner_references.map(|owners| owners.len()),
            Some(1),
            "it has an owner, and goes with it"
        );
    }
}
