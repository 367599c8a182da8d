//! A crash between a checkpoint's two-phase state files and its control file loses no prepared
//! transaction, whether the whole server ends or its postmaster survives and recovers.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::bin_directory;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::TestServer;

const REMOVED: &str = "removed two-phase state file";

/// Prepares a transaction and has a checkpoint write its file. Returns the earlier `pg_control`.
async fn prepare(server: &TestServer, gid: &str, id: i32) -> Vec<u8> {
    let client = server.connect().await;
    client.batch_execute("checkpoint").await.unwrap();
    // Uses up a transaction id. With the very next id, the file would have the right name by
    // chance.
    client.batch_execute(&format!("insert into held values ({id}, 0)")).await.unwrap();
    client
        .batch_execute(&format!(
            "begin; update held set v = 1 where id = {id}; prepare transaction '{gid}'"
        ))
        .await
        .unwrap();
    let control = fs::read(server.pgdata().join("global/pg_control")).unwrap();
    client.batch_execute("checkpoint").await.unwrap();
    control
}

fn children(of: Pid) -> Vec<Pid> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| parent(*pid) == Some(of.as_raw())).map(Pid::from_raw).collect()
}

#[tokio::test]
async fn a_crash_during_a_checkpoint_loses_no_prepared_transaction() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = TestServer::new(&bindir, dir.path(), 1);
    server.set("max_prepared_transactions = 10\nrestart_after_crash = on");
    server.start();
    server
        .connect()
        .await
        .batch_execute("create table held (id int primary key, v int)")
        .await
        .unwrap();
    let control = server.pgdata().join("global/pg_control");

    // The postmaster survives, and all its processes are killed.
    let before = prepare(&server, "x1", 1).await;
    let postmaster = server.postmaster().unwrap();
    kill(postmaster, Signal::SIGSTOP).unwrap();
    for child in children(postmaster) {
        kill(child, Signal::SIGKILL).unwrap();
    }
    fs::write(&control, before).unwrap();
    kill(postmaster, Signal::SIGCONT).unwrap();
    server.until("select count(*) from pg_prepared_xacts", "1").await;
    assert_eq!(server.postmaster(), Some(postmaster));
    assert_eq!(server.log().matches(REMOVED).count(), 1);

    // The whole server is killed.
    let before = prepare(&server, "x2", 2).await;
    for pid in children(postmaster).into_iter().chain([postmaster]) {
        let _ = kill(pid, Signal::SIGKILL); // it may have ended with the postmaster
    }
    fs::write(&control, before).unwrap();
    let _ = fs::remove_file(server.pgdata().join("postmaster.pid"));
    server.until_worker("the end of it", |worker| worker.is_none()).await;
    server.start();
    server.until("select string_agg(gid, ' ' order by gid) from pg_prepared_xacts", "x1 x2").await;
    assert_eq!(server.log().matches(REMOVED).count(), 2);
    let locked = server.error("set lock_timeout = '300ms'; update held set v = 2").await;
    assert_eq!(locked.code().code(), "55P03");
    let client = server.connect().await;
    client.batch_execute("commit prepared 'x1'").await.unwrap();
    client.batch_execute("commit prepared 'x2'").await.unwrap();
    assert_eq!(
        server.one("select string_agg(id || ':' || v, ' ' order by id) from held").await,
        "1:1 2:1"
    );
    server.stop();
}
