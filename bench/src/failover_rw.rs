//! How long no write through the Service `-rw` is acknowledged during a failover: three members on
//! the Kubernetes cluster of KUBECONFIG with the operator installed, and a client in a pod on
//! another host, with persistent connections or with a new one for each insert. Each fault is
//! undone before the next round.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use kube::{Client, Config};
use pgraft_e2e::cluster::KindCluster;
use pgraft_e2e::cut::NetworkCut;
use pgraft_e2e::data;
use pgraft_e2e::host_job::{HostJob, PAUSE, time_of};
use pgraft_e2e::primary_term::{
    KILL_SERVER, epoch, followed, in_pod, next_primary_term, place, primary,
};
use pgraft_e2e::writer::{self, Connections, LoadWriter, WriteOutcome};
use serde_json::json;

use crate::failure::BenchFailure;
use crate::stats::BenchSample;

const MEMBERS: [i32; 3] = [1, 2, 3];
/// How long a node is paused: longer than a failover takes, shorter than Kubernetes takes to
/// notice.
const PAUSED: Duration = Duration::from_secs(8);
/// The limit of a pause with its failover.
const TIMEOUT: Duration = Duration::from_mins(2);

#[derive(clap::Args)]
pub struct FailoverRwOptions {
    /// Rounds for each fault.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Faults to measure. Default: all.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<ClusterFault>,
    /// The number of connections of the client.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    connections: u8,
    /// Use a new connection for each insert, with the Secret's `uri` and no time limit except the
    /// driver's.
    #[arg(long)]
    new_connections: bool,
    /// Prints the result of each round.
    #[arg(long)]
    rounds_too: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClusterFault {
    /// The postmaster is killed.
    Killed,
    /// Every process of the primary's pod and its host's kubelet are stopped for 8 s.
    Paused,
    /// The primary is cut off from the other members, but not from its clients.
    CutOff,
    /// pgraft_switchover.
    Switchover,
}

impl ClusterFault {
    const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Killed => ("postmaster killed", "killed"),
            Self::Paused => ("primary's pod and kubelet paused", "paused"),
            Self::CutOff => ("primary cut off from the members", "cut-off"),
            Self::Switchover => ("switchover", "switchover"),
        }
    }
}

/// The times of a fault and of its end.
type Window = (i64, i64);

pub async fn run(options: &FailoverRwOptions) -> Result<(), BenchFailure> {
    let config = Config::infer().await.map_err(|e| BenchFailure::Program(e.to_string()))?;
    let client = Client::try_from(config).map_err(pgraft_e2e::failure::E2eFailure::from)?;
    let cluster =
        KindCluster::in_new_namespace(&client, &format!("bench-failover-{}", std::process::id()))
            .await?;
    let done = faults(&cluster, options).await;
    cluster.remove().await?;
    done
}

