//! The WAL intake of a standby on real servers: from which server it takes WAL, and that a closed
//! intake takes and confirms nothing. The tests open and close it through `pages.c`, on servers
//! whose worker does not run.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

mod governed;

use governed::{OPEN, WaitingStatement, governed, open, open_on, run, standby, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::TestServer;

const CLOSE: &str = "select intake('', 0, 0)";

fn receiving(from: &TestServer) -> String {
    format!(
        "select status || sender_port || (conninfo ~ 'host=127.0.0.1') from pg_stat_wal_receiver where sender_port = {}",
        from.port
    )
}

fn received(from: &TestServer) -> String {
    format!("streaming{}true", from.port)
}

/// Waits until no walsender runs. Then the server has processed every reply of its standbys.
async fn processed_all_replies(primary: &TestServer) {
    primary.until("select count(*) from pg_stat_replication", "0").await;
}

#[tokio::test]
async fn takes_wal_only_from_its_target_when_it_is_open() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let primary = governed(&bindir, dir.path()).await;
    run(&primary.connect_locally().await, OPEN).await.unwrap();
    let (second, third) =
        (standby(&bindir, dir.path(), 2, &primary), standby(&bindir, dir.path(), 3, &primary));
    third.until("select words('pgraft_intake', 1) > 1", "t").await; // a walreceiver was refused
    assert!(third.log().contains("pgraft does not accept WAL while the cluster has no primary"));
    assert_eq!(third.one("select count(*) from pg_stat_wal_receiver").await, "0");
    for standby in [&second, &third] {
        standby.rows(&open(&primary)).await;
        standby.until(&receiving(&primary), &received(&primary)).await;
    }
    primary.rows("insert into t values (2)").await;
    third.until("select string_agg(v::text, ' ') from t", "1 2").await;
    // Not from a standby, which may be promoted while it sends, and not from a primary on another
    // timeline.
    let refused =
        async |words: &str| third.until_worker(words, |_| third.log().contains(words)).await;
    third.rows(&open(&second)).await;
    refused("server is in hot standby mode").await;
    third.rows(&open_on(&primary, 7)).await;
    refused("it is not on the timeline of the primary").await;
    assert!(!third.log().contains("HINT:  \n"), "an empty hint is left out");
    primary.rows("insert into t values (3)").await;
    assert_eq!(third.one("select count(*) from t").await, "2");
    third.rows(&open(&primary)).await;
    third.until("select string_agg(v::text, ' ') from t", "1 2 3").await;
    let refused = third.error("select pg_promote()").await;
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("55000", "cannot promote this server manually while pgraft.failover is on")
    );
}

#[tokio::test]
async fn a_closed_intake_confirms_nothing() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let primary = governed(&bindir, dir.path()).await;
    run(&primary.connect_locally().await, OPEN).await.unwrap();
    let standby = standby(&bindir, dir.path(), 2, &primary);
    standby.rows(&open(&primary)).await;
    wait_for(&primary, "node2");
    primary.until("select sync_state from pg_stat_replication", "sync").await;
    primary.rows("insert into t values (2)").await;
    // The WAL of the commit arrives while the receiver is stopped. Then the intake closes, and the
    // receiver continues.
    let receiver =
        Pid::from_raw(standby.one("select pid from pg_stat_wal_receiver").await.parse().unwrap());
    kill(receiver, Signal::SIGSTOP).unwrap();
    let waiting = WaitingStatement::of(&primary, "", "insert into t values (3)").await;
    let before = standby.one("select pg_last_wal_receive_lsn()").await;
    standby.rows(CLOSE).await;
    kill(receiver, Signal::SIGCONT).unwrap();
    standby.until("select count(*) from pg_stat_wal_receiver", "0").await;
    standby.until("select words('pgraft_intake', 1) > 0", "t").await; // and a new one was refused
    assert_eq!(standby.one("select pg_last_wal_receive_lsn()").await, before);
    processed_all_replies(&primary).await;
    assert_eq!(
        primary
            .one(&format!("select wait_event from pg_stat_activity where pid = {}", waiting.pid))
            .await,
        "SyncRep"
    );
    standby.rows(&open(&primary)).await;
    waiting.answer().await.1.unwrap();
    standby.until("select string_agg(v::text, ' ') from t", "1 2 3").await;
}

