//! What every object carries: name, labels, annotations, owner.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use std::collections::BTreeMap;

use crate::cluster::ClusterSpec;
use pgraft_api::cluster::{PgRaftCluster, RetentionPolicy};

/// Metadata of an object that goes with its PgRaftCluster. The operator's own labels win over
/// inherited ones.
pub fn metadata(
    want: &ClusterSpec,
    name: String,
    own_labels: BTreeMap<String, String>,
) -> ObjectMeta {
    let mut labels = want.inherited_labels.clone();
    labels.extend(own_labels);
    let annotations = want.inherited_annotations.clone();
    ObjectMeta {
        name: Some(name),
        namespace: Some(want.namespace.clone()),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![owner_reference(&want.name, &want.uid)]),
        ..ObjectMeta::default()
    }
}

/// Metadata of an object that stays when its PgRaftCluster goes, where the spec says so: without an
/// owner, and marked so that Argo CD and Flux prune it under no circumstances, whatever they take
/// it for.
pub fn lasting_metadata(
    want: &ClusterSpec,
    name: String,
    own_labels: BTreeMap<String, String>,
) -> ObjectMeta {
    let mut metadata = metadata(want, name, own_labels);
    if want.retention.when_deleted == RetentionPolicy::Retain {
        metadata.owner_references = None;
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.extend(KEPT.map(|(key, value)| (key.to_owned(), value.to_owned())));
        // Argo CD takes an object for a part of the application that this label names.
        metadata.labels.get_or_insert_default().remove("app.kubernetes.io/instance");
    }
    metadata
}

/// What keeps an object from being pruned.
const KEPT: [(&str, &str); 3] = [
    ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false"),
    ("argocd.argoproj.io/compare-options", "IgnoreExtraneous"),
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
];

/// The reference that makes an object go with its PgRaftCluster.
pub fn owner_reference(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: PgRaftCluster::api_version(&()).into_owned(),
        kind: PgRaftCluster::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
