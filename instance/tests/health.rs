//! `/readyz` of a standby: not ready if it does not receive or replay WAL, but ready without a
//! primary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "used by tests only"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{primary, three_nodes};
use pgraft_testkit::{TestNode, child_of, until};
use serde_json::json;
use std::time::{Duration, Instant};

/// Waits until the node is not ready, with this reason only.
async fn stale(node: &TestNode, reason: &str) {
    until(&format!("node {} to say: {reason}", node.id), async || {
        let (code, body) = node.get("/readyz")?;
        let missing = body["missing"].as_array()?;
        (code == 503 && missing.len() == 1 && missing[0].as_str()?.contains(reason)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_standby_that_does_not_follow_is_not_ready() {
    let bound = json!({"maxLag": "2s"});
    let Some(nodes) =
        three_nodes(|node| drop(node.config.insert("standby".into(), bound.clone()))).await
    else {
        return;
    };
    let first = primary(&nodes).await;
    let (paused, cut) = (&nodes.nodes[(first + 1) % 3], &nodes.nodes[(first + 2) % 3]);

    // Its replay is paused, with and without WAL to replay.
    paused.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    stale(paused, "replay of WAL has been paused").await;
    nodes.nodes[first]
        .sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i")
        .await
        .unwrap();
    let behind =
        format!("SELECT lag_bytes > 1000000 FROM pgraft_members WHERE node_id = {}", paused.id);
    until("the group to know how far it is behind", async || {
        for node in &nodes.nodes {
            if node.sql(&behind).await.ok().flatten().as_deref() == Some("t") {
                return Some(());
            }
        }
        None
    })
    .await;
    cut.ready().await;
    paused.sql("SELECT pg_wal_replay_resume()").await.unwrap();
    paused.ready().await;

    // A stopped walreceiver, which still reports streaming.
    let receiver =
        until("a walreceiver", async || child_of(cut.postmaster()?, "walreceiver")).await;
    kill(Pid::from_raw(receiver), Signal::SIGSTOP).unwrap();
    stale(cut, "has received no WAL from the primary").await;
    nodes.nodes[first].ready().await;
    paused.ready().await;
    kill(Pid::from_raw(receiver), Signal::SIGCONT).unwrap();
    cut.ready().await;
    assert!(cut.log().contains("is up to date again"));
}

/// A member without a primary keeps answering reads.
#[tokio::test]
async fn a_standby_stays_ready_without_a_primary() {
    let bound = json!({"maxLag": "1s"});
    let Some(mut nodes) =
        three_nodes(|node| drop(node.config.insert("standby".into(), bound.clone()))).await
    else {
        return;
    };
    let first = primary(&nodes).await;
    let left = (first + 1) % 3;
    for n in [first, (first + 2) % 3] {
        nodes.nodes[n].kill_all();
    }
    let node = &nodes.nodes[left];
    until("the end of streaming", async || {
        node.status().filter(|s| s.postgres.streaming == Some(false))
    })
    .await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        let (code, body) = node.get("/readyz").unwrap();
        assert_eq!(code, 200, "{body}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
