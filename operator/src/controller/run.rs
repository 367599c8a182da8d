//! The process: what is watched, and how passes are started.
//!
//! Only what carries the label `pgraft.io/cluster` is watched, so that other people's Secrets are never even seen.

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::health::{self, Ready};
use super::sql::Sessions;
use super::{Context, Error, reconcile};
use crate::api::PgRaftCluster;
use crate::core::names::LABEL_CLUSTER;
use crate::core::validate::Defaults;

/// Passes at the same time. A pass waits for the network, hardly ever for the processor.
const CONCURRENCY: u16 = 32;

/// How the operator is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The one namespace to watch; None is all of them.
    pub namespace: Option<String>,
    /// Where the health endpoints listen.
    pub health: SocketAddr,
    /// What clusters get that say nothing.
    pub defaults: Defaults,
}

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// No way to the API server is configured.
    #[error("could not find the API server: {0}")]
    NoApiServer(#[source] kube::Error),
    /// The CRD is not there, or may not be read.
    #[error("could not list PgRaftClusters (is the CRD installed, and does the operator's role allow it?): {0}")]
    NoCrd(#[source] kube::Error),
    /// The health endpoints can't listen.
    #[error("could not listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Works until SIGTERM.
///
/// # Errors
/// [`Fatal`], all of them at the start.
pub async fn run(settings: Settings) -> Result<(), Fatal> {
    let Settings { namespace, health, defaults } = settings;
    let client = Client::try_default().await.map_err(Fatal::NoApiServer)?;
    let clusters: Api<PgRaftCluster> = api(&client, namespace.as_deref());
    clusters.list(&ListParams::default().limit(1)).await.map_err(Fatal::NoCrd)?;
    let ready = Ready::default();
    let listening = health::serve(health, ready.clone());
    let context = Arc::new(Context::new(client.clone(), Arc::new(Sessions::default()), defaults));
    let passes = controller(&client, clusters, namespace.as_deref()).run(reconcile, error_policy, context).for_each(|result| async {
        if let Err(error) = result {
            tracing::debug!(%error, "pass");
        }
    });
    tracing::info!(namespace = namespace.as_deref().unwrap_or("(all)"), version = env!("CARGO_PKG_VERSION"), "watching PgRaftClusters");
    ready.store(true, Ordering::Relaxed);
    tokio::select! {
        result = listening => result.map_err(|error| Fatal::Listen(health, error)),
        () = passes => Ok(()),
    }
}

fn controller(client: &Client, clusters: Api<PgRaftCluster>, namespace: Option<&str>) -> Controller<PgRaftCluster> {
    let ours = || watcher::Config::default().labels(LABEL_CLUSTER);
    Controller::new(clusters, watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches(api::<Pod>(client, namespace), ours(), |o| cluster_of(&o))
        .watches(api::<PersistentVolumeClaim>(client, namespace), ours(), |o| cluster_of(&o))
        .watches(api::<Service>(client, namespace), ours(), |o| cluster_of(&o))
        .watches(api::<Secret>(client, namespace), ours(), |o| cluster_of(&o))
        .watches(api::<ConfigMap>(client, namespace), ours(), |o| cluster_of(&o))
        .watches(api::<PodDisruptionBudget>(client, namespace), ours(), |o| cluster_of(&o))
        .shutdown_on_signal()
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// By label, since a volume that stays has no owner.
fn cluster_of<K: Resource<DynamicType = ()>>(object: &K) -> Option<ObjectRef<PgRaftCluster>> {
    let name = object.labels().get(LABEL_CLUSTER)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// A pass that failed has said so in the status and in an Event; here it is only when to try again.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn error_policy(cr: Arc<PgRaftCluster>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(cluster = cr.name_any(), namespace = cr.namespace(), reason = error.reason(), %error, "pass failed");
    Action::requeue(error.retry())
}
