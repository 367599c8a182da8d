//! The metadata of an object, as far as the operator uses it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use pgraft_api::names::{self, FIELD_MANAGER};

/// What every object has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFact {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Moves when somebody changes it.
    pub version: String,
    /// Whether somebody has deleted it.
    pub deleted: bool,
    /// The identities of its owners.
    pub owners: Vec<String>,
    /// Whether it carries the mark of this operator.
    pub marked: bool,
}

impl ObjectFact {
    /// Of any object's metadata. The version of a pod or volume is left out: its status moves it
    /// all the time, and what matters of that is in the fact.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            version: String::new(),
            deleted: metadata.deletion_timestamp.is_some(),
            owners: metadata
                .owner_references
                .iter()
                .flatten()
                .map(|owner| owner.uid.clone())
                .collect(),
            marked: label(metadata, names::LABEL_MANAGED_BY) == Some(FIELD_MANAGER),
        }
    }

    /// Whether it belongs to the PgRaftCluster of this identity, or to none and was made by this
    /// operator (what is retained has no owner, and what a backup brings back has neither). The
    /// label with the cluster's name alone is no proof: anybody may have copied it.
    pub fn belongs_to(&self, cluster_uid: &str) -> bool {
        if self.owners.is_empty() {
            self.marked
        } else {
            self.owners.iter().any(|owner| owner == cluster_uid)
        }
    }

    /// Of an object of which only the metadata was asked for.
    pub fn of_metadata<K>(object: &PartialObjectMeta<K>) -> Self {
        Self {
            version: version(&object.metadata).unwrap_or_default(),
            ..Self::of(&object.metadata)
        }
    }
}

/// What moves when somebody changes the object. Where Kubernetes counts generations, its own writes
/// to the status do not move it.
pub fn version(metadata: &ObjectMeta) -> Option<String> {
    metadata.generation.map(|n| n.to_string()).or_else(|| metadata.resource_version.clone())
}

/// The value of a label.
pub fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}
