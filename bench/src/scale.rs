//! The steps from `kubectl scale` to a streaming voter, on the Kubernetes cluster of KUBECONFIG
//! with the operator installed.
//!
//! ```text
//!  kubectl scale ▸ volume claimed ▸ pod created ▸ volume bound ▸ scheduled ▸ container runs ▸ ready ▸ member ▸ voter ▸ streaming
//! ```
//!
//! Each time is that at which this process observed the step: objects by a watch, SQL by a query
//! every few milliseconds over open connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use pgraft_e2e::cluster::{KindCluster, is_ready, pod_name};
use pgraft_e2e::sql::SqlSession;
use serde_json::json;

use crate::failure::BenchFailure;
use crate::stats::BenchSample;

/// Between two queries to the members.
const INTERVAL: Duration = Duration::from_millis(10);
/// The limit of a round.
const TIMEOUT: Duration = Duration::from_mins(3);

#[derive(clap::Args)]
pub struct ScaleOptions {
    /// How often to scale from 3 to 4 and back.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Prints the log of each new node.
    #[arg(long)]
    logs: bool,
}

/// The steps, in their usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Claimed,
    PodMade,
    Bound,
    Scheduled,
    Runs,
    Ready,
    Member,
    Voter,
    Streaming,
}

impl Moment {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Claimed, "the volume is claimed"),
        (Self::PodMade, "the pod is created"),
        (Self::Bound, "the volume is bound (by the provisioner)"),
        (Self::Scheduled, "the pod is scheduled"),
        (Self::Runs, "its container is running"),
        (Self::Ready, "the pod is ready: cloned, and Postgres answers"),
        (Self::Member, "the node is a member"),
        (Self::Voter, "the node is a voter"),
        (Self::Streaming, "the node is a streaming voter"),
    ];
}

/// The time at which each step was first observed.
type Moments = Arc<Mutex<BTreeMap<Moment, Instant>>>;

fn note(moments: &Moments, moment: Moment) {
    moments
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(moment)
        .or_insert_with(Instant::now);
}

pub async fn run(options: &ScaleOptions) -> Result<(), BenchFailure> {
    let client =
        Client::try_from(Config::infer().await.map_err(|e| BenchFailure::Program(e.to_string()))?)
            .map_err(pgraft_e2e::failure::E2eFailure::from)?;
    let cluster =
        KindCluster::in_new_namespace(&client, &format!("bench-scale-{}", std::process::id()))
            .await?;
    let done = rounds(&client, &cluster, options).await;
    cluster.remove().await?;
    let rounds = done?;
    for (moment, name) in Moment::ALL {
        let times = rounds
            .iter()
            .filter_map(|(begun, moments)| moments.get(&moment).map(|at| *at - *begun))
            .collect();
        println!("{}", BenchSample::new(times).row(&format!("since kubectl scale: {name}")));
    }
    Ok(())
}

async fn rounds(
    client: &Client,
    cluster: &KindCluster,
    options: &ScaleOptions,
) -> Result<Vec<(Instant, BTreeMap<Moment, Instant>)>, BenchFailure> {
    cluster.create(3, &json!({})).await?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let node = 4 + i32::try_from(round).unwrap_or(0); // ids are never reused
        rounds.push(grow(client, cluster, node).await?);
        cluster.settled(4).await?;
        if options.logs {
            let (begun, _) = &rounds[round];
            print_log(cluster, node, *begun).await?;
        }
        cluster.scale(3).await?;
        cluster.settled(3).await?;
    }
    Ok(rounds)
}

