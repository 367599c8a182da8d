//! What every pass shares: the client, the sessions, what is watched, what is remembered.

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use std::sync::Arc;

use super::memory::Memories;
use crate::cluster::members::sql::RaftGroup;
use crate::cluster::observe::cache::Cache;
use crate::cluster::validate::Defaults;
use crate::metrics::Metrics;
use pgraft_api::names::FIELD_MANAGER;

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
    /// What the watches have brought.
    pub cache: Arc<Cache>,
    /// What earlier passes have left.
    pub memories: Memories,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// A context with no memory yet.
    pub fn new(
        client: Client,
        raft: Arc<dyn RaftGroup>,
        defaults: Defaults,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            recorder,
            client,
            raft,
            defaults,
            cache: Arc::default(),
            memories: Memories::default(),
            metrics,
        }
    }
}
