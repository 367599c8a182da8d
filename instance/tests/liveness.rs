//! Primaries that stop serving are replaced, and no acknowledged row is lost. A server that is
//! busy, out of connections or locked, or whose instance manager was paused, is not replaced.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "used by tests only"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{
    complete, epoch, more_rows, nothing_is_lost, primary, primary_after, three_nodes,
};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Nodes, child_of, compile, until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
use tokio::sync::RwLock;

fn stop(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
}

fn postmaster(nodes: &Nodes, of: usize) -> i32 {
    nodes.nodes[of].postmaster().unwrap()
}

async fn child(nodes: &Nodes, of: usize, name: &str) -> i32 {
    until(name, async || child_of(nodes.nodes[of].postmaster()?, name)).await
}

/// Harms the primary, and waits until another node has replaced it and the cluster is complete.
/// Returns the old primary.
async fn replaces_the_primary(
    nodes: &Nodes,
    ledger: &Ledger,
    harm: impl AsyncFnOnce(usize),
) -> usize {
    replaces_the_primary_until(nodes, ledger, harm, async |_| ()).await
}

/// As [`replaces_the_primary`], for harm that must be undone before the node can come back.
async fn replaces_the_primary_until(
    nodes: &Nodes,
    ledger: &Ledger,
    harm: impl AsyncFnOnce(usize),
    undo: impl AsyncFnOnce(usize),
) -> usize {
    complete(nodes).await;
    let old = primary(nodes).await;
    let before = epoch(nodes, old);
    more_rows(ledger, 10).await;
    harm(old).await;
    primary_after(nodes, before, &[old]).await;
    more_rows(ledger, 10).await;
    undo(old).await;
    complete(nodes).await;
    old
}

fn assert_logged(nodes: &Nodes, node: usize, line: &str) {
    assert!(nodes.nodes[node].log().contains(line), "node {} did not log: {line}", node + 1);
}

/// One test keeps all processors busy, and must not run at the same time as the others.
static PROCESSORS: RwLock<()> = RwLock::const_new(());

#[tokio::test]
async fn a_primary_that_cannot_serve_is_replaced() {
    let _others = PROCESSORS.read().await;
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());

    let old = replaces_the_primary(&nodes, &ledger, async |old| {
        stop(postmaster(&nodes, old));
    })
    .await;
    assert_logged(&nodes, old, "Postgres is unresponsive: its postmaster is stopped");

    let old = replaces_the_primary(&nodes, &ledger, async |old| {
        stop(child(&nodes, old, "checkpointer").await);
    })
    .await;
    assert_logged(&nodes, old, "Postgres is unresponsive: its checkpointer is stopped");

    let old = replaces_the_primary(&nodes, &ledger, async |old| {
        let senders = "SELECT string_agg(pid::text, ' ') FROM pg_stat_replication";
        let pids = nodes.nodes[old].sql(senders).await.unwrap().unwrap();
        pids.split(' ').for_each(|pid| stop(pid.parse().unwrap()));
    })
    .await;
    assert_logged(
        &nodes,
        old,
        "Postgres is unresponsive: commits wait for standbys and a walsender is stopped",
    );
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_killed_backend_or_postmaster_replaces_the_primary() {
    let _others = PROCESSORS.read().await;
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    for _ in 0..3 {
        let old = replaces_the_primary(&nodes, &ledger, async |old| {
            kill(Pid::from_raw(postmaster(&nodes, old)), Signal::SIGKILL).unwrap();
        })
        .await;
        assert_logged(&nodes, old, "this primary's server is ending; releasing its lease");
        replaces_the_primary(&nodes, &ledger, async |old| {
            let client = nodes.nodes[old].connect("app", "owner-1", "app").await.unwrap();
            let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        })
        .await;
    }
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_smart_shutdown_by_another_program_hands_over_and_restarts() {
    let _others = PROCESSORS.read().await;
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let old = primary(&nodes).await;
    let stays = nodes.nodes[old].connect("app", "owner-1", "app").await.unwrap();
    let old = replaces_the_primary(&nodes, &ledger, async |old| {
        kill(Pid::from_raw(postmaster(&nodes, old)), Signal::SIGTERM).unwrap();
    })
    .await;
    assert_logged(&nodes, old, "Postgres is being shut down, and not by pgraft-instance");
    assert_logged(&nodes, old, "failover: this primary steps down for node");
    assert!(stays.query("SELECT 1", &[]).await.is_err(), "its server was restarted");

    // A standby is restarted, whether or not it leads the Raft group.
    let standby = (primary(&nodes).await + 1) % 3;
    let before = (epoch(&nodes, primary(&nodes).await), postmaster(&nodes, standby));
    let _stays = nodes.nodes[standby].connect("postgres", "superuser-1", "postgres").await.unwrap();
    kill(Pid::from_raw(before.1), Signal::SIGTERM).unwrap();
    until("another postmaster", async || {
        nodes.nodes[standby].postmaster().filter(|pid| *pid != before.1)
    })
    .await;
    complete(&nodes).await;
    assert_eq!(epoch(&nodes, primary(&nodes).await), before.0, "the primary has changed");
    nothing_is_lost(&nodes, ledger).await;
}

/// The library that freezes a node's disk while its file names a directory.
fn freezer() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let library = dir.path().join("freeze.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/freeze.c");
    compile(&source, &["-shared", "-fPIC"], &library);
    (dir, library)
}