/// Scales from 3 to 4, and observes the steps.
async fn grow(
    client: &Client,
    cluster: &KindCluster,
    node: i32,
) -> Result<(Instant, BTreeMap<Moment, Instant>), BenchFailure> {
    let moments = Moments::default();
    let leader = cluster.superuser(cluster.leader(1).await?).await?;
    let primary = cluster.superuser(1).await?;
    let (pods, claims) = (cluster.pod_api(), Api::namespaced(client.clone(), &cluster.namespace));
    let objects = async {
        futures::try_join!(watch_pod(pods, node, &moments), watch_claim(claims, node, &moments))
    };
    let mut begun = Instant::now();
    let work = async {
        begun = Instant::now();
        cluster.scale(4).await?;
        observe_members(&leader, &primary, node, &moments).await
    };
    tokio::select! {
        done = tokio::time::timeout(TIMEOUT, work) => done.map_err(|_| BenchFailure::Deadline { what: "a streaming voter".into(), limit: TIMEOUT })??,
        ended = objects => return Err(ended.err().unwrap_or_else(|| BenchFailure::Wrong("a watch ended".into()))),
    }
    let seen = moments.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((begun, seen))
}

async fn watch_pod(pods: Api<Pod>, node: i32, moments: &Moments) -> Result<(), BenchFailure> {
    let only = watcher::Config::default().fields(&format!("metadata.name={}", pod_name(node)));
    let observe = |pod: Pod| {
        note(moments, Moment::PodMade);
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            note(moments, Moment::Scheduled);
        }
        let containers =
            pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
        if containers.iter().any(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()))
        {
            note(moments, Moment::Runs);
        }
        if is_ready(&pod) {
            note(moments, Moment::Ready);
        }
        std::future::ready(Ok(()))
    };
    watcher(pods, only)
        .applied_objects()
        .try_for_each(observe)
        .await
        .map_err(|e| BenchFailure::Program(e.to_string()))
}

async fn watch_claim(
    claims: Api<PersistentVolumeClaim>,
    node: i32,
    moments: &Moments,
) -> Result<(), BenchFailure> {
    let only = watcher::Config::default().fields(&format!("metadata.name={}", pod_name(node)));
    let observe = |claim: PersistentVolumeClaim| {
        note(moments, Moment::Claimed);
        if claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound")) {
            note(moments, Moment::Bound);
        }
        std::future::ready(Ok(()))
    };
    watcher(claims, only)
        .applied_objects()
        .try_for_each(observe)
        .await
        .map_err(|e| BenchFailure::Program(e.to_string()))
}

/// Queries the leader and the primary until the new node is a voter and streams.
async fn observe_members(
    leader: &SqlSession,
    primary: &SqlSession,
    node: i32,
    moments: &Moments,
) -> Result<(), BenchFailure> {
    let name = format!("pgraft_{node}");
    let (mut votes, mut streams) = (false, false);
    while !(votes && streams) {
        let rows =
            leader.rows("select role from pgraft_members where node_id = $1", &[&node]).await?;
        if let Some(row) = rows.first() {
            note(moments, Moment::Member);
            votes = row.get::<_, String>(0) == "voter";
        }
        if votes {
            note(moments, Moment::Voter);
        }
        streams = primary
            .value("select exists (select from pg_stat_replication where state = 'streaming' and application_name = $1)", &[&name])
            .await?;
        tokio::time::sleep(INTERVAL).await;
    }
    note(moments, Moment::Streaming);
    Ok(())
}

/// Prints the log of the new node.
async fn print_log(cluster: &KindCluster, node: i32, begun: Instant) -> Result<(), BenchFailure> {
    let parameters = kube::api::LogParams { timestamps: true, ..kube::api::LogParams::default() };
    let log = cluster
        .pod_api()
        .logs(&pod_name(node), &parameters)
        .await
        .map_err(pgraft_e2e::failure::E2eFailure::from)?;
    let since = begun.elapsed();
    let now = std::time::SystemTime::now();
    let scaled =
        now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().saturating_sub(since);
    println!(
        "log of {}; kubectl scale was at {:.3} s since the epoch:\n{log}",
        pod_name(node),
        scaled.as_secs_f64()
    );
    Ok(())
}
