//! How long nobody acknowledges a write: three real servers, each with its instance manager, fsync
//! on, and a client that asks all of them all the while. What a fault did to the primary is healed
//! before the next round.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{cluster_of, epoch, lost, more_rows, primary, primary_after, whole};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::network::TestNetwork;
use pgraft_testkit::{Nodes, until};

use crate::failure::BenchFailure;
use crate::servers::bin_directory;
use crate::stats::BenchSample;

#[derive(clap::Args)]
pub struct FailoverOptions {
    /// Of each fault.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Which faults; all of them where none is named.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<HostFault>,
    /// Says of each round what it came to.
    #[arg(long)]
    rounds_too: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HostFault {
    /// kill -9 of the postmaster.
    Killed,
    /// kill -9 of every process of the node, the instance manager among them.
    Lost,
    /// SIGSTOP of every process of the node; it goes on when another one has taken over.
    Paused,
    /// The other members don't reach it any more; its clients do.
    CutOff,
    /// SIGTERM to the instance manager, as when a pod is deleted.
    Stopped,
    /// pgraft_switchover.
    Switchover,
}

impl HostFault {
    const fn words(self) -> &'static str {
        match self {
            Self::Killed => "postmaster killed",
            Self::Lost => "every process of the primary killed",
            Self::Paused => "primary paused",
            Self::CutOff => "primary cut off from the members",
            Self::Stopped => "instance manager told to stop",
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
        "{} nodes, fsync on, lease 2 s; between the last acknowledged write before and the first after:",
        options.nodes
    );
    let all = HostFault::value_variants();
    for fault in if options.faults.is_empty() { all } else { &options.faults } {
        if *fault == HostFault::CutOff && network.is_none() {
            continue; // said by whoever could not make it
        }
        let ledger = Ledger::start(nodes.servers());
        let mut gaps = Vec::new();
        for round in 0..options.rounds {
            let gap = once(*fault, &mut nodes, network.as_ref(), &ledger).await;
            if options.rounds_too {
                println!("  {} {}: {gap:?}", fault.words(), round + 1);
            }
            gaps.push(gap);
        }
        let acked = ledger.stop().await;
        let lost = lost(&nodes, &acked).await;
        println!("{}", BenchSample::new(gaps).row(fault.words()));
        println!("    {} writes acknowledged, {} of them lost", acked.len(), lost.len());
        // The next client counts from the beginning.
        until("an empty table", async || {
            let client =
                nodes.nodes[primary(&nodes).await].connect("app", "owner-1", "app").await.ok()?;
            client.batch_execute("TRUNCATE ledger").await.ok()
        })
        .await;
    }
    Ok(())
}

/// One fault, from a whole cluster to a whole cluster.
async fn once(
    fault: HostFault,
    nodes: &mut Nodes,
    network: Option<&TestNetwork>,
    ledger: &Ledger,
) -> Duration {
    whole(nodes).await;
    // As a cluster is found: a primary that leads as well has handed the lead on, and nobody has
    // started less than a lease ago (whoever has recruits nobody until it is over).
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
