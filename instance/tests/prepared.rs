//! Prepared transactions survive a failover, a rewind, a clone and a crash during a restartpoint.
//! They keep their locks, can be committed, and no row exists twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "used by tests only"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{complete, primary, three_nodes};
use pgraft_testkit::{Nodes, TestNode, bin_directory, until};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The log line about a file with which Postgres 17 would fail to start.
const REMOVED: &str =
    "removed a two-phase state file that is newer than the checkpoint recovery starts from";

async fn superuser(node: &TestNode) -> Client {
    until("a session", async || node.connect("postgres", "superuser-1", "app").await.ok()).await
}

/// Uses up a transaction id first. With the very next id, the file would have the right name by
/// chance.
async fn prepare(client: &Client, gid: &str, id: i32) {
    client.batch_execute(&format!("INSERT INTO held VALUES ({id}, 0)")).await.unwrap();
    client.batch_execute("CREATE TABLE one_more (); DROP TABLE one_more").await.unwrap();
    client
        .batch_execute(&format!(
            "BEGIN; UPDATE held SET v = v + 1 WHERE id = {id}; PREPARE TRANSACTION '{gid}'"
        ))
        .await
        .unwrap();
}

async fn prepared(client: &Client) -> Vec<String> {
    client
        .query("SELECT gid FROM pg_prepared_xacts ORDER BY gid", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Asserts that every prepared transaction exists and holds its lock.
async fn all_hold(client: &Client, gids: &[(&str, i32)]) {
    assert_eq!(prepared(client).await, gids.iter().map(|(gid, _)| *gid).collect::<Vec<_>>());
    for (gid, id) in gids {
        let update = format!("SET lock_timeout = '300ms'; UPDATE held SET v = 100 WHERE id = {id}");
        let error = client
            .batch_execute(&update)
            .await
            .expect_err(&format!("the row of {gid} is not locked"));
        assert_eq!(error.code().map(SqlState::code), Some("55P03"), "{error}");
    }
}

async fn switch_to(nodes: &Nodes, to: usize) {
    complete(nodes).await;
    let switch = format!("SELECT pgraft_switchover({})::text", to + 1);
    until("a switchover", async || {
        let _ = nodes.nodes[primary(nodes).await].sql(&switch).await;
        (primary(nodes).await == to).then_some(())
    })
    .await;
}

fn files(node: &TestNode) -> usize {
    std::fs::read_dir(node.directory.join("pgdata/pg_twophase")).unwrap().count()
}

/// Writes WAL that the next primary will not have, so that this server must be rewound.
async fn fail_over_from(nodes: &mut Nodes, old: usize) -> usize {
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for n in &others {
        nodes.nodes[*n].kill_all();
    }
    let alone = superuser(&nodes.nodes[old]).await;
    let wrote =
        alone.batch_execute("SET synchronous_commit = local; CREATE TABLE nobody_else_has AS SELECT generate_series(1, 1000)").await;
    // A subscriber that has received more than any standby.
    let received = alone
        .batch_execute("SELECT count(*) FROM pg_logical_slot_get_changes('ahead', NULL, NULL)")
        .await;
    nodes.nodes[old].kill_all();
    wrote.unwrap();
    received.unwrap();
    for n in others {
        nodes.nodes[n].start();
    }
    primary(nodes).await
}

/// A clone during which a transaction is prepared and a checkpoint writes its file. Returns whether
/// the clone has the file.
async fn clone_around_a_checkpoint(nodes: &mut Nodes, of: usize, gid: &str, id: i32) -> bool {
    let from = primary(nodes).await;
    let client = superuser(&nodes.nodes[from]).await;
    let seen = nodes.nodes[of].log().matches(REMOVED).count();
    assert!(nodes.nodes[of].terminate().await.success());
    std::fs::remove_dir_all(nodes.nodes[of].directory.join("pgdata")).unwrap();
    nodes.nodes[of].start();
    // The base backup is stopped after its checkpoint, until there is another checkpoint.
    let sends = "SELECT pid FROM pg_stat_progress_basebackup WHERE phase NOT IN ('initializing', 'waiting for checkpoint to finish')";
    let deadline = Instant::now() + pgraft_testkit::TIMEOUT;
    let sender = loop {
        if let Some(row) = client.query(sends, &[]).await.unwrap().first() {
            break Pid::from_raw(row.get(0));
        }
        assert!(Instant::now() < deadline, "no base backup");
    };
    kill(sender, Signal::SIGSTOP).unwrap();
    prepare(&client, gid, id).await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    kill(sender, Signal::SIGCONT).unwrap();
    nodes.nodes[of].streaming().await;
    nodes.nodes[of].log().matches(REMOVED).count() > seen
}

/// Links to the Postgres programs, except that the first pg_rewind of each data directory fails as
/// if the primary had refused its connection.
fn first_rewind_is_refused(bin: &Path) -> tempfile::TempDir {
    let programs = tempfile::tempdir().unwrap();
    std::fs::set_permissions(programs.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for program in std::fs::read_dir(bin).unwrap().map(|entry| entry.unwrap().path()) {
        let name = program.file_name().unwrap();
        if name != "pg_rewind" {
            symlink(&program, programs.path().join(name)).unwrap();
        }
    }
    let script = format!(
        "#!/bin/sh\n[ -e \"$2.refused\" ] && exec {}/pg_rewind \"$@\"\n: > \"$2.refused\"\necho 'pg_rewind: error: Connection refused' >&2\nexit 1\n",
        bin.display()
    );
    let path = programs.path().join("pg_rewind");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    programs
}

/// Commits one prepared transaction on each member, and rolls back the others. Then asserts that
/// all members have the same rows, each once.
async fn are_committed(nodes: &Nodes, members: [usize; 3], all: &[(&str, i32)]) {
    let mut left = all;
    for node in members {
        switch_to(nodes, node).await;
        let client = superuser(&nodes.nodes[node]).await;
        all_hold(&client, left).await;
        if let Some(((gid, id), rest)) = left.split_first() {
            client.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await.unwrap();
            client
                .batch_execute(&format!("UPDATE held SET v = v + 1 WHERE id = {id}"))
                .await
                .unwrap();
            left = rest;
        }
    }
    let client = superuser(&nodes.nodes[members[2]]).await;
    for (gid, _) in left {
        client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await.unwrap();
    }
    complete(nodes).await;
    let want = "SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM held";
    let done = all
        .iter()
        .map(|(_, id)| format!("{id}:{}", if *id <= 3 { 2 } else { 0 }))
        .collect::<Vec<_>>()
        .join(" ");
    for node in members {
        let client = superuser(&nodes.nodes[node]).await;
        let rows = async || -> Option<String> { client.query_one(want, &[]).await.ok()?.get(0) };
        until(&format!("node {} to have {done}", node + 1), async || {
            (rows().await.as_ref() == Some(&done)).then_some(())
        })
        .await;
        assert!(prepared(&client).await.is_empty());
        client.batch_execute("SELECT bt_index_check('held_pkey', true)").await.unwrap();
        let damage =
            client.query("SELECT * FROM verify_heapam('held') UNION ALL SELECT * FROM verify_heapam('shared')", &[]).await.unwrap();
        assert!(damage.is_empty(), "the heap of node {} is damaged", node + 1);
    }
}

#[tokio::test]
async fn prepared_transactions_survive_failover_rewind_clone_and_crash() {
    let Some(bin) = bin_directory() else { return };
    let programs = first_rewind_is_refused(&bin);
    let some = |node: &mut TestNode| {
        node.bin = programs.path().to_owned();
        node.parameters.insert("max_prepared_transactions".into(), "20".into());
        node.parameters.insert("sync_replication_slots".into(), "on".into());
    };
    let Some(mut nodes) = three_nodes(some).await else { return };
    let old = primary(&nodes).await;
    let client = superuser(&nodes.nodes[old]).await;
    client
        .batch_execute(
            "CREATE TABLE held (id int PRIMARY KEY, v int); CREATE EXTENSION amcheck; CHECKPOINT",
        )
        .await
        .unwrap();
    // Created first, since it would wait for the end of prepared transactions.
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('ahead', 'test_decoding')")
        .await
        .unwrap();
    prepare(&client, "x1", 1).await;
    // A row that is locked by a multixact.
    client
        .batch_execute(
            "CREATE TABLE shared (id int PRIMARY KEY, v int); INSERT INTO shared VALUES (1, 0)",
        )
        .await
        .unwrap();
    let other = superuser(&nodes.nodes[old]).await;
    other.batch_execute("BEGIN; SELECT * FROM shared FOR KEY SHARE").await.unwrap();
    client
        .batch_execute(
            "BEGIN; UPDATE shared SET v = 1; SAVEPOINT s; UPDATE shared SET v = 2; COMMIT",
        )
        .await
        .unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    client
        .batch_execute(
            "CREATE UNLOGGED TABLE brief (id int PRIMARY KEY); INSERT INTO brief VALUES (1)",
        )
        .await
        .unwrap();

    // A failover, and a rewind of the old primary after the new one has written the file.
    let new = fail_over_from(&mut nodes, old).await;
    let client = superuser(&nodes.nodes[new]).await;
    all_hold(&client, &[("x1", 1)]).await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    assert_eq!(files(&nodes.nodes[new]), 1);
    nodes.nodes[old].start();
    let rewound = "rewound the data directory to the primary's history";
    until("a rewind", async || nodes.nodes[old].log().contains(rewound).then_some(())).await;
    assert!(nodes.nodes[old].log().contains("before it changed anything; trying again"));
    nodes.nodes[old].streaming().await;
    switch_to(&nodes, old).await;
    let client = superuser(&nodes.nodes[old]).await;
    all_hold(&client, &[("x1", 1)]).await;
    assert!(nodes.nodes[old].log().contains(REMOVED));
    let slots: i64 = client
        .query_one("SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(slots, 0, "the subscriber would miss changes");
    let brief: i64 = client.query_one("SELECT count(*) FROM brief", &[]).await.unwrap().get(0);
    client.batch_execute("INSERT INTO brief VALUES (1)").await.unwrap();
    assert_eq!(brief, 0, "an unlogged table is empty after a failover");
    let shared: i32 =
        client.query_one("UPDATE shared SET v = v + 1 RETURNING v", &[]).await.unwrap().get(0);
    assert_eq!(shared, 3);

    // A standby that crashes after a restartpoint has written the file, but not the control file.
    let third = (0..3).find(|n| *n != old && *n != new).unwrap();
    let standby = superuser(&nodes.nodes[third]).await;
    standby.batch_execute("CHECKPOINT").await.unwrap();
    prepare(&client, "x2", 2).await;
    let control = nodes.nodes[third].directory.join("pgdata/global/pg_control");
    let before = std::fs::read(&control).unwrap();
    client.batch_execute("CHECKPOINT").await.unwrap();
    let replayed = "SELECT pg_current_wal_flush_lsn()::text";
    let upto: String = client.query_one(replayed, &[]).await.unwrap().get(0);
    nodes.nodes[third].wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{upto}'"), "t").await;
    standby.batch_execute("CHECKPOINT").await.unwrap();
    assert_eq!(files(&nodes.nodes[third]), 2);
    nodes.nodes[third].kill_all();
    std::fs::write(&control, before).unwrap();
    nodes.nodes[third].start();
    nodes.nodes[third].streaming().await;
    assert!(nodes.nodes[third].log().contains(REMOVED));

    // A clone that copies a file that is newer than its checkpoint.
    let mut all: Vec<(String, i32)> = vec![("x1".into(), 1), ("x2".into(), 2)];
    for (n, id) in (3..9).enumerate() {
        let gid = format!("x{id}");
        let met = clone_around_a_checkpoint(&mut nodes, third, &gid, id).await;
        all.push((gid, id));
        eprintln!("clone {}: {}", n + 1, if met { "with the file" } else { "without the file" });
        if met {
            break;
        }
    }
    let all: Vec<(&str, i32)> = all.iter().map(|(gid, id)| (gid.as_str(), *id)).collect();
    switch_to(&nodes, third).await;
    let client = superuser(&nodes.nodes[third]).await;
    all_hold(&client, &all).await;

    are_committed(&nodes, [third, new, old], &all).await;
}
