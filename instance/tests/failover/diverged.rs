//! Servers with WAL that the next primary does not have.

use crate::{kill_postmaster, kill_the_primary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{epoch, more_rows, nothing_is_lost, primary, three_nodes};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{child_of, until};

/// One of these log lines ends a recovery of a diverged server.
const RECOVERED: [&str; 2] =
    ["rewound the data directory to the primary's history", "the clone is complete"];

/// The primary writes WAL that no standby has and that no client was told is safe.
#[tokio::test]
async fn wal_that_no_other_server_has_is_removed() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    let old = primary(&nodes).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for n in &others {
        nodes.nodes[*n].kill_manager();
        kill_postmaster(&nodes.nodes[*n]);
    }
    // With synchronous_commit = local, a superuser does not wait for standbys.
    let alone = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await.unwrap();
    let wrote =
        alone.batch_execute("SET synchronous_commit = local; CREATE TABLE only_here AS SELECT generate_series(1, 1000)").await;
    nodes.nodes[old].kill_manager();
    kill_postmaster(&nodes.nodes[old]);
    wrote.unwrap();
    for n in others {
        nodes.nodes[n].start();
    }
    let new = primary(&nodes).await;
    assert_ne!(new, old);
    more_rows(&ledger, 10).await;
    // As if it had already been started and had fetched the new primary's history file. With that
    // file, Postgres would replay past the fork.
    let wal = |n: usize| nodes.nodes[n].directory.join("pgdata/pg_wal");
    let history =
        format!("{:08X}.history", nodes.nodes[new].status().unwrap().postgres.timeline.unwrap());
    std::fs::copy(wal(new).join(&history), wal(old).join(&history)).unwrap();
    nodes.nodes[old].start();
    // By pg_rewind, or by a clone if WAL for pg_rewind is missing. Whether it streams says nothing
    // yet, since a walreceiver reports streaming before the primary has answered.
    until("a rewind or a clone", async || {
        let log = nodes.nodes[old].log();
        RECOVERED.into_iter().find(|line| log.contains(line))
    })
    .await;
    assert!(nodes.nodes[old].log().contains("removed the history file of a timeline without WAL"));
    nodes.nodes[old].streaming().await;
    nodes.nodes[old].wait_for("SELECT to_regclass('only_here') IS NULL", "t").await;
    nothing_is_lost(&nodes, ledger).await;
}

/// A walreceiver first reports how far its server has replayed. If that is diverged WAL, stock
/// Postgres takes it for a confirmation of the primary's WAL at the same position.
#[tokio::test]
async fn diverged_wal_confirms_no_commit() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let old = primary(&nodes).await;
    let alone = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await.unwrap();
    // A new segment, so that all of the following WAL is in one.
    alone
        .batch_execute("CREATE TABLE t (i int); SELECT pg_switch_wal(); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for n in &others {
        // With its walreceiver, which would continue for a moment.
        nodes.nodes[*n].kill_all();
    }
    let wrote = alone
        .batch_execute(
            "SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 50000)",
        )
        .await;
    nodes.nodes[old].kill_all();
    wrote.unwrap();
    for n in &others {
        nodes.nodes[*n].start();
    }
    let new = primary(&nodes).await;
    let other = others.into_iter().find(|n| *n != new).unwrap();
    nodes.nodes[other].streaming().await;
    // This standby votes, but confirms nothing.
    let receiver =
        until("a walreceiver", async || child_of(nodes.nodes[other].postmaster()?, "walreceiver"))
            .await;
    kill(Pid::from_raw(receiver), Signal::SIGSTOP).unwrap();
    let client = nodes.nodes[new].connect("postgres", "superuser-1", "postgres").await.unwrap();
    let commit =
        tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    nodes.nodes[old].start();
    commit.await.unwrap().unwrap();
    let log = nodes.nodes[old].log();
    let _ = kill(Pid::from_raw(receiver), Signal::SIGCONT);
    assert!(RECOVERED.iter().any(|line| log.contains(line)), "the commit was confirmed\n{log}");
}

#[tokio::test]
async fn an_interrupted_rewind_ends_in_a_clone() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let standby = &mut nodes.nodes[2];
    assert!(standby.terminate().await.success());
    std::fs::write(standby.directory.join("pgdata.pgraft/rewind-in-progress"), "").unwrap();
    let old = std::fs::metadata(standby.directory.join("pgdata")).unwrap();
    standby.start();
    standby.streaming().await;
    let new = std::fs::metadata(standby.directory.join("pgdata")).unwrap();
    assert_ne!(
        std::os::unix::fs::MetadataExt::ino(&old),
        std::os::unix::fs::MetadataExt::ino(&new),
        "the data directory was not replaced"
    );
    let left: Vec<_> = ["new", "old", "rewind-in-progress"]
        .iter()
        .filter(|name| standby.directory.join("pgdata.pgraft").join(name).exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    kill_the_primary(&nodes, &ledger).await;
    nothing_is_lost(&nodes, ledger).await;
}

/// The rewind of node 3 to node 2, the primary, was interrupted, and then node 2 is lost: only node
/// 1 has data.
#[tokio::test]
async fn a_member_that_is_being_rewound_votes() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    assert!(nodes.nodes[2].terminate().await.success());
    until("a switchover to node 2", async || {
        nodes.nodes[0].sql("SELECT pgraft_switchover(2)::text").await.ok()
    })
    .await;
    more_rows(&ledger, 10).await;
    let epoch = epoch(&nodes, 1);
    std::fs::write(
        nodes.nodes[2].directory.join("pgdata.pgraft/rewind-in-progress"),
        epoch.to_string(),
    )
    .unwrap();
    nodes.nodes[1].kill_all();
    nodes.nodes[2].start();
    until("node 3 to vote", async || {
        nodes.nodes[2]
            .log()
            .contains("this node keeps voting while its server is rewound or cloned")
            .then_some(())
    })
    .await;
    nodes.nodes[2].streaming().await;
    assert!(
        nodes.nodes[2].log().contains("has confirmed nothing since epoch"),
        "it did not report for the election"
    );
    more_rows(&ledger, 10).await;
    nodes.nodes[1].start();
    nothing_is_lost(&nodes, ledger).await;
}
