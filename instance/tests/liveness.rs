//! Three nodes whose primary stops serving in one way or another: a standby takes over, and nothing
//! that was acknowledged is lost. And what looks like it and is not: a server that is busy, full,
//! or whose observer was paused keeps its place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "this is a test through and through"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{
    epoch, more_rows, nothing_is_lost, of_three, primary, primary_after, whole,
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

/// What is done to the primary has another one take over; the old one comes back by itself.
async fn hands_over(
    nodes: &Nodes,
    ledger: &Ledger,
    what: &str,
    harm: impl AsyncFnOnce(usize),
) -> usize {
    hands_over_and_back(nodes, ledger, what, harm, async |_| ()).await
}

/// The same, where the harm must be taken back before the old one can come back.
async fn hands_over_and_back(
    nodes: &Nodes,
    ledger: &Ledger,
    what: &str,
    harm: impl AsyncFnOnce(usize),
    mend: impl AsyncFnOnce(usize),
) -> usize {
    whole(nodes).await;
    let old = primary(nodes).await;
    let before = epoch(nodes, old);
    more_rows(ledger, 10).await;
    ledger.new_gap();
    harm(old).await;
    let new = primary_after(nodes, before, &[old]).await;
    more_rows(ledger, 10).await;
    println!(
        "{what}: node {} took over from node {}, no acknowledgement for {:?}",
        new + 1,
        old + 1,
        ledger.new_gap()
    );
    mend(old).await;
    whole(nodes).await;
    old
}

fn says(nodes: &Nodes, of: usize, words: &str) {
    assert!(nodes.nodes[of].log().contains(words), "node {} does not say: {words}", of + 1);
}

/// One test keeps all processors busy: the others are not beside it.
static PROCESSORS: RwLock<()> = RwLock::const_new(());

#[tokio::test]
async fn a_primary_that_cannot_serve_is_replaced() {
    let _others = PROCESSORS.read().await;
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());

    let old = hands_over(&nodes, &ledger, "a stopped postmaster", async |old| {
        stop(postmaster(&nodes, old));
    })
    .await;
    says(&nodes, old, "Postgres is unresponsive: its postmaster is stopped");

    let old = hands_over(&nodes, &ledger, "a stopped checkpointer", async |old| {
        stop(child(&nodes, old, "checkpointer").await);
    })
    .await;
    says(&nodes, old, "Postgres is unresponsive: its checkpointer is stopped");

    let old = hands_over(&nodes, &ledger, "stopped walsenders", async |old| {
        let senders = "SELECT string_agg(pid::text, ' ') FROM pg_stat_replication";
        let pids = nodes.nodes[old].sql(senders).await.unwrap().unwrap();
        pids.split(' ').for_each(|pid| stop(pid.parse().unwrap()));
    })
    .await;
    says(
        &nodes,
        old,
        "Postgres is unresponsive: commits wait for standbys and a walsender is stopped",
    );
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_killed_backend_costs_what_a_killed_postmaster_costs() {
    let _others = PROCESSORS.read().await;
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    for _ in 0..3 {
        let old = hands_over(&nodes, &ledger, "a killed postmaster", async |old| {
            kill(Pid::from_raw(postmaster(&nodes, old)), Signal::SIGKILL).unwrap();
        })
        .await;
        says(&nodes, old, "the server of this primary ends: its lease");
        hands_over(&nodes, &ledger, "a killed backend", async |old| {
            let client = nodes.nodes[old].connect("app", "owner-1", "app").await.unwrap();
            let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        })
        .await;
    }
    nothing_is_lost(&nodes, ledger).await;
}

