//! The network lets the members down: three and five of them, each in a network namespace of its
//! own, while a client goes on writing to every one that takes it. It reaches them by other links
//! than the members each other, so that a primary that is cut off is still asked.
//!
//! Runs where namespaces can be made, and must where `PGRAFT_TEST_NAMESPACES` says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "this is a test through and through"
)]

use nix::sys::signal::Signal;
use pgraft_testkit::cluster::{
    cluster_of, epoch, leader, more_rows, nothing_is_lost, primary, primary_after, whole,
};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::network::TestNetwork;
use pgraft_testkit::{Nodes, bin_directory, until};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// `pgraft.lease_timeout` where nothing is set.
const LEASE: Duration = Duration::from_secs(2);

/// One cluster at a time: that nothing happens is shown only where the machine has time for the
/// heartbeats.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn cluster(size: usize) -> Option<(TestNetwork, Nodes)> {
    let bin = bin_directory()?;
    let network = TestNetwork::new(size)?;
    let nodes = cluster_of(Nodes::inside(&bin, &network)).await;
    Some((network, nodes))
}

/// What a client of a primary that is cut off sees, once its lease is over.
async fn answers_nothing(nodes: &Nodes, of: usize) {
    until("a primary that is cut off to refuse reads", async || {
        let client = nodes.nodes[of].connect("postgres", "superuser-1", "app").await.ok()?;
        let error = client.query("SELECT count(*) FROM ledger", &[]).await.err()?;
        (error.code()?.code() == "57P03").then_some(())
    })
    .await;
}