async fn faults(cluster: &KindCluster, options: &FailoverRwOptions) -> Result<(), BenchFailure> {
    cluster.create(3, &json!({ "failover": { "enabled": true } })).await?;
    data::write(cluster, primary(cluster, &MEMBERS).await?, 1).await?;
    let (connections, kind) = if options.new_connections {
        (Connections::New(options.connections), "writers with a new connection for each insert")
    } else {
        (Connections::Kept(options.connections), "connections")
    };
    println!(
        "3 members on Kubernetes, lease timeout 2 s, {} {kind} through -rw; from the last acknowledged write before the fault to the first one after it:",
        options.connections
    );
    for fault in
        if options.faults.is_empty() { ClusterFault::value_variants() } else { &options.faults }
    {
        let (label, row_label) = fault.labels();
        let writer =
            LoadWriter::begin(cluster, row_label, connections, &hosts(cluster).await?).await?;
        let mut windows = Vec::new();
        for round in 0..options.rounds {
            let window = once(*fault, cluster, &writer, round).await?;
            if options.rounds_too {
                println!(
                    "  {label} {}: {:?}",
                    round + 1,
                    writer::gap(writer.lately().iter(), window.0, window.1)
                );
            }
            windows.push(window);
        }
        writer.more(100).await?; // each writer that is not stuck has a row after the last round
        let written = writer.stop().await?;
        let lost = written.lost_on(cluster, primary(cluster, &MEMBERS).await?).await?;
        let all = windows.iter().map(|(after, before)| written.gap(*after, *before)).collect();
        println!("{}", BenchSample::new(all).row(label));
        let of = |which: i64| {
            written
                .rows
                .iter()
                .filter(move |row| row.number % i64::from(options.connections) == which)
        };
        let each = |which: i64| {
            windows.iter().map(move |(after, before)| writer::gap(of(which), *after, *before))
        };
        println!(
            "{}",
            BenchSample::new((0..i64::from(options.connections)).flat_map(each).collect())
                .row("    for each connection")
        );
        // A writer that still waits has no gap yet, so the rows above do not show it.
        let healed = windows.last().map_or(0, |window| window.1);
        let is_stuck = |which: &i64| {
            !of(*which).any(|row| row.outcome == WriteOutcome::Acknowledged && row.at > healed)
        };
        let stuck = (0..i64::from(options.connections)).filter(is_stuck).count();
        println!(
            "    writes: {}; {lost} acknowledged ones lost; {stuck} writers stuck",
            written.counts()
        );
    }
    Ok(())
}

/// Causes a fault in a complete cluster, and waits until writes are acknowledged again.
async fn once(
    fault: ClusterFault,
    cluster: &KindCluster,
    writer: &LoadWriter,
    round: usize,
) -> Result<Window, BenchFailure> {
    let old = primary(cluster, &MEMBERS).await?;
    followed(cluster, old, &MEMBERS).await?;
    // The usual state of a cluster: every node has run for longer than a lease timeout. A node that
    // has just started does not recruit for that time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, others) = (
        epoch(cluster, old).await?,
        MEMBERS.into_iter().filter(|id| *id != old).collect::<Vec<_>>(),
    );
    writer.more(100).await?;
    let at = now();
    match fault {
        ClusterFault::Killed => {
            in_pod(cluster, old, KILL_SERVER).await?;
            next_primary_term(cluster, before, &MEMBERS).await?;
        }
        ClusterFault::Switchover => {
            let target = others[round % others.len()];
            // Not on the old primary, whose sessions end.
            cluster
                .superuser(target)
                .await?
                .run(&format!("select pgraft_switchover({target})"))
                .await?;
            next_primary_term(cluster, before, &others).await?;
        }
        ClusterFault::CutOff => {
            let cut = NetworkCut::between(cluster, &[old], &others).await?;
            let primary_term = next_primary_term(cluster, before, &others).await;
            let more = writer.more(100).await;
            cut.heal().await?;
            primary_term?;
            more?;
        }
        ClusterFault::Paused => {
            return paused(cluster, writer, round, (old, before, &others)).await;
        }
    }
    writer.more(100).await?;
    Ok((at, now()))
}

async fn paused(
    cluster: &KindCluster,
    writer: &LoadWriter,
    round: usize,
    (old, before, others): (i32, i64, &[i32]),
) -> Result<Window, BenchFailure> {
    let (host, uid) = place(cluster, old).await?;
    let env = [("UID_OF_POD", uid), ("SECONDS_LONG", PAUSED.as_secs().to_string())];
    let host_job = HostJob::begin(cluster, &host, &format!("pause-{round}"), PAUSE, &env).await?;
    let primary_term = next_primary_term(cluster, before, others).await;
    let at = time_of(&host_job.ended(TIMEOUT).await?, "paused")?;
    primary_term?;
    writer.more(100).await?;
    Ok((at, now()))
}

async fn hosts(cluster: &KindCluster) -> Result<Vec<String>, BenchFailure> {
    let mut hosts = Vec::new();
    for node in MEMBERS {
        hosts.push(place(cluster, node).await?.0);
    }
    Ok(hosts)
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}
