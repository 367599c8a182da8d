//! The cost of pgraft for a transaction: pgbench against a cluster of pgraft with failover on,
//! against Postgres without pgraft (with as many standbys, the same settings and the same
//! `synchronous_standby_names`), through the gateway, and through HAProxy if it is on PATH. The
//! targets take turns, so that changes of the machine's load affect all of them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgraft_testkit::Nodes;
use pgraft_testkit::cluster::{cluster_of, primary};

use crate::failure::BenchFailure;
use crate::haproxy::Haproxy;
use crate::plain::Plain;
use crate::servers::{bin_directory, connect};
use pgraft_testkit::postgres::scratch_in;

#[derive(clap::Args)]
pub struct OverheadOptions {
    /// The directory in which the directories of the plain servers are created.
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// Turns for each target. The result is the median.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// The duration of a turn.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// The number of connections.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// pgbench's scale: 100,000 accounts each.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Only the select-only test.
    #[arg(long)]
    select_only: bool,
    /// Only pgraft, to see whether load causes a failover.
    #[arg(long)]
    pgraft_only: bool,
}

/// What pgbench runs against.
struct OverheadTarget {
    name: &'static str,
    host: String,
    port: u16,
}

const PGRAFT: &str = "pgraft, failover on";
const PLAIN: &str = "plain, ANY 1";
const USER: &str = "app";
const PASSWORD: &str = "owner-1";

pub async fn run(options: &OverheadOptions) -> Result<(), BenchFailure> {
    let bin = bin_directory()?;
    let mut nodes = Nodes::new(&bin, 3);
    for node in &mut nodes.nodes {
        node.fsync = true;
        for (name, value) in
            [("shared_buffers", "128MB"), ("max_connections", "100"), ("max_wal_size", "4GB")]
        {
            node.parameters.insert(name.into(), value.into());
        }
    }
    let nodes = cluster_of(nodes).await;
    let dir = scratch_in(&options.dir);
    let first = &nodes.nodes[primary(&nodes).await];
    let others = if options.pgraft_only {
        None
    } else {
        let plain = Plain::like(first, &bin, dir.path(), 2).await?;
        as_app(plain.port()).await?;
        Some((plain, Haproxy::to(first.client_address(), first.postgres_port(), dir.path())?))
    };
    let target = |name, host: &str, port| OverheadTarget { name, host: host.to_owned(), port };
    let mut targets = vec![target(PGRAFT, first.client_address(), first.postgres_port())];
    if let Some((plain, haproxy)) = &others {
        targets.insert(0, target(PLAIN, "127.0.0.1", plain.port()));
        targets.push(target(
            "pgraft through the gateway",
            first.client_address(),
            first.gateway_port(),
        ));
        targets.extend(
            haproxy
                .as_ref()
                .map(|haproxy| target("pgraft through HAProxy", "127.0.0.1", haproxy.port())),
        );
    }
    for target in targets.iter().filter(|t| [PGRAFT, PLAIN].contains(&t.name)) {
        pgbench(&bin, target, &["-i", "-q", "-s", &options.scale.to_string()]).await?;
    }
    for (what, arguments) in [("TPC-B", &[][..]), ("select only", &["-S"][..])] {
        if options.select_only && arguments.is_empty() {
            continue;
        }
        let mut tps = vec![Vec::new(); targets.len()];
        for turn in 0..options.turns {
            // The first target changes from turn to turn.
            for n in (0..targets.len()).map(|n| (n + turn) % targets.len()) {
                tps[n].push(rate(options, &bin, &targets[n], arguments).await?);
            }
        }
        let medians: Vec<f64> = tps.into_iter().map(median).collect();
        println!(
            "{what}: {} clients, {} turns of {} s, medians",
            options.clients, options.turns, options.seconds
        );
        for (target, tps) in targets.iter().zip(&medians) {
            let of = |n: usize| medians.get(n).map(|other| tps / other);
            let beside = of(0).zip(of(1)).map(|(first, second)| {
                format!("   {first:.3} of the first   {second:.3} of the second")
            });
            println!("    {:<28} {tps:>8.0}/s{}", target.name, beside.unwrap_or_default());
        }
    }
    let epoch = pgraft_testkit::cluster::epoch(&nodes, primary(&nodes).await);
    println!("failovers during the test: {}", epoch.saturating_sub(1));
    Ok(())
}

/// Creates the user and the database that a pgraft cluster has.
async fn as_app(port: u16) -> Result<(), BenchFailure> {
    let client = connect(&format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"))
        .await
        .map_err(BenchFailure::sql(0))?;
    for statement in ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"] {
        client.batch_execute(statement).await.map_err(BenchFailure::sql(0))?;
    }
    Ok(())
}

async fn rate(
    options: &OverheadOptions,
    bin: &Path,
    target: &OverheadTarget,
    arguments: &[&str],
) -> Result<f64, BenchFailure> {
    let (clients, seconds) = (options.clients.to_string(), options.seconds.to_string());
    let all =
        [&["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds], arguments].concat();
    let said = pgbench(bin, target, &all).await?;
    let tps =
        said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| BenchFailure::Program(format!("pgbench printed no tps: {said}")))
}

async fn pgbench(
    bin: &Path,
    target: &OverheadTarget,
    arguments: &[&str],
) -> Result<String, BenchFailure> {
    let mut command = tokio::process::Command::new(bin.join("pgbench"));
    command
        .args(["-h", &target.host, "-p", &target.port.to_string(), "-U", USER])
        .args(arguments)
        .arg(USER);
    command.env("PGPASSWORD", PASSWORD).stdin(Stdio::null());
    let output = command.output().await.map_err(BenchFailure::io("pgbench"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(BenchFailure::Program(format!("pgbench: {}", text(&output.stderr))))
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
