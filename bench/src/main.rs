//! `pgraft-bench`: measures and prints. It asserts nothing about time; one file a bench, and `just
//! bench NAME` builds what that one needs.
//!
//! ```text
//!  main ──▶ disk | membership | worker | scale | …                each: sets up, measures, prints rows of percentiles (stats.rs) under the machine they come from (machine.rs)
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

/// Measures and prints.
#[derive(Parser)]
struct BenchCli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// fdatasync of a small write into a preallocated file.
    Disk(disk::DiskOptions),
    /// How long nobody acknowledges a write when the primary is killed, paused, cut off, stopped,
    /// or told to give way; and what was lost.
    Failover(failover::FailoverOptions),
    /// The same for a client of the Service `-rw` on a Kubernetes cluster.
    FailoverRw(failover_rw::FailoverRwOptions),
    /// Members that join and leave three Postgres servers; beside it etcd and the disk.
    Membership(membership::MembershipOptions),
    /// The operator with 100 and with 1,000 idle clusters: memory, processor, calls to the API
    /// server.
    Operator(operator::OperatorOptions),
    /// pgbench with pgraft and without it.
    Overhead(overhead::OverheadOptions),
    /// kubectl scale 3 → 4 on a Kubernetes cluster, and where the time goes.
    Scale(scale::ScaleOptions),
    /// Memory and processor time of the worker while nothing happens.
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
