//! What every pass shares: the client, the sessions, and what was applied before.

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::sql::RaftGroup;
use crate::core::names::{FIELD_MANAGER, ObjectKey};
use crate::core::observed::ObjectSeen;
use crate::core::validate::Defaults;

/// What every pass shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The Raft groups.
    pub raft: Arc<dyn RaftGroup>,
    /// Events.
    pub recorder: Recorder,
    /// What the operator was started with.
    pub defaults: Defaults,
    applied: Mutex<BTreeMap<Id, Applied>>,
}

/// An object of one cluster (by the uid of its PgRaftCluster).
type Id = (String, ObjectKey);

/// What an object was made to look like, and the version that it had then.
#[derive(Debug, Clone)]
struct Applied {
    fingerprint: u64,
    version: String,
}

impl Context {
    /// A context with no memory yet.
    pub fn new(client: Client, raft: Arc<dyn RaftGroup>, defaults: Defaults) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: None };
        Self { recorder: Recorder::new(client.clone(), reporter), client, raft, defaults, applied: Mutex::default() }
    }

    /// Remembers an object that was applied.
    pub fn remember(&self, cluster_uid: &str, key: ObjectKey, fingerprint: u64, version: String) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.insert((cluster_uid.to_owned(), key), Applied { fingerprint, version });
    }

    /// What is known about an object of this version: as it was applied, unless somebody has changed it since.
    pub fn recall(&self, cluster_uid: &str, key: &ObjectKey, version: Option<&str>) -> ObjectSeen {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        match applied.get(&(cluster_uid.to_owned(), key.clone())) {
            Some(known) if Some(known.version.as_str()) == version => ObjectSeen::AsApplied(known.fingerprint),
            _ => ObjectSeen::Unknown,
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster_uid: &str) {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).retain(|(uid, _), _| uid != cluster_uid);
    }
}
