//! What a pass knows of a cluster's Secrets from the one before it.

use jiff::Timestamp;
use pgraft_core::NodeId;
use std::collections::BTreeMap;

use crate::cluster::certificates::{CaTrouble, Certificate, NodeCertificate};
use pgraft_api::names::SecretKind;

/// What is remembered of one cluster's Secrets, each with the version that it had.
#[derive(Debug, Default)]
pub struct Remembered {
    pub(super) ca: Option<(String, Timestamp, Result<Certificate, CaTrouble>)>,
    pub(super) nodes: BTreeMap<NodeId, (String, Option<NodeCertificate>)>,
    pub(super) shared: BTreeMap<SecretKind, (String, Vec<Certificate>)>,
}
