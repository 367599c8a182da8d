//! Faults of the primary's network, and pauses.

use crate::{LEASE, assert_same_primary, refuses_reads, settled, shared};
use nix::sys::signal::Signal;
use pgraft_testkit::cluster::{complete, epoch, more_rows, primary, primary_after};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_primary_that_is_cut_off_is_replaced() {
    shared::run(3, async |network, nodes, ledger| {
        let (old, before) = settled(nodes, ledger).await;
        network.split(&[old]);
        primary_after(nodes, before, &[old]).await;
        refuses_reads(nodes, old).await;
        more_rows(ledger, 10).await;
        network.heal();
    })
    .await;
}

/// The primary receives messages from the other members, but its heartbeats are lost.
#[tokio::test]
async fn a_primary_whose_messages_are_lost_is_replaced() {
    shared::run(3, async |network, nodes, ledger| {
        let (old, before) = settled(nodes, ledger).await;
        let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
        for other in &others {
            network.drop_one_way(old, *other);
        }
        primary_after(nodes, before, &[old]).await;
        more_rows(ledger, 10).await;
        for other in &others {
            network.heal_one_way(old, *other);
        }
    })
    .await;
}

/// Clients that cannot reach the primary are no reason for a failover.
#[tokio::test]
async fn a_primary_that_only_clients_cannot_reach_stays() {
    shared::run(3, async |network, nodes, ledger| {
        let before = settled(nodes, ledger).await;
        network.clients_reach(before.0, false);
        tokio::time::sleep(LEASE * 2).await; // the duration of the fault
        network.clients_reach(before.0, true);
        more_rows(ledger, 10).await;
        assert_same_primary(nodes, before).await;
    })
    .await;
}

/// The old primary acknowledges nothing when it continues after three lease timeouts.
#[tokio::test]
async fn a_primary_that_is_paused_beyond_its_lease_is_replaced() {
    shared::run(3, async |_, nodes, ledger| {
        let (old, before) = settled(nodes, ledger).await;
        let since = Instant::now();
        nodes.nodes[old].signal_all(Signal::SIGSTOP);
        primary_after(nodes, before, &[old]).await;
        tokio::time::sleep((LEASE * 3).saturating_sub(since.elapsed())).await; // the rest of the pause
        nodes.nodes[old].signal_all(Signal::SIGCONT);
        more_rows(ledger, 10).await;
    })
    .await;
}

/// Whether the primary is replaced depends on when the pause begins. Nothing may be lost either
/// way.
#[tokio::test]
async fn pauses_up_to_the_lease_timeout_lose_nothing() {
    shared::run(3, async |_, nodes, ledger| {
        for pause in [LEASE / 2, LEASE] {
            let (old, _) = settled(nodes, ledger).await;
            nodes.nodes[old].signal_all(Signal::SIGSTOP);
            tokio::time::sleep(pause).await; // the duration of the fault
            nodes.nodes[old].signal_all(Signal::SIGCONT);
            more_rows(ledger, 10).await;
        }
    })
    .await;
}

/// No lease can be renewed with five seconds of latency. The cluster recovers without help.
#[tokio::test]
async fn the_cluster_recovers_from_latency_beyond_the_lease() {
    shared::run(3, async |network, nodes, ledger| {
        let (old, _) = settled(nodes, ledger).await;
        let slow = network.delay(Duration::from_secs(5));
        refuses_reads(nodes, old).await;
        tokio::time::sleep(LEASE * 5).await; // the duration of the fault
        drop(slow);
        more_rows(ledger, 10).await;
    })
    .await;
}

/// On a busy machine a stall takes longer than requested, so that it may be tried again.
#[tokio::test]
async fn a_stall_below_the_lease_timeout_keeps_the_primary() {
    shared::run(3, async |network, nodes, ledger| {
        let network = network.delay(Duration::ZERO);
        for _ in 0..5 {
            let (old, before) = settled(nodes, ledger).await;
            let since = Instant::now();
            network.stall(true);
            tokio::time::sleep(LEASE / 2).await; // the duration of the fault
            network.stall(false);
            let stalled = since.elapsed();
            complete(nodes).await;
            more_rows(ledger, 10).await;
            if (primary(nodes).await, epoch(nodes, old)) == (old, before) {
                return;
            }
            eprintln!("the primary changed after a stall of {stalled:?}");
        }
        panic!("the primary changed after each of five stalls of half a lease timeout");
    })
    .await;
}
