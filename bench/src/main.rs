//! `pgraft-bench`: measures and prints. It asserts no times. Each bench is one file, and `just
//! bench NAME` builds what it needs.
//!
//! ```text
//!  main ──▶ disk | membership | worker | scale | …                each: sets up, measures, prints percentiles (stats.rs) below a line about the machine (machine.rs)
//! ```

mod disk;
mod etcd;
mod failover;
mod failover_rw;
mod failure;
mod haproxy;
mod machine;
mod membership;
mod operator;
mod overhead;
mod plain;
mod scale;
mod servers;
mod stats;
mod watcher;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Measures pgraft and prints the results.
#[derive(Parser)]
struct BenchCli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// fdatasync of a small write.
    Disk(disk::DiskOptions),
    /// How long no write is acknowledged when the primary is killed, paused, cut off, stopped or
    /// switched over, and what was lost.
    Failover(failover::FailoverOptions),
    /// As failover, for a client of the Service `-rw` on a Kubernetes cluster.
    FailoverRw(failover_rw::FailoverRwOptions),
    /// How long adding and removing members takes, compared with etcd and the disk.
    Membership(membership::MembershipOptions),
    /// Memory, processor time and API calls of the operator with 100 and 1,000 idle clusters.
    Operator(operator::OperatorOptions),
    /// pgbench with and without pgraft.
    Overhead(overhead::OverheadOptions),
    /// The steps of kubectl scale 3 → 4 on a Kubernetes cluster.
    Scale(scale::ScaleOptions),
    /// Memory and processor time of an idle worker.
    Worker(worker::WorkerOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    println!("{}", machine::line());
    let done = match BenchCli::parse().bench {
        Bench::Disk(options) => disk::run(&options),
        Bench::Failover(options) => failover::run(&options).await,
        Bench::FailoverRw(options) => failover_rw::run(&options).await,
        Bench::Membership(options) => membership::run(&options).await,
        Bench::Operator(options) => operator::run(&options).await,
        Bench::Overhead(options) => overhead::run(&options).await,
        Bench::Scale(options) => scale::run(&options).await,
        Bench::Worker(options) => worker::run(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pgraft-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
