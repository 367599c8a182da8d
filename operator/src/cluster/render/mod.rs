//! What the API server is given, one file a resource. Pure: the same cluster is rendered to the
//! same bytes.
//!
//! Services, ConfigMaps and PodDisruptionBudget are kept as rendered ([`objects`]). Pods, volumes
//! and Secrets are made once: a pod's spec can't change, a volume's and a Secret's must not.

mod certificates;
mod config_map;
mod metadata;
mod pdb;
mod places;
mod pod;
mod pod_spec;
mod pvc;
mod secrets;
mod services;
mod template;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::hash::{DefaultHasher, Hash, Hasher};

pub use certificates::{Pair, ca_secret, certificate_secret, share_patch, trust_patch};
pub use config_map::{SPEC_FILE, configuration_hash};
pub use metadata::owner_reference;
pub use pod::pod;
pub use pvc::pvc;
pub use secrets::{OPERATOR_PASSWORD, Passwords, secret};
pub use template::{Template, template};

use super::ClusterSpec;
use pgraft_api::names::{ObjectKey, ObjectKind};

/// An object that is kept as rendered.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A ConfigMap.
    ConfigMap(ConfigMap),
    /// A Service.
    Service(Box<Service>),
    /// A PodDisruptionBudget.
    PodDisruptionBudget(PodDisruptionBudget),
}

impl Object {
    /// Which one it is.
    pub fn key(&self) -> ObjectKey {
        let (kind, metadata) = match self {
            Self::ConfigMap(o) => (ObjectKind::ConfigMap, &o.metadata),
            Self::Service(o) => (ObjectKind::Service, &o.metadata),
            Self::PodDisruptionBudget(o) => (ObjectKind::PodDisruptionBudget, &o.metadata),
        };
        ObjectKey { kind, name: metadata.name.clone().unwrap_or_default() }
    }

    /// Two renderings with the same fingerprint are the same. For this process only: it is written
    /// nowhere.
    pub fn fingerprint(&self) -> u64 {
        let text = match self {
            Self::ConfigMap(o) => serde_json::to_string(o),
            Self::Service(o) => serde_json::to_string(o),
            Self::PodDisruptionBudget(o) => serde_json::to_string(o),
        };
        let mut hasher = DefaultHasher::new();
        text.unwrap_or_default().hash(&mut hasher);
        hasher.finish()
    }
}

/// All objects that are kept as rendered. `members` is how many the group has; 0 while nobody
/// knows.
pub fn objects(want: &ClusterSpec, members: usize) -> Vec<Object> {
    let services =
        services::services(want).into_iter().map(|service| Object::Service(Box::new(service)));
    let config =
        [config_map::config_map(want), config_map::accepted_spec(want)].map(Object::ConfigMap);
    config
        .into_iter()
        .chain([Object::PodDisruptionBudget(pdb::pdb(want, members))])
        .chain(services)
        .collect()
}

#[cfg(test)]
mod tests;
