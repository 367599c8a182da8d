//! A member's volume, of the same name as its pod.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pgraft_core::NodeId;
use std::collections::BTreeMap;

use super::metadata::lasting_metadata;
use crate::cluster::ClusterSpec;
use pgraft_api::names;

/// The volume of a member: as large as the spec has it, and no smaller than the largest one that is
/// there.
pub fn pvc(want: &ClusterSpec, node: NodeId, largest: u128) -> PersistentVolumeClaim {
    let size =
        if largest > want.storage.bytes { largest.to_string() } else { want.storage.size.clone() };
    let metadata =
        lasting_metadata(want, names::pod(&want.name, node), names::node_labels(&want.name, node));
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: want.storage.class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
