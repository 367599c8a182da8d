//! Killed and stopped processes.

use crate::{kill_postmaster, kill_the_primary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{epoch, more_rows, nothing_is_lost, primary, three_nodes};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{child_of, until};

#[tokio::test]
async fn a_killed_primary_comes_back() {
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    kill_the_primary(&nodes, &ledger).await;
    nothing_is_lost(&nodes, ledger).await;
    for node in &nodes.nodes {
        // A slot for each other member, and none on a standby that retains WAL.
        node.wait_for("SELECT count(*) FROM pg_replication_slots", "2").await;
        node.wait_for("SELECT count(*) FROM pg_replication_slots WHERE pg_is_in_recovery() AND restart_lsn IS NOT NULL", "0").await;
    }
}

#[tokio::test]
async fn ten_kills_lose_nothing() {
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    for _ in 0..10 {
        kill_the_primary(&nodes, &ledger).await;
    }
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_primary_whose_worker_is_stopped_is_replaced() {
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    let postmaster = nodes.nodes[old].postmaster().unwrap();
    let worker = until("the worker", async || child_of(postmaster, "pgraft")).await;
    kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
    until("another postmaster", async || {
        nodes.nodes[old].postmaster().filter(|pid| *pid != postmaster)
    })
    .await;
    let new = primary(&nodes).await;
    assert!(epoch(&nodes, new) > before);
    more_rows(&ledger, 10).await;
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_cluster_recovers_from_the_loss_of_all_servers() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    for node in &mut nodes.nodes {
        node.kill_manager();
        kill_postmaster(node);
    }
    for node in &mut nodes.nodes {
        node.start();
    }
    more_rows(&ledger, 10).await;
    nothing_is_lost(&nodes, ledger).await;
}
