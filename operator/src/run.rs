//! The process: who works, what is watched, and how passes are started.
//!
//! Only what carries the label `pgraft.io/cluster` is watched, and of Secrets only the metadata:
//! other people's are never even seen.

use futures::{Stream, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{PredicateConfig, WatchStreamExt, predicates};
use kube::{Api, Client, Resource, ResourceExt};
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::members::sessions::Sessions;
use crate::cluster::metrics::Clusters;
use crate::cluster::validate::Defaults;
use crate::cluster::{Context, Error, reconcile};
use crate::election::{Election, LeaseLocation};
use crate::http::{self, OperatorHttp};
use crate::metrics::{Metrics, counted};
use pgraft_api::cluster::PgRaftCluster;
use pgraft_api::names::LABEL_CLUSTER;

/// Passes at the same time. A pass waits for the network, hardly ever for the processor.
const CONCURRENCY: u16 = 32;
/// Objects in one answer to a list: what is read at the start is not in memory all at once.
const PAGE: u32 = 100;

/// How the operator is started.
#[derive(Debug, Clone)]
pub struct OperatorSettings {
    /// The one namespace to watch; None is all of them.
    pub namespace: Option<String>,
    /// Where the HTTP endpoints listen.
    pub listen: SocketAddr,
    /// The Lease that the one who works holds; None when there is but one operator.
    pub lease: Option<LeaseLocation>,
    /// What clusters get that say nothing.
    pub defaults: Defaults,
}

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// No way to the API server is configured.
    #[error("could not find the API server: {0}")]
    Config(#[source] kube::config::InferConfigError),
    /// The way that is configured is none.
    #[error("could not make a client for the API server: {0}")]
    NoApiServer(#[source] kube::Error),
    /// The CRD is not there, or may not be read.
    #[error(
        "could not list PgRaftClusters (is the CRD installed, and does the operator's role allow it?): {0}"
    )]
    NoCrd(#[source] kube::Error),
    /// The HTTP endpoints can't listen.
    #[error("could not listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Signals can't be handled.
    #[error("could not wait for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// Another replica has the Lease, or the API server did not answer in time.
    #[error("the Lease is lost: another replica goes on")]
    LeaseLost,
}

/// Works until SIGTERM, or until another replica works.
///
/// # Errors
/// [`Fatal`].
pub async fn run(settings: OperatorSettings) -> Result<(), Fatal> {
    let metrics = Metrics::new();
    raise_file_limit();
    let config = kube::Config::infer().await.map_err(Fatal::Config)?;
    let client = ClientBuilder::try_from(config)
        .map_err(Fatal::NoApiServer)?
        .with_layer(&counted(metrics.clone()))
        .build();
    let clusters: Api<PgRaftCluster> = api(&client, settings.namespace.as_deref());
    clusters.list(&ListParams::default().limit(1)).await.map_err(Fatal::NoCrd)?;
    let listener = http::listen(settings.listen)
        .await
        .map_err(|error| Fatal::Listen(settings.listen, error))?;
    let http = OperatorHttp { ready: Arc::default(), metrics: metrics.clone() };
    let context = Context::new(
        client,
        Arc::new(Sessions::counted(metrics.sessions())),
        settings.defaults.clone(),
        metrics,
    );
    http.ready.store(true, Ordering::Relaxed);
    tokio::select! {
        () = http::serve(listener, http) => Ok(()), // it serves for ever
        result = in_turn(&settings, Arc::new(context)) => result,
    }
}

/// As many sockets as the host allows: the soft limit of many hosts is 1024, for the sake of
/// programs that use select(2).
fn raise_file_limit() {
    let raise = |(soft, hard)| {
        if soft < hard { setrlimit(Limit::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    };
    let raised = getrlimit(Limit::RLIMIT_NOFILE).and_then(raise);
    if let Err(error) = raised {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Waits for the Lease, and works for as long as it holds.
async fn in_turn(settings: &OperatorSettings, context: Arc<Context>) -> Result<(), Fatal> {
    let Some(place) = settings.lease.clone() else {
        context.metrics.leading(true);
        work(settings, context).await;
        return Ok(());
    };
    let mut terminated = signal(SignalKind::terminate()).map_err(Fatal::Signals)?;
    tracing::info!(
        lease = place.name,
        namespace = place.namespace,
        me = place.me,
        "waiting for the Lease"
    );
    let mut election = Election::new(context.client.clone(), place);
    tokio::select! {
        () = election.won() => {}
        _ = terminated.recv() => return Ok(()),
    }
    context.metrics.leading(true);
    tokio::select! {
        () = work(settings, context) => {}
        () = election.lost() => return Err(Fatal::LeaseLost), // and with the process ends all that is under way
    }
    election.release().await;
    Ok(())
}

/// Watches and acts until SIGTERM; passes that are under way are finished.
async fn work(settings: &OperatorSettings, context: Arc<Context>) {
    let namespace = settings.namespace.as_deref();
    tracing::info!(
        namespace = namespace.unwrap_or("(all)"),
        version = env!("CARGO_PKG_VERSION"),
        "watching PgRaftClusters"
    );
    let (store, writer) = reflector::store();
    context.metrics.show(Clusters { store: store.clone(), context: context.clone() });
    let clusters = clusters(api(&context.client, namespace), writer, context.clone());
    Controller::for_stream(clusters, store)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(owned_objects(&context, namespace))
        .shutdown_on_signal()
        .run(reconcile, |cr, error, context| error_policy(&cr, error, &context), context)
        .for_each(|result| async {
            if let Err(error) = result {
                tracing::debug!(%error, "pass");
            }
        })
        .await;
}

/// The PgRaftClusters, once all else that is watched is there. A status is no news: it was written
/// here.
fn clusters(
    api: Api<PgRaftCluster>,
    writer: reflector::store::Writer<PgRaftCluster>,
    context: Arc<Context>,
) -> impl Stream<Item = Result<PgRaftCluster, watcher::Error>> + Send {
    let cache = context.cache.clone();
    let watched = watcher(api, watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(|cr| {
            cr.metadata.managed_fields = None;
            cr.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
        })
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(Event::Delete(cr)) = event {
                context.memories.forget(&cr.uid().unwrap_or_default());
            }
        })
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    stream::once(async move { cache.wait_until_synced().await })
        .flat_map(move |()| stream::empty())
        .chain(watched)
}

/// Everything else that belongs to clusters.
fn owned_objects(
    context: &Context,
    namespace: Option<&str>,
) -> impl Stream<Item = ObjectRef<PgRaftCluster>> + Send + use<> {
    let (cache, client) = (&context.cache, &context.client);
    let ours = || watcher::Config::default().labels(LABEL_CLUSTER).page_size(PAGE);
    stream::select_all([
        cache.pods(watcher(api::<Pod>(client, namespace), ours()).default_backoff()),
        cache.volumes(
            watcher(api::<PersistentVolumeClaim>(client, namespace), ours()).default_backoff(),
        ),
        cache.secrets(
            watcher(api::<PartialObjectMeta<Secret>>(client, namespace), ours()).default_backoff(),
        ),
        cache.config_maps(
            watcher(api::<PartialObjectMeta<ConfigMap>>(client, namespace), ours())
                .default_backoff(),
        ),
        cache.services(
            watcher(api::<PartialObjectMeta<Service>>(client, namespace), ours()).default_backoff(),
        ),
        cache.budgets(
            watcher(api::<PartialObjectMeta<PodDisruptionBudget>>(client, namespace), ours())
                .default_backoff(),
        ),
    ])
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

/// A pass that failed has said so; here it is only when to try again.
fn error_policy(cr: &PgRaftCluster, error: &Error, context: &Context) -> Action {
    let a_step_failed = context.memories.next_attempt(&cr.uid().unwrap_or_default()).is_some();
    Action::requeue(if a_step_failed { error.retry() } else { error.pause() })
}
