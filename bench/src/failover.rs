//! How long no write is acknowledged during a failover: real servers with instance managers, fsync
//! on, and a client that writes to all of them. Each fault is undone before the next round.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{
    cluster_of, complete, epoch, lost, more_rows, primary, primary_after,
};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::network::TestNetwork;
use pgraft_testkit::{Nodes, until};

use crate::failure::BenchFailure;
use crate::servers::bin_directory;
use crate::stats::BenchSample;

#[derive(clap::Args)]
pub struct FailoverOptions {
    /// Rounds for each fault.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The number of nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Faults to measure. Default: all.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<HostFault>,
    /// Prints the result of each round.
    #[arg(long)]
    rounds_too: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HostFault {
    /// The postmaster is killed.
    Killed,
    /// Every process of the node is killed, including the instance manager.
    Lost,
    /// Every process of the node is stopped, until another node is the primary.
    Paused,
    /// The node is cut off from the other members, but not from its clients.
    CutOff,
    /// The instance manager gets SIGTERM, as when a pod is deleted.
    Stopped,
    /// pgraft_switchover.
    Switchover,
}

impl HostFault {
    const fn label(self) -> &'static str {
        match self {
            Self::Killed => "postmaster killed",
            Self::Lost => "every process of the primary killed",
            Self::Paused => "primary paused",
            Self::CutOff => "primary cut off from the members",
            Self::Stopped => "instance manager stopped",
            Self::Switchover => "switchover",
        }
    }
}

pub async fn run(options: &FailoverOptions) -> Result<(), BenchFailure> {
    let bin = bin_directory()?;
    let network = TestNetwork::new(options.nodes);
    let mut nodes = match &network {
        Some(network) => Nodes::inside(&bin, network),
        None => Nodes::new(&bin, u32::try_from(options.nodes).unwrap_or(3)),
    };
    for node in &mut nodes.nodes {
        node.fsync = true;
    }
    let mut nodes = cluster_of(nodes).await;
    println!(
        "{} nodes, fsync on, lease timeout 2 s; from the last acknowledged write before the fault to the first one after it:",
        options.nodes
    );
    let all = HostFault::value_variants();
    for fault in if options.faults.is_empty() { all } else { &options.faults } {
        if *fault == HostFault::CutOff && network.is_none() {
            continue; // TestNetwork has printed why
        }
        let ledger = Ledger::start(nodes.servers());
        let mut gaps = Vec::new();
        for round in 0..options.rounds {
            let gap = once(*fault, &mut nodes, network.as_ref(), &ledger).await;
            if options.rounds_too {
                println!("  {} {}: {gap:?}", fault.label(), round + 1);
            }
            gaps.push(gap);
        }
        let acked = ledger.stop().await.acked;
        let lost = lost(&nodes, &acked).await;
        println!("{}", BenchSample::new(gaps).row(fault.label()));
        println!("    {} acknowledged writes, {} of them lost", acked.len(), lost.len());
        // The next client begins with row 1 again.
        until("an empty table", async || {
            let client =
                nodes.nodes[primary(&nodes).await].connect("app", "owner-1", "app").await.ok()?;
            client.batch_execute("TRUNCATE ledger").await.ok()
        })
        .await;
    }
    Ok(())
}

/// Causes a fault in a complete cluster, and waits until it is complete again.
async fn once(
    fault: HostFault,
    nodes: &mut Nodes,
    network: Option<&TestNetwork>,
    ledger: &Ledger,
) -> Duration {
    complete(nodes).await;
    // The usual state of a cluster: a primary that was also the leader has transferred the
    // leadership, and every node has run for longer than a lease timeout. A node that has just
    // started does not recruit for that time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    more_rows(ledger, 20).await;
    let old = primary(nodes).await;
    let before = epoch(nodes, old);
    ledger.new_gap();
    let since = Instant::now();
    match fault {
        HostFault::Killed => {
            if let Some(pid) = nodes.nodes[old].postmaster() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        HostFault::Lost => nodes.nodes[old].kill_all(),
        HostFault::Paused => nodes.nodes[old].signal_all(Signal::SIGSTOP),
        HostFault::CutOff => network.into_iter().for_each(|network| network.split(&[old])),
        HostFault::Stopped => nodes.nodes[old].signal(Signal::SIGTERM),
        HostFault::Switchover => {
            let target = (old + 1) % nodes.nodes.len() + 1;
            until("a switchover", async || {
                nodes.nodes[old].sql(&format!("SELECT pgraft_switchover({target})")).await.ok()
            })
            .await;
        }
    }
    primary_after(
        nodes,
        before,
        if fault == HostFault::Switchover { &[] } else { std::slice::from_ref(&old) },
    )
    .await;
    more_rows(ledger, 20).await;
    let gap = ledger.new_gap().min(since.elapsed());
    match fault {
        HostFault::Paused => nodes.nodes[old].signal_all(Signal::SIGCONT),
        HostFault::CutOff => network.into_iter().for_each(TestNetwork::heal),
        HostFault::Stopped => {
            nodes.nodes[old].ended().await;
            nodes.nodes[old].start();
        }
        HostFault::Lost => nodes.nodes[old].start(),
        HostFault::Killed | HostFault::Switchover => {}
    }
    gap
}
