//! A member's pod, and on it the template that it was made from.

use k8s_openapi::api::core::v1::Pod;
use pgraft_core::NodeId;

use super::config_map::configuration_hash;
use super::metadata::metadata;
use super::pod_spec::spec;
use super::template::template;
use crate::cluster::ClusterSpec;
use pgraft_api::names;

/// The pod of a member. `bootstrap` makes the cluster, where the volume is empty. `configured`: the
/// ConfigMap is as the spec has it.
pub fn pod(want: &ClusterSpec, node: NodeId, bootstrap: bool, configured: bool) -> Pod {
    let mut labels = names::node_labels(&want.name, node);
    labels.insert(names::LABEL_SERVING.to_owned(), "true".to_owned());
    let mut metadata = metadata(want, names::pod(&want.name, node), labels);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(names::ANNOTATION_TEMPLATE.to_owned(), template(want).to_string());
    if configured {
        annotations.insert(names::ANNOTATION_CONFIGURATION.to_owned(), configuration_hash(want));
    } else {
        annotations.insert(names::ANNOTATION_OUTDATED.to_owned(), "true".to_owned());
    }
    Pod { metadata, spec: Some(spec(want, node, bootstrap)), status: None }
}
