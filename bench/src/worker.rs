//! Memory and processor time of an idle background worker, on the leader and on its followers; with
//! failover, of the instance manager with its gateway too.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use pgraft_testkit::cluster::{cluster_of, complete, primary};
use pgraft_testkit::{Nodes, child_of};

use crate::failure::BenchFailure;
use crate::machine::field;
use crate::servers::{bin_directory, cluster};
use pgraft_testkit::postgres::scratch_in;
use pgraft_testkit::server::TestServer;

#[derive(clap::Args)]
pub struct WorkerOptions {
    /// The directory in which the servers' directories are created.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// How long the idle servers are measured.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Measure servers with failover and instance managers. Their directories are temporary ones.
    #[arg(long)]
    failover: bool,
}

pub async fn run(options: &WorkerOptions) -> Result<(), BenchFailure> {
    if options.failover {
        let nodes = cluster_of(Nodes::new(&bin_directory()?, 3)).await;
        complete(&nodes).await;
        return watch(&processes(&nodes).await?, options.seconds).await;
    }
    let dir = scratch_in(&options.dir);
    let servers = cluster(dir.path(), 3).await?;
    let mut workers = Vec::new();
    for server in &servers {
        let missing = || BenchFailure::Wrong(format!("node {} has no worker", server.id));
        workers.push((name(server).await, server.worker().ok_or_else(missing)?));
    }
    watch(&workers, options.seconds).await
}

/// The worker and the instance manager of each node.
async fn processes(nodes: &Nodes) -> Result<Vec<(String, Pid)>, BenchFailure> {
    let primary = primary(nodes).await;
    let mut found = Vec::new();
    for (n, node) in nodes.nodes.iter().enumerate() {
        let missing = || BenchFailure::Wrong(format!("node {} has no worker", node.id));
        let postmaster = node.postmaster().ok_or_else(missing)?;
        let worker = child_of(postmaster, "pgraft").ok_or_else(missing)?;
        let manager = parent_of(postmaster).map_err(BenchFailure::io("/proc"))?;
        let role = if n == primary { "primary" } else { "standby" };
        found.push((format!("{role} {}", node.id), Pid::from_raw(worker)));
        found.push((format!("manager {}", node.id), manager));
    }
    Ok(found)
}

fn parent_of(pid: i32) -> std::io::Result<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = field(&status, "PPid:").and_then(|pid| pid.parse().ok());
    parent.map(Pid::from_raw).ok_or_else(|| std::io::Error::other("no parent"))
}

async fn watch(processes: &[(String, Pid)], seconds: u64) -> Result<(), BenchFailure> {
    let (begun, before) = (Instant::now(), used(processes)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (took, after) = (begun.elapsed(), used(processes)?);
    for (n, (name, pid)) in processes.iter().enumerate() {
        let busy = after[n].on_cpu.saturating_sub(before[n].on_cpu);
        let woken = after[n].woken.saturating_sub(before[n].woken);
        println!(
            "{name:<10} processor: {:.2} % of a core, woken {:.0}/s, over {seconds} s",
            share(busy, took),
            rate(woken, took)
        );
        println!("{:<10} memory: {}", "", memory(*pid)?);
    }
    Ok(())
}

fn share(busy: Duration, of: Duration) -> f64 {
    100.0 * busy.as_secs_f64() / of.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "printed without decimals")]
fn rate(count: u64, over: Duration) -> f64 {
    count as f64 / over.as_secs_f64()
}

async fn name(server: &TestServer) -> String {
    format!("{} {}", server.one("select state from pgraft_status()").await, server.id)
}

/// The sums over all threads of a process.
#[derive(Default)]
struct Used {
    on_cpu: Duration,
    woken: u64,
}

fn used(workers: &[(String, Pid)]) -> Result<Vec<Used>, BenchFailure> {
    workers
        .iter()
        .map(|(_, pid)| used_by(*pid).map_err(BenchFailure::io(format!("/proc/{pid}"))))
        .collect()
}

fn used_by(pid: Pid) -> std::io::Result<Used> {
    let mut used = Used::default();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // In nanoseconds; the ticks of `stat` would be too coarse.
        let on_cpu = fs::read_to_string(task.join("schedstat"))?;
        used.on_cpu += Duration::from_nanos(
            on_cpu.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0),
        );
        let status = fs::read_to_string(task.join("status"))?;
        used.woken +=
            field(&status, "voluntary_ctxt_switches:").and_then(|n| n.parse().ok()).unwrap_or(0);
    }
    Ok(used)
}

fn memory(pid: Pid) -> Result<String, BenchFailure> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .map_err(BenchFailure::io(format!("/proc/{pid}/smaps_rollup")))?;
    let mib =
        |name| field(&rollup, name).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0;
    Ok(format!(
        "PSS {:.1} MiB (anonymous {:.1}, files {:.1}, shared memory {:.1}); RSS {:.1} MiB; private {:.1} MiB",
        mib("Pss:"),
        mib("Pss_Anon:"),
        mib("Pss_File:"),
        mib("Pss_Shmem:"),
        mib("Rss:"),
        mib("Private_Dirty:") + mib("Private_Clean:"),
    ))
}