#[tokio::test]
async fn a_smart_shutdown_by_somebody_else_is_a_handover_and_a_restart() {
    let _others = PROCESSORS.read().await;
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let old = primary(&nodes).await;
    let stays = nodes.nodes[old].connect("app", "owner-1", "app").await.unwrap();
    let old = hands_over(&nodes, &ledger, "a smart shutdown", async |old| {
        kill(Pid::from_raw(postmaster(&nodes, old)), Signal::SIGTERM).unwrap();
    })
    .await;
    says(&nodes, old, "Postgres is being shut down, and not by pgraft-instance");
    says(&nodes, old, "failover: this primary steps down for node");
    assert!(stays.query("SELECT 1", &[]).await.is_err(), "its server is another one");

    // A standby is restarted, whether or not it leads the Raft group.
    let standby = (primary(&nodes).await + 1) % 3;
    let before = (epoch(&nodes, primary(&nodes).await), postmaster(&nodes, standby));
    let _stays = nodes.nodes[standby].connect("postgres", "superuser-1", "postgres").await.unwrap();
    kill(Pid::from_raw(before.1), Signal::SIGTERM).unwrap();
    until("another postmaster", async || {
        nodes.nodes[standby].postmaster().filter(|pid| *pid != before.1)
    })
    .await;
    whole(&nodes).await;
    assert_eq!(epoch(&nodes, primary(&nodes).await), before.0, "the primary is the same");
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
    let Some(nodes) = of_three(preloaded).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let freeze = |n: usize, what: &str| {
        let node = &nodes.nodes[n];
        std::fs::write(file(node.id), node.directory.join(what).display().to_string()).unwrap();
    };
    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    more_rows(&ledger, 10).await;

    // Raft's files on the primary: the others go on, and so does the primary.
    freeze(old, "raft/");
    tokio::time::sleep(Duration::from_secs(8)).await;
    more_rows(&ledger, 50).await;
    std::fs::remove_file(file(nodes.nodes[old].id)).unwrap();
    println!(
        "a primary whose Raft directory hangs: no acknowledgement for {:?}, epoch {} after {before}",
        ledger.new_gap(),
        epoch(&nodes, old)
    );

    let old = hands_over_and_back(
        &nodes,
        &ledger,
        "a disk that hangs",
        async |old| freeze(old, "pgdata/"),
        async |old| {
            std::fs::remove_file(file(nodes.nodes[old].id)).unwrap();
        },
    )
    .await;
    says(&nodes, old, "Postgres is unresponsive: it cannot flush WAL");
    nothing_is_lost(&nodes, ledger).await;
}

/// Ended with this.
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
async fn a_busy_or_full_server_keeps_its_place() {
    let _alone = PROCESSORS.write().await;
    let Some(nodes) = of_three(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    let old = primary(&nodes).await;
    more_rows(&ledger, 10).await;
    // Longer than a server may be unresponsive.
    let long = Duration::from_secs(10);

    // The lease may be lost on a machine that is so busy; the server must not be killed for it.
    let busy = Busy::on_all_processors(8);
    tokio::time::sleep(long).await;
    drop(busy);

    // Every connection that there is, the reserved ones too.
    let mut all = vec![];
    while let Ok(client) = nodes.nodes[old].connect("postgres", "superuser-1", "postgres").await {
        all.push(client);
    }
    assert!(all.len() > 10);
    tokio::time::sleep(long).await;
    drop(all);

    // The observer is paused for long, and when it goes on the server is paused for a moment.
    let postmaster = postmaster(&nodes, old);
    nodes.nodes[old].signal(Signal::SIGSTOP);
    tokio::time::sleep(long).await;
    stop(postmaster);
    nodes.nodes[old].signal(Signal::SIGCONT);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Its worker may have ended it meanwhile: on a machine that is so busy the lease may be lost.
    let _ = kill(Pid::from_raw(postmaster), Signal::SIGCONT);
    more_rows(&ledger, 10).await;
    for node in &nodes.nodes {
        assert!(!node.log().contains("Postgres is unresponsive"), "node {} was killed", node.id);
    }
    nothing_is_lost(&nodes, ledger).await;
}
