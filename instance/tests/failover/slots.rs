//! Replication slots: of members that are away, and of logical subscribers.

use crate::kill_postmaster;
use pgraft_testkit::cluster::{
    epoch, more_rows, nothing_is_lost, primary, primary_after, three_nodes,
};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Nodes, TestNode, until};
use std::collections::BTreeSet;

/// The slot of a member that is away retains a limited amount of WAL. The member is cloned when it
/// comes back after that.
#[tokio::test]
async fn a_standby_whose_wal_was_removed_is_cloned() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    assert!(nodes.nodes[2].terminate().await.success());
    let primary = &mut nodes.nodes[0];
    assert_ne!(
        primary.sql("SHOW max_slot_wal_keep_size").await.unwrap().unwrap(),
        "-1",
        "it is limited by default"
    );
    for name in ["wal_keep_size", "max_slot_wal_keep_size"] {
        primary
            .parameters
            .insert(name.into(), if name == "wal_keep_size" { "0" } else { "1MB" }.into());
    }
    primary.write_config();
    primary.wait_for("SHOW max_slot_wal_keep_size", "1MB").await;
    let oldest = "SELECT min(name) FROM pg_ls_waldir()";
    let needed =
        primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").await.unwrap().unwrap();
    until("old WAL to be removed", async || {
        let client = primary.connect("postgres", "superuser-1", "postgres").await.ok()?;
        for statement in [
            "CREATE TABLE IF NOT EXISTS temporary ()",
            "DROP TABLE temporary",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        ] {
            client.batch_execute(statement).await.ok()?;
        }
        primary.sql(oldest).await.ok().flatten().filter(|now| *now > needed)
    })
    .await;
    primary
        .wait_for(
            "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'pgraft_3'",
            "lost",
        )
        .await;
    nodes.nodes[2].start();
    let gone = "the primary no longer has the WAL that this standby needs";
    until("a clone of node 3", async || nodes.nodes[2].log().contains(gone).then_some(())).await;
    nodes.nodes[2].streaming().await;
    nothing_is_lost(&nodes, ledger).await;
}

/// Counts the copies of the slot on a standby.
const COPIED: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'feed' AND synced AND NOT temporary";
const CHANGES: &str = "SELECT data FROM pg_logical_slot_get_changes('feed', NULL, NULL)";

/// Reads the changes from the primary's slot.
async fn receive(nodes: &Nodes, received: &mut BTreeSet<i64>) {
    let Ok(client) =
        nodes.nodes[primary(nodes).await].connect("postgres", "superuser-1", "app").await
    else {
        return;
    };
    for change in client.query(CHANGES, &[]).await.unwrap_or_default() {
        let change: String = change.get(0);
        received.extend(change.rsplit_once(':').and_then(|(_, row)| row.parse::<i64>().ok()));
    }
}

/// Waits until a node has a copy of the primary's slot. Reads from the slot meanwhile, because it
/// must advance to a position that the standby can take over.
async fn copied(nodes: &Nodes, to: usize, received: &mut BTreeSet<i64>) {
    until(&format!("a copy of the slot on node {}", to + 1), async || {
        receive(nodes, received).await;
        nodes.nodes[to].sql(COPIED).await.ok().flatten().filter(|count| count == "1")
    })
    .await;
}

/// A failover slot (Postgres 17 and later) continues on the next primary without a gap.
#[tokio::test]
async fn a_subscriber_continues_on_the_next_primary() {
    let on = |node: &mut TestNode| {
        drop(node.parameters.insert("sync_replication_slots".into(), "on".into()));
    };
    let Some(nodes) = three_nodes(on).await else { return };
    let (old, mut received) = (primary(&nodes).await, BTreeSet::new());
    // A timeout of the role must not end the sessions of the standbys' slot workers, which are
    // mostly idle.
    nodes.nodes[old]
        .sql("ALTER ROLE pgraft_replication SET idle_session_timeout = 100")
        .await
        .unwrap();
    let make =
        "SELECT pg_create_logical_replication_slot('feed', 'test_decoding', failover => true)";
    nodes.nodes[old]
        .connect("postgres", "superuser-1", "app")
        .await
        .unwrap()
        .execute(make, &[])
        .await
        .unwrap();
    let ledger = Ledger::start(nodes.servers());
    for standby in (0..3).filter(|n| *n != old) {
        copied(&nodes, standby, &mut received).await;
    }
    more_rows(&ledger, 20).await;
    receive(&nodes, &mut received).await;

    let before = epoch(&nodes, old);
    kill_postmaster(&nodes.nodes[old]);
    let new = primary_after(&nodes, before, &[]).await;
    more_rows(&ledger, 20).await;
    let acked = ledger.stop().await.acked;
    until("a subscriber that has received all rows", async || {
        receive(&nodes, &mut received).await;
        acked.is_subset(&received).then_some(())
    })
    .await;
    // The former primary replaces its own slot by a copy.
    for standby in (0..3).filter(|n| *n != new) {
        copied(&nodes, standby, &mut received).await;
    }
    // synchronized_standby_slots was set before the promotion, so that walsenders always waited for
    // the standbys.
    let log = nodes.nodes[new].log();
    let at = |part: &str, other: &str| {
        log.lines()
            .position(|l| l.contains(part) && l.contains(other))
            .unwrap_or_else(|| panic!("no line with {part} {other}"))
    };
    assert!(at("synchronized_standby_slots", "changed to") < at("received promote request", ""));
    // Every row that the subscriber received exists: none was undone by the failover.
    let all = nodes.nodes[new].connect("postgres", "superuser-1", "app").await.unwrap();
    let rows: BTreeSet<i64> =
        all.query("SELECT row FROM ledger", &[]).await.unwrap().iter().map(|r| r.get(0)).collect();
    assert!(
        received.is_subset(&rows),
        "received but missing: {:?}",
        received.difference(&rows).collect::<Vec<_>>()
    );
    for node in &nodes.nodes {
        assert!(
            !node.log().contains("idle-session timeout"),
            "a session on node {} was ended",
            node.id
        );
    }
}
