//! The Secrets with certificates. Keys come in as facts: nothing here is random.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use pgraft_core::NodeId;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::metadata::{lasting_metadata, metadata};
use crate::cluster::ClusterSpec;
use crate::cluster::certificates::Certificate;
use pgraft_api::names::{self, ANNOTATION_TRUSTED_SINCE, SecretKind};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    /// `tls.crt`.
    pub certificate: String,
    /// `tls.key`.
    pub key: String,
}

/// `<name>-ca`. It stays with the volumes when the PgRaftCluster goes and they stay: clients go on
/// trusting it.
pub fn ca_secret(want: &ClusterSpec, ca: &Pair) -> Secret {
    let metadata =
        lasting_metadata(want, SecretKind::Ca.name(&want.name), names::labels(&want.name));
    Secret { metadata, ..pair(ca, &ca.certificate) }
}

/// `<name>-<id>-tls`.
pub fn certificate_secret(
    want: &ClusterSpec,
    node: NodeId,
    issued: &Pair,
    trusted: &[Certificate],
    now: Timestamp,
) -> Secret {
    let mut metadata =
        metadata(want, names::certificate(&want.name, node), names::node_labels(&want.name, node));
    metadata
        .annotations
        .get_or_insert_default()
        .insert(ANNOTATION_TRUSTED_SINCE.to_owned(), now.to_string());
    Secret { metadata, ..pair(issued, &bundle(trusted)) }
}

/// Another `ca.crt` for a member's Secret, and since when.
pub fn trust_patch(trusted: &[Certificate], now: Timestamp) -> Value {
    json!({
        "metadata": { "annotations": { ANNOTATION_TRUSTED_SINCE: now.to_string() } },
        "data": { "ca.crt": ByteString(bundle(trusted).into_bytes()) },
    })
}

/// Another `ca.crt` for a client's Secret.
pub fn share_patch(trusted: &[Certificate]) -> Value {
    json!({ "data": { "ca.crt": ByteString(bundle(trusted).into_bytes()) } })
}

fn bundle(trusted: &[Certificate]) -> String {
    trusted.iter().map(Certificate::pem).collect()
}

fn pair(pair: &Pair, ca: &str) -> Secret {
    let fields = [("ca.crt", ca), ("tls.crt", &pair.certificate), ("tls.key", &pair.key)];
    let data: BTreeMap<String, ByteString> =
        fields.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).into();
    Secret { type_: Some("kubernetes.io/tls".into()), data: Some(data), ..Secret::default() }
}
