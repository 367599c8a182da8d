//! The operator with many idle clusters: its memory, its processor time, and what it asks of the
//! API server.
//!
//! Real: the operator's process, in a release build, with its watches, its SQL sessions over TCP,
//! its Lease. Not real: the API server (HTTP/1.1 without TLS, in this process; it keeps objects,
//! answers lists page by page and watches, and never says no), the kubelet (a pod is ready as soon
//! as it is made), and Postgres (every pod's address answers the operator's statements and nothing
//! else; a node that is added votes at once). The clusters are made by the operator itself, from
//! PgRaftClusters alone.

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

/// What can be chosen.
#[derive(clap::Args)]
pub struct OperatorOptions {
    /// How many clusters, one run each.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    clusters: Vec<usize>,
    /// How long an idle operator is watched.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The lag of a follower is another one at every look, as under load.
    #[arg(long)]
    busy: bool,
    /// The operator's binary; beside this one when it is not named.
    #[arg(long)]
    operator: Option<PathBuf>,
}

/// Making a thousand clusters is thousands of passes.
const TIMEOUT: Duration = Duration::from_mins(30);

/// # Errors
/// When the operator does not start, or the clusters do not become ready.
pub async fn run(options: &OperatorOptions) -> Result<(), BenchFailure> {
    let binary = match &options.operator {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .map_err(BenchFailure::io("finding this binary"))?
            .with_file_name("pgraft-operator"),
    };
    let members = Members::listen(options.busy)?;
    for &clusters in &options.clusters {
        println!("\n{clusters} clusters of 3{}", if options.busy { ", lag moving" } else { "" });
        let api = Api::serve(members.clone()).await?;
        for n in 0..clusters {
            api.add_cluster(n);
        }
        let begun = Instant::now();
        let operator = Operator::start(&binary, api.port())?;
        ready(&api, &operator, clusters).await?;
        println!(
            "made after {:.1} s, {} API calls; at most {} RSS",
            begun.elapsed().as_secs_f64(),
            api.take_calls().total(),
            operator.peak()?
        );
        idle(options, clusters, &api, &members, &operator).await?;
        operator.stop().await?;

        api.take_calls();
        let operator = Operator::start(&binary, api.port())?;
        println!("a new operator over them:");
        quiet(&api, &operator).await?;
        println!(
            "  at rest after {} API calls; at most {} RSS",
            api.take_calls().total(),
            operator.peak()?
        );
        idle(options, clusters, &api, &members, &operator).await?;
        operator.stop().await?;
        members.forget();
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
                what: format!("{ready} of {clusters} clusters are ready"),
                limit: TIMEOUT,
            });
        }
        sleep(Duration::from_millis(100)).await; // between two looks
    }
}

/// Until nothing was written for ten seconds.
async fn quiet(api: &Arc<Api>, operator: &Operator) -> Result<(), BenchFailure> {
    let begun = Instant::now();
    loop {
        let before = api.writes();
        sleep(Duration::from_secs(10)).await; // what is waited for is that nothing happens
        operator.is_alive()?;
        if before > 0 && api.writes() == before {
            return Ok(());
        }
        if begun.elapsed() > TIMEOUT {
            return Err(BenchFailure::Deadline {
                what: "the operator is at rest".into(),
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
    members.take_asked();
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
        "  API calls in {seconds:.0} s: {} about clusters ({each:.4}/s a cluster), {} for the Lease{}; {:.1} SQL looks/s",
        calls.about_clusters(),
        calls.total() - calls.about_clusters(),
        calls.list(),
        per_second(members.take_asked()),
    );
    Ok(())
}