/// A standby has WAL that the next primary does not have, has fetched that primary's history file,
/// and is restarted. Postgres replays past the fork, and requests the new primary's WAL from there.
/// None of that WAL is confirmed.
#[tokio::test]
async fn a_diverged_standby_confirms_nothing() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let old = governed(&bindir, dir.path()).await;
    run(&old.connect_locally().await, OPEN).await.unwrap();
    let (next, diverged) =
        (standby(&bindir, dir.path(), 2, &old), standby(&bindir, dir.path(), 3, &old));
    for standby in [&next, &diverged] {
        standby.rows(&open(&old)).await;
        standby.until(&receiving(&old), &received(&old)).await;
    }
    // If it had written its data files, the control file would have a later minimum recovery point,
    // and it would not start.
    diverged.set("bgwriter_lru_maxpages = 0\ncheckpoint_timeout = '1h'");
    diverged.reload();
    diverged.until("show bgwriter_lru_maxpages", "0").await;
    next.rows(CLOSE).await;
    next.until("select count(*) from pg_stat_wal_receiver", "0").await;
    old.rows("insert into t select generate_series(2, 500)").await;
    diverged.until("select max(v) from t", "500").await;
    kill(old.postmaster().unwrap(), Signal::SIGQUIT).unwrap();

    run(&next.connect_locally().await, OPEN).await.unwrap();
    std::fs::write(next.pgdata().join("promote"), "").unwrap();
    kill(next.postmaster().unwrap(), Signal::SIGUSR1).unwrap();
    next.until("select pg_is_in_recovery()", "f").await;
    next.rows("insert into t select -generate_series(1, 5000)").await;
    diverged.rows(&open_on(&next, 2)).await;
    let refused =
        async |words: &str| diverged.until_worker(words, |_| diverged.log().contains(words)).await;
    refused("new timeline 2 forked off current database system timeline 1 before current recovery point").await;

    kill(diverged.postmaster().unwrap(), Signal::SIGQUIT).unwrap();
    diverged
        .until_worker("end of the server", |_| !diverged.pgdata().join("postmaster.pid").exists())
        .await;
    diverged.start();
    wait_for(&next, "node3");
    let waiting = WaitingStatement::of(&next, "", "insert into t values (0)").await;
    diverged.rows(&open_on(&next, 2)).await;
    let line = "this server has WAL that is not in the history of the primary";
    diverged.until_worker("third refusal", |_| diverged.log().matches(line).count() >= 3).await;
    diverged.rows(CLOSE).await;
    processed_all_replies(&next).await;
    assert_eq!(diverged.one("select max(v) from t").await, "500", "it has replayed past the fork");
    assert_eq!(
        next.one(&format!("select wait_event from pg_stat_activity where pid = {}", waiting.pid))
            .await,
        "SyncRep"
    );
    let received = "select count(*) from pg_ls_waldir() where name like '00000002________________'";
    assert_eq!(diverged.one(received).await, "0", "it has taken none of the new primary's WAL");
}

#[tokio::test]
async fn logical_replication_is_not_affected() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let subscriber = governed(&bindir, dir.path()).await;
    run(&subscriber.connect_locally().await, OPEN).await.unwrap();
    let publisher = TestServer::new(&bindir, dir.path(), 2);
    publisher.set("wal_level = logical");
    publisher.start();
    publisher
        .rows("create table t(v int); insert into t values (7); create publication p for table t")
        .await;
    subscriber
        .rows(&format!(
            "create subscription s connection 'host=127.0.0.1 port={} user=postgres dbname=postgres' publication p",
            publisher.port
        ))
        .await;
    subscriber.until("select string_agg(v::text, ' ' order by v) from t", "1 7").await;
    publisher.rows("insert into t values (8)").await;
    subscriber.until("select string_agg(v::text, ' ' order by v) from t", "1 7 8").await;
}

#[tokio::test]
async fn a_standby_without_failover_is_not_affected() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let primary = TestServer::new(&bindir, dir.path(), 1);
    primary.start();
    let standby = TestServer::standby_of(&bindir, dir.path(), 2, &primary);
    standby.start();
    primary.rows("create table t(v int)").await;
    standby.until("select count(*) from t", "0").await;
    assert_eq!(standby.one("select pg_promote()").await, "t");
    standby.rows("insert into t values (1)").await;
}

#[tokio::test]
async fn every_process_reports_which_names_it_has_loaded() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let primary = governed(&bindir, dir.path()).await;
    primary.set("pgraft.sync_change = 3");
    primary.reload();
    let admin = primary.connect_locally().await;
    run(&admin, OPEN).await.unwrap();
    let checkpointer = "select words('pgraft_names', 0)";
    primary.until(checkpointer, "3").await;
    let standby = standby(&bindir, dir.path(), 2, &primary);
    standby.rows(&open(&primary)).await;
    let walsender = "select ((select pid from pg_stat_replication where state = 'streaming') = words('pgraft_names', 2) >> 32)::text
        || (words('pgraft_names', 2) & 2147483647)";
    primary.until(walsender, "true3").await;
    let pid =
        Pid::from_raw(primary.one("select pid from pg_stat_replication").await.parse().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    primary.set("synchronous_standby_names = 'node2'\npgraft.sync_change = 4");
    primary.reload();
    primary.until(checkpointer, "4").await;
    assert_eq!(primary.one(walsender).await, "true3", "it still uses the old names");
    kill(pid, Signal::SIGCONT).unwrap();
    primary.until(walsender, "true4").await;
    assert_eq!(
        primary.one("select sync_priority from pg_stat_replication").await,
        "1",
        "it had loaded the names before it reported them"
    );
    standby.stop();
    primary.until("select words('pgraft_names', 2)", "0").await;
    // After a restart, the value of the file applies.
    primary.stop();
    primary.start();
    let admin = primary.connect_locally().await;
    assert_eq!(run(&admin, checkpointer).await.unwrap(), "4");
    assert_eq!(
        run(&admin, "select count(*) from pg_settings where name = 'pgraft.sync_change'")
            .await
            .unwrap(),
        "0"
    );
}
