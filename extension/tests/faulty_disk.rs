//! A full disk, and an fsync that fails once. A library (`faulty_disk.c`) makes the calls fail for
//! the Raft directory only.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{TIMEOUT, TestServer, change, cluster_of, on_leader, until_on_leader};
use pgraft_testkit::{bin_directory, free_port};

const NODES: &str = "select * from pgraft_get_nodes()";

/// Three servers whose disks can be made to fail.
async fn cluster(bindir: &Path, dir: &Path) -> Vec<TestServer> {
    let library = dir.join("faulty_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty_disk.c");
    pgraft_testkit::compile(&source, &["-shared", "-fPIC"], &library);
    let server = |id| {
        let mut server = TestServer::new(bindir, dir, id);
        let text = |path: PathBuf| path.display().to_string();
        server.environment = vec![
            ("LD_PRELOAD".into(), text(library.clone())),
            ("PGRAFT_FAULT".into(), text(fault(&server))),
            ("PGRAFT_FAULT_DIR".into(), format!("{}/", text(server.raft_dir()))),
            ("PGRAFT_FAULT_LOG".into(), format!("{}/", text(server.raft_dir().join("log")))),
        ];
        server
    };
    cluster_of((1..=3).map(server).collect()).await
}

fn fault(server: &TestServer) -> PathBuf {
    server.dir.join("fault")
}

#[tokio::test]
async fn a_full_disk_is_logged_and_survived() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = cluster(&bindir, dir.path()).await;
    // First the disk of a follower, then that of the leader.
    for (full, newcomer) in [(1, 10), (0, 20)] {
        let others: Vec<usize> = (0..3).filter(|n| *n != full).collect();
        std::fs::write(fault(&servers[full]), "full").unwrap();
        if servers[full].one("select pgraft_is_leader()").await == "t" {
            // The call on the full disk gets no confirmation, but may have succeeded, since the
            // other members can have the entry.
            let error = servers[full]
                .error(&format!("select pgraft_add_node(19, '127.0.0.1', {})", free_port()))
                .await;
            assert!(["PGR01", "PGR04", "PGR06"].contains(&error.code().code()), "{error:?}");
        }
        until_leader(&servers, &others).await;
        let others: Vec<&TestServer> = others.iter().map(|n| &servers[*n]).collect();
        // Usually it was not added.
        let taken_back = on_leader(&others, "select pgraft_remove_node(19)").await.1;
        assert!(
            taken_back.as_ref().is_ok_and(|done| done == "t")
                || taken_back.is_err_and(|no| no.code().code() == "42704")
        );
        let port = free_port();
        let _answers = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        change(&others, &format!("select pgraft_add_node({newcomer}, '127.0.0.1', {port})")).await;
        until(
            || servers[full].log().contains("No space left on device"),
            &servers[full],
            "the log to name the full disk",
        )
        .await;
        assert_eq!(servers[full].one("select 1").await, "1", "Postgres keeps running");

        std::fs::remove_file(fault(&servers[full])).unwrap();
        let rows = rows(others[0]).await;
        servers[full].until("select leader is not null from pgraft_status()", "t").await;
        servers[full].until(NODES, &rows).await;
        change(&servers, &format!("select pgraft_remove_node({newcomer})")).await;
        same_log(&servers).await;
    }
}

#[tokio::test]
async fn a_failed_fsync_ends_the_worker_and_is_not_retried() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = cluster(&bindir, dir.path()).await;
    let worker = servers[1].worker().expect("a worker");
    std::fs::write(fault(&servers[1]), "eio").unwrap();
    let newcomer = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = newcomer.local_addr().unwrap().port();
    change(&servers, &format!("select pgraft_add_node(4, '127.0.0.1', {port})")).await;
    servers[1].until_worker("new worker", |now| now.is_some_and(|now| now != worker)).await;
    let said = servers[1].log();
    let line = said
        .lines()
        .find(|l| l.contains("the worker failed and will be restarted"))
        .unwrap_or_default();
    assert!(line.contains("Input/output error"), "{line}");

    let trace = std::fs::read_to_string(servers[1].dir.join("fault.trace")).unwrap();
    let of_worker: Vec<&str> =
        trace.lines().filter_map(|l| l.strip_prefix(&format!("{worker} "))).collect();
    assert_eq!(of_worker.last(), Some(&"-1"), "the failed fsync was that process' last");
    assert_eq!(of_worker.iter().filter(|result| **result == "-1").count(), 1);

    let rows = rows(&servers[0]).await;
    servers[1].until(NODES, &rows).await;
    change(&servers, "select pgraft_remove_node(4)").await;
    same_log(&servers).await;
}

/// An empty directory with a known node id: no member accepts it, and the log has a hint.
#[tokio::test]
async fn an_emptied_directory_is_refused_with_a_hint() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = pgraft_testkit::server::cluster(&bindir, dir.path(), 3).await;
    servers[2].stop();
    std::fs::remove_dir_all(servers[2].raft_dir()).unwrap();
    servers[2].start();
    let words = "this is not the directory that the cluster knows as node 3: a node that has lost its pgraft.data_dir comes back under a new node \
                 id (pgraft_remove_node(3) on the leader, then pgraft_add_node with an id that was never used)";
    until(|| servers[..2].iter().any(|s| s.log().contains(words)), &servers[0], words).await;
    assert_eq!(servers[2].one("select state from pgraft_status()").await, "uninitialized");
    until_on_leader(
        &servers[..2],
        "select reachable from pgraft_members where node_id = 3",
        "false",
    )
    .await;
    change(&servers[..2], "select pgraft_remove_node(3)").await; // the hint
}

async fn until_leader(servers: &[TestServer], among: &[usize]) -> usize {
    let ids: Vec<String> = among.iter().map(|n| servers[*n].id.to_string()).collect();
    let sql = format!("select coalesce(leader in ({}), false) from pgraft_status()", ids.join(","));
    servers[among[0]].until(&sql, "t").await;
    let leader: u16 = servers[among[0]].one("select pgraft_get_leader()").await.parse().unwrap();
    servers.iter().position(|s| s.id == leader).unwrap()
}

/// Asserts that all servers have the same committed entries.
async fn same_log(servers: &[TestServer]) {
    let leader = until_leader(servers, &[0, 1, 2]).await;
    let last = servers[leader].one("select max(index) from pgraft_log() where committed").await;
    let log = format!(
        "select string_agg(index || ' ' || term || kind || data::text, ',' order by index) from pgraft_log() where committed and index <= {last}"
    );
    let wanted = servers[leader].one(&log).await;
    for server in servers {
        server.until(&log, &wanted).await;
    }
}

async fn rows(server: &TestServer) -> String {
    server.rows(NODES).await.iter().map(|r| r.join(",")).collect::<Vec<_>>().join(" ")
}

async fn until(ready: impl Fn() -> bool, server: &TestServer, what: &str) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < TIMEOUT, "waited for {what}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