#[tokio::test]
async fn three_nodes() {
    let _alone = ALONE.lock().await;
    let Some((network, nodes)) = cluster(3).await else { return };
    let ledger = Ledger::start(nodes.servers());

    // Cut off from everybody, and still asked by its clients.
    let (old, before) = settled(&nodes, &ledger).await;
    network.split(&[old]);
    let new = primary_after(&nodes, before, &[old]).await;
    answers_nothing(&nodes, old).await;
    more_rows(&ledger, 10).await;
    network.heal();
    whole(&nodes).await;
    println!(
        "node {} cut off, node {} took over: no acknowledgement for {:?}",
        old + 1,
        new + 1,
        ledger.new_gap()
    );

    // Not heard by anybody, while it hears them: its heartbeats are lost.
    let (old, before) = settled(&nodes, &ledger).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for other in &others {
        network.drop_one_way(old, *other);
    }
    primary_after(&nodes, before, &[old]).await;
    more_rows(&ledger, 10).await;
    for other in &others {
        network.heal_one_way(old, *other);
    }
    whole(&nodes).await;
    println!("node {} heard by nobody: no acknowledgement for {:?}", old + 1, ledger.new_gap());

    // Its clients don't reach it: that is theirs to mend, and nothing happens.
    let (old, before) = settled(&nodes, &ledger).await;
    network.clients_reach(old, false);
    tokio::time::sleep(LEASE * 2).await;
    network.clients_reach(old, true);
    more_rows(&ledger, 10).await;
    assert_eq!((primary(&nodes).await, epoch(&nodes, old)), (old, before));

    // Asleep for three lease times: another one takes over, and the old one acknowledges nothing
    // when it wakes up.
    let (old, before) = settled(&nodes, &ledger).await;
    let since = Instant::now();
    nodes.nodes[old].signal_all(Signal::SIGSTOP);
    let new = primary_after(&nodes, before, &[old]).await;
    tokio::time::sleep((LEASE * 3).saturating_sub(since.elapsed())).await;
    nodes.nodes[old].signal_all(Signal::SIGCONT);
    more_rows(&ledger, 10).await;
    whole(&nodes).await;
    println!(
        "node {} asleep, node {} took over: no acknowledgement for {:?}",
        old + 1,
        new + 1,
        ledger.new_gap()
    );

    // Asleep for half a lease time and for a whole one: whatever happens, nothing is lost and all
    // are well in the end.
    for nap in [LEASE / 2, LEASE] {
        let (old, before) = settled(&nodes, &ledger).await;
        nodes.nodes[old].signal_all(Signal::SIGSTOP);
        tokio::time::sleep(nap).await;
        nodes.nodes[old].signal_all(Signal::SIGCONT);
        more_rows(&ledger, 10).await;
        whole(&nodes).await;
        let same = epoch(&nodes, primary(&nodes).await) == before;
        println!(
            "node {} asleep for {nap:?}: no acknowledgement for {:?}, same primary: {same}",
            old + 1,
            ledger.new_gap()
        );
    }

    // Five seconds each way, which no lease survives: nobody is sure of anything, and when it is
    // over all is well by itself.
    let (old, _) = settled(&nodes, &ledger).await;
    let slow = network.delay(Duration::from_secs(5));
    answers_nothing(&nodes, old).await;
    tokio::time::sleep(LEASE * 5).await;
    drop(slow);
    let over = Instant::now();
    more_rows(&ledger, 10).await;
    let again = over.elapsed();
    whole(&nodes).await;
    println!(
        "5 s of latency: writes {again:?} and a whole cluster {:?} after its end",
        over.elapsed()
    );

    // Standing still for less than the lease is no reason for another primary. Where the machine is
    // busy a stall is longer than it should be.
    let network = network.delay(Duration::ZERO);
    let mut stood = false;
    for _ in 0..5 {
        let (old, before) = settled(&nodes, &ledger).await;
        network.stall(true);
        tokio::time::sleep(LEASE / 2).await;
        network.stall(false);
        whole(&nodes).await;
        more_rows(&ledger, 10).await;
        stood = (primary(&nodes).await, epoch(&nodes, old)) == (old, before);
        println!(
            "a network that stalled for {:?}: no acknowledgement for {:?}, same primary: {stood}",
            LEASE / 2,
            ledger.new_gap()
        );
        if stood {
            break;
        }
    }
    assert!(stood, "each stall that was shorter than the lease has changed the primary");
    drop(network);
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn five_nodes() {
    let _alone = ALONE.lock().await;
    let Some((network, nodes)) = cluster(5).await else { return };
    let ledger = Ledger::start(nodes.servers());

    // The primary and another one on the smaller side.
    let (old, before) = settled(&nodes, &ledger).await;
    let with = (old + 1) % 5;
    network.split(&[old, with]);
    let new = primary_after(&nodes, before, &[old, with]).await;
    answers_nothing(&nodes, old).await;
    more_rows(&ledger, 10).await;
    network.heal();
    whole(&nodes).await;
    println!(
        "nodes {} and {} cut off, node {} took over: no acknowledgement for {:?}",
        old + 1,
        with + 1,
        new + 1,
        ledger.new_gap()
    );

    // The primary and the leader don't hear each other, all others hear both: nobody moves.
    let (old, before) = settled(&nodes, &ledger).await;
    let lead = until("a leader that is not the primary", async || {
        leader(&nodes).filter(|lead| *lead != old)
    })
    .await;
    network.drop_one_way(old, lead);
    network.drop_one_way(lead, old);
    tokio::time::sleep(LEASE * 3).await;
    more_rows(&ledger, 10).await;
    assert_eq!(
        (primary(&nodes).await, epoch(&nodes, old)),
        (old, before),
        "one link that is down starts nothing"
    );
    network.heal_one_way(old, lead);
    network.heal_one_way(lead, old);

    // Two standbys are cut off: commits go on with the other two.
    let (old, before) = settled(&nodes, &ledger).await;
    network.split(&[(old + 1) % 5, (old + 2) % 5]);
    more_rows(&ledger, 50).await;
    tokio::time::sleep(LEASE * 2).await;
    more_rows(&ledger, 50).await;
    assert_eq!((primary(&nodes).await, epoch(&nodes, old)), (old, before));
    network.heal();
    whole(&nodes).await;
    nothing_is_lost(&nodes, ledger).await;
}

/// Who is the primary, in which epoch, when all is well and rows are being acknowledged.
async fn settled(nodes: &Nodes, ledger: &Ledger) -> (usize, u64) {
    whole(nodes).await;
    more_rows(ledger, 10).await;
    let primary = primary(nodes).await;
    ledger.new_gap();
    (primary, epoch(nodes, primary))
}
