//! A cluster with failover, and the conditions that tests wait for.

use crate::ledger::Ledger;
use crate::{Nodes, TestNode, bin_directory, until};
use pgraft_api::instance::ServerRole;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Starts the nodes, adds them to one cluster, and creates the table of [`Ledger`]. Returns when
/// the cluster is complete.
pub async fn cluster_of(mut nodes: Nodes) -> Nodes {
    for node in &mut nodes.nodes {
        node.failover = true;
        node.start();
    }
    nodes.nodes[0].ready().await;
    let size = nodes.nodes.len();
    for id in 2..=size {
        nodes.nodes[id - 1].ready().await;
        let add = format!(
            "SELECT pgraft_add_node({id}, '{}', {})",
            nodes.nodes[id - 1].address(),
            nodes.nodes[id - 1].raft_port()
        );
        // Any of them may be the leader.
        until("a new member", async || {
            for node in &nodes.nodes[..id] {
                if node.sql(&add).await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    complete(&nodes).await;
    let primary = primary(&nodes).await;
    nodes.nodes[primary]
        .connect("app", "owner-1", "app")
        .await
        .unwrap()
        .batch_execute("CREATE TABLE ledger (row bigint)")
        .await
        .unwrap();
    nodes
}

/// Three such nodes on loopback, or `None` if the test is skipped.
pub async fn three_nodes(change: impl Fn(&mut TestNode)) -> Option<Nodes> {
    let mut nodes = Nodes::new(&bin_directory()?, 3);
    nodes.nodes.iter_mut().for_each(change);
    Some(cluster_of(nodes).await)
}

/// Waits until every member is a voter, every standby streams on the primary's timeline, and
/// commits are confirmed by standbys out of all of these.
pub async fn complete(nodes: &Nodes) {
    let size = nodes.nodes.len();
    until("a complete cluster", async || {
        let primary = takes_writes(nodes)?;
        let names = nodes.nodes[primary].sql("SHOW synchronous_standby_names").await.ok()??;
        let want: BTreeSet<String> =
            (1..=size).filter(|id| *id != primary + 1).map(|id| format!("pgraft_{id}")).collect();
        let got: BTreeSet<String> = names
            .split('"')
            .filter(|part| part.starts_with("pgraft_"))
            .map(str::to_owned)
            .collect();
        let voters = nodes.nodes[primary]
            .sql("SELECT count(*) FROM pgraft_members WHERE role = 'voter'")
            .await
            .ok()??;
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let streaming = nodes.nodes[primary].sql(streaming).await.ok()??;
        // A walreceiver reports streaming before it learns that the histories have diverged.
        let timelines: BTreeSet<_> = nodes
            .nodes
            .iter()
            .map(|node| node.status().and_then(|s| s.postgres.timeline))
            .collect();
        let one_timeline = timelines.len() == 1 && !timelines.contains(&None);
        (got == want
            && voters == size.to_string()
            && streaming == (size - 1).to_string()
            && one_timeline)
            .then_some(())
    })
    .await;
}

fn takes_writes(nodes: &Nodes) -> Option<usize> {
    let takes_writes =
        |status: &pgraft_api::instance::Status| status.role == ServerRole::Primary && status.ready;
    nodes.nodes.iter().position(|node| node.status().is_some_and(|s| takes_writes(&s)))
}

/// Waits for a primary that takes writes, and returns its index.
pub async fn primary(nodes: &Nodes) -> usize {
    until("a primary", async || takes_writes(nodes)).await
}

/// Waits for a primary in a later epoch that is none of these nodes.
pub async fn primary_after(nodes: &Nodes, before: u64, not: &[usize]) -> usize {
    until("another primary", async || {
        (0..nodes.nodes.len())
            .find(|n| !not.contains(n) && is_primary(nodes, *n).is_some_and(|e| e > before))
    })
    .await
}

fn is_primary(nodes: &Nodes, of: usize) -> Option<u64> {
    let status = nodes.nodes[of].status().filter(|s| s.role == ServerRole::Primary && s.ready)?;
    Some(status.raft?.epoch)
}

/// The node that reports itself as the Raft leader.
pub fn leader(nodes: &Nodes) -> Option<usize> {
    nodes.nodes.iter().position(|node| {
        node.status()
            .and_then(|s| s.raft)
            .is_some_and(|raft| raft.leader.is_some_and(|id| id.get() == node.id))
    })
}

/// Waits for this many additional acknowledged rows.
pub async fn more_rows(ledger: &Ledger, count: usize) {
    let before = ledger.acked();
    until("acknowledged rows", async || (ledger.acked() >= before + count).then_some(())).await;
}

/// Waits until a row is acknowledged whose insert began at least `time` from now.
pub async fn more_rows_for(ledger: &Ledger, time: Duration) {
    let end = Instant::now() + time;
    until("acknowledged rows", async || ledger.last_sent().filter(|sent| *sent >= end)).await;
}

/// The epoch that a node reports.
pub fn epoch(nodes: &Nodes, of: usize) -> u64 {
    nodes.nodes[of].status().and_then(|s| s.raft).map_or(0, |r| r.epoch)
}

/// Stops the client and asserts that all nodes have the same rows, with every acknowledged row and
/// no refused row, and that there were never two primaries at once.
pub async fn nothing_is_lost(nodes: &Nodes, ledger: Ledger) {
    let record = ledger.stop().await;
    let lost = lost(nodes, &record.acked).await;
    assert!(lost.is_empty(), "acknowledged but lost: {lost:?}");
    let all =
        nodes.nodes[primary(nodes).await].connect("postgres", "superuser-1", "app").await.unwrap();
    let refused: Vec<i64> = record.refused.iter().copied().collect();
    let there = all.query("SELECT row FROM ledger WHERE row = ANY($1)", &[&refused]).await.unwrap();
    assert!(
        there.is_empty(),
        "refused but present: {:?}",
        there.iter().map(|r| r.get::<_, i64>(0)).collect::<Vec<_>>()
    );
    let overlap = record.overlapping_primaries();
    assert!(overlap.is_none(), "two primaries at once: {overlap:?}");
}

/// Waits until all nodes have the rows of the primary, on its timeline. Returns the acknowledged
/// rows that are missing.
pub async fn lost(nodes: &Nodes, acked: &BTreeSet<i64>) -> Vec<i64> {
    let primary = primary(nodes).await;
    let sum = "SELECT count(*) || ' ' || coalesce(sum(row), 0) FROM ledger";
    let all = nodes.nodes[primary].connect("postgres", "superuser-1", "app").await.unwrap();
    let rows: Vec<i64> = all
        .query("SELECT row FROM ledger ORDER BY row", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert!(rows.windows(2).all(|two| two[0] < two[1]), "a row exists twice");
    let want: String = all.query_one(sum, &[]).await.unwrap().get(0);
    let timeline = nodes.nodes[primary].status().unwrap().postgres.timeline;
    for node in &nodes.nodes {
        let same = async || {
            let client = node.connect("postgres", "superuser-1", "app").await.ok()?;
            let got: String = client.query_one(sum, &[]).await.ok()?.get(0);
            (got == want && node.status()?.postgres.timeline == timeline).then_some(())
        };
        until(&format!("node {} to have the rows of the primary", node.id), same).await;
    }
    acked.iter().filter(|row| rows.binary_search(row).is_err()).copied().collect()
}