#[tokio::test]
async fn a_primary_whose_disk_hangs_is_replaced() {
    let _others = PROCESSORS.read().await;
    let (dir, library) = freezer();
    let file = |id: u32| dir.path().join(format!("freeze-{id}"));
    let preloaded = |node: &mut pgraft_testkit::TestNode| {
        let text = |path: &Path| path.display().to_string();
        node.environment = vec![
            ("LD_PRELOAD".into(), text(&library)),
            ("FREEZE_FILE".into(), text(&file(node.id))),
        ];
    };
    let Some(nodes) = three_nodes(preloaded).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let freeze = |n: usize, what: &str| {
        let node = &nodes.nodes[n];
        std::fs::write(file(node.id), node.directory.join(what).display().to_string()).unwrap();
    };
    let old = primary(&nodes).await;
    more_rows(&ledger, 10).await;

    // The Raft files of the primary: the other members continue, and so does the primary.
    freeze(old, "raft/");
    tokio::time::sleep(Duration::from_secs(8)).await; // the duration of the fault
    more_rows(&ledger, 50).await;
    std::fs::remove_file(file(nodes.nodes[old].id)).unwrap();
    let old = replaces_the_primary_until(
        &nodes,
        &ledger,
        async |old| freeze(old, "pgdata/"),
        async |old| {
            std::fs::remove_file(file(nodes.nodes[old].id)).unwrap();
        },
    )
    .await;
    assert_logged(&nodes, old, "Postgres is unresponsive: it cannot flush WAL");
    nothing_is_lost(&nodes, ledger).await;
}

/// Busy processes. They end when this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn on_all_processors(times: usize) -> Self {
        let count = std::thread::available_parallelism().map_or(2, usize::from) * times;
        Self(
            (0..count)
                .map(|_| {
                    Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap()
                })
                .collect(),
        )
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn a_busy_full_or_locked_server_is_not_replaced() {
    let _alone = PROCESSORS.write().await;
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let old = primary(&nodes).await;
    more_rows(&ledger, 10).await;
    // Longer than a server may be unresponsive.
    let long = Duration::from_secs(10);

    // The lease may expire on such a busy machine, but the server must not be killed.
    let busy = Busy::on_all_processors(8);
    tokio::time::sleep(long).await; // the duration of the fault
    drop(busy);

    // All connections, including the reserved ones.
    let mut all = vec![];
    while let Ok(client) = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await {
        all.push(client);
    }
    assert!(all.len() > 10);
    tokio::time::sleep(long).await; // the duration of the fault
    drop(all);

    // A lock on a shared catalog, for which every new session waits.
    let locker = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await.unwrap();
    let lock = "BEGIN; LOCK TABLE pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await.unwrap();
    tokio::time::sleep(long).await; // the duration of the fault
    locker.batch_execute("ROLLBACK").await.unwrap();

    // The instance manager is paused for a long time, and then the server for a moment.
    let postmaster = postmaster(&nodes, old);
    nodes.nodes[old].signal(Signal::SIGSTOP);
    tokio::time::sleep(long).await; // the duration of the fault
    stop(postmaster);
    nodes.nodes[old].signal(Signal::SIGCONT);
    tokio::time::sleep(Duration::from_secs(1)).await; // the duration of the fault
    // Its worker may have ended it, since the lease may expire on a busy machine.
    let _ = kill(Pid::from_raw(postmaster), Signal::SIGCONT);
    more_rows(&ledger, 10).await;
    for node in &nodes.nodes {
        assert!(!node.log().contains("Postgres is unresponsive"), "node {} was killed", node.id);
    }
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_primary_is_killed_only_when_another_member_could_take_over() {
    let _others = PROCESSORS.read().await;
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    complete(&nodes).await;
    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    for n in &others {
        assert!(nodes.nodes[*n].terminate().await.success());
    }
    let postmaster = postmaster(&nodes, old);
    stop(postmaster);
    let reason = "Postgres is unresponsive: its postmaster is stopped; not killing it, because no \
                  other member could become the primary";
    until("the decision not to kill it", async || {
        nodes.nodes[old].log().contains(reason).then_some(())
    })
    .await;
    assert_eq!(nodes.nodes[old].postmaster(), Some(postmaster));
    for n in &others {
        nodes.nodes[*n].start();
    }
    primary_after(&nodes, before, &[old]).await;
    assert_logged(&nodes, old, "Postgres is unresponsive: its postmaster is stopped; killing it");
}
