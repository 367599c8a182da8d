//! The operator with many idle clusters: its memory, its processor time and its API calls.
//!
//! The operator's process is real: a release build with its watches, its SQL sessions over TCP and
//! its Lease. These are simulated in this process: the API server (HTTP/1.1 without TLS, with paged
//! lists and watches, which accepts everything), the kubelet (a pod is ready as soon as it is
//! created) and Postgres (every pod's address answers the operator's statements only, and an added
//! node is a voter at once). The operator creates the clusters from PgRaftClusters.

mod api;
mod members;
mod process;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

use crate::failure::BenchFailure;
use api::Api;
use members::Members;
use process::Operator;

#[derive(clap::Args)]
pub struct OperatorOptions {
    /// Numbers of clusters. Each is a separate run.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    clusters: Vec<usize>,
    /// How long an idle operator is measured.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The lag of followers changes with every query, as under load.
    #[arg(long)]
    busy: bool,
    /// The operator's binary. Default: in the directory of this one.
    #[arg(long)]
    operator: Option<PathBuf>,
}

/// Creating a thousand clusters takes thousands of passes.
const TIMEOUT: Duration = Duration::from_mins(30);

/// # Errors
/// If the operator does not start, or the clusters do not become ready.
pub async fn run(options: &OperatorOptions) -> Result<(), BenchFailure> {
    let binary = match &options.operator {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .map_err(BenchFailure::io("finding this binary"))?
            .with_file_name("pgraft-operator"),
    };
    let members = Members::listen(options.busy)?;
    for &clusters in &options.clusters {
        println!("\n{clusters} clusters of 3{}", if options.busy { ", changing lag" } else { "" });
        let api = Api::serve(members.clone()).await?;
        for n in 0..clusters {
            api.add_cluster(n);
        }
        let begun = Instant::now();
        let operator = Operator::start(&binary, api.port())?;
        ready(&api, &operator, clusters).await?;
        println!(
            "created after {:.1} s with {} API calls; peak RSS {}",
            begun.elapsed().as_secs_f64(),
            api.take_calls().total(),
            operator.peak()?
        );
        idle(options, clusters, &api, &members, &operator).await?;
        operator.stop().await?;

        api.take_calls();
        let operator = Operator::start(&binary, api.port())?;
        println!("a new operator for the same clusters:");
        quiet(&api, &operator).await?;
        println!(
            "  idle after {} API calls; peak RSS {}",
            api.take_calls().total(),
            operator.peak()?
        );
        idle(options, clusters, &api, &members, &operator).await?;
        operator.stop().await?;
        members.clear();
    }
    Ok(())
}

async fn ready(api: &Arc<Api>, operator: &Operator, clusters: usize) -> Result<(), BenchFailure> {
    let begun = Instant::now();
    loop {
        operator.is_alive()?;
        let ready = api.ready_clusters();
        if ready == clusters {
            return Ok(());
        }
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline {
                what: format!("all clusters to become ready; {ready} of {clusters} are"),
                limit: TIMEOUT,
            });
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the operator has written nothing for ten seconds.
async fn quiet(api: &Arc<Api>, operator: &Operator) -> Result<(), BenchFailure> {
    let begun = Instant::now();
    loop {
        let before = api.writes();
        sleep(Duration::from_secs(10)).await; // the period without writes
        operator.is_alive()?;
        if before > 0 && api.writes() == before {
            return Ok(());
        }
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline {
                what: "the operator to become idle".into(),
                limit: TIMEOUT,
            });
        }
    }
}

async fn idle(
    options: &OperatorOptions,
    clusters: usize,
    api: &Arc<Api>,
    members: &Arc<Members>,
    operator: &Operator,
) -> Result<(), BenchFailure> {
    if !options.busy {
        quiet(api, operator).await?;
    }
    api.take_calls();
    members.take_observations();
    let (cpu, begun) = (operator.cpu()?, Instant::now());
    sleep(Duration::from_secs(options.seconds)).await; // the measured time
    let seconds = begun.elapsed().as_secs_f64();
    let busy = operator.cpu()?.saturating_sub(cpu).as_secs_f64();
    let calls = api.take_calls();
    #[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
    let per_second = |count: u64| count as f64 / seconds;
    let memory = operator.memory()?;
    #[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
    let each = per_second(calls.about_clusters()) / clusters as f64;
    println!(
        "  {} RSS, {} PSS; {:.1} % of a core; {} sessions",
        memory.rss,
        memory.pss,
        100.0 * busy / seconds,
        members.sessions()
    );
    println!(
        "  API calls in {seconds:.0} s: {} about clusters ({each:.4}/s a cluster), {} for the Lease{}; {:.1} SQL observations/s",
        calls.about_clusters(),
        calls.total() - calls.about_clusters(),
        calls.list(),
        per_second(members.take_observations()),
    );
    Ok(())
}
