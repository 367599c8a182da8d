//! Full disks.

use pgraft_testkit::cluster::{
    cluster_of, complete, epoch, more_rows, nothing_is_lost, primary, primary_after,
};
use pgraft_testkit::disk::SmallDisk;
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Nodes, bin_directory, until};

const FULL: &str = "No space left on device";

/// Each disk has the data, the WAL and the Raft files.
#[tokio::test]
async fn a_full_disk_of_a_standby_or_the_primary_loses_nothing() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 3);
    // Few recycled WAL segments, so that the disk fills up soon.
    let little = [("min_wal_size", "32MB"), ("max_wal_size", "64MB"), ("wal_keep_size", "0")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    nodes.nodes.iter_mut().for_each(|node| node.parameters.extend(little.clone()));
    let disks: Option<Vec<SmallDisk>> =
        nodes.nodes.iter().map(|node| SmallDisk::under(node, 400)).collect();
    let Some(disks) = disks else { return };
    let nodes = cluster_of(nodes).await;
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;

    let old = primary(&nodes).await;
    let standby = (old + 1) % 3;
    disks[standby].fill();
    until("a standby whose disk is full", async || {
        fill_wal(&nodes, old).await;
        nodes.nodes[standby].log().contains(FULL).then_some(())
    })
    .await;
    more_rows(&ledger, 50).await;
    disks[standby].free();
    complete(&nodes).await;

    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    disks[old].fill();
    until("a later epoch", async || {
        fill_wal(&nodes, old).await;
        (0..3).find(|n| *n != old && epoch(&nodes, *n) > before)
    })
    .await;
    primary_after(&nodes, before, &[old]).await;
    more_rows(&ledger, 50).await;
    let gives_up = "the disk of this primary is full; handing over to a standby";
    assert!([FULL, gives_up].iter().any(|line| nodes.nodes[old].log().contains(line)));
    disks[old].free();
    complete(&nodes).await;
    nothing_is_lost(&nodes, ledger).await;
}

/// Writes a megabyte of WAL, if possible.
async fn fill_wal(nodes: &Nodes, on: usize) {
    let _ = nodes.nodes[on]
        .sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
        .await;
}
