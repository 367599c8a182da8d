//! Nodes after kills, restarts, and changes of secrets and settings.

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
use pgraft_api::instance::ServerRole;
use pgraft_testkit::{Nodes, bin_directory, until};

/// A bootstrap node that is ready.
async fn bootstrap(count: u32) -> Option<Nodes> {
    let mut nodes = Nodes::new(&bin_directory()?, count);
    nodes.nodes[0].start();
    nodes.nodes[0].ready().await;
    nodes.nodes[0].wait_for("SELECT count(*) FROM pg_database WHERE datname = 'app'", "1").await;
    Some(nodes)
}

/// A bootstrap node and a standby that streams from it.
async fn pair() -> Option<Nodes> {
    let mut nodes = bootstrap(2).await?;
    nodes.nodes[0].sql("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    nodes.nodes[1].start();
    nodes.nodes[1].streaming().await;
    Some(nodes)
}

#[tokio::test]
async fn a_bootstrap_node_starts_and_a_second_node_follows() {
    let Some(mut nodes) = pair().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    let status = one.ready().await;
    assert_eq!(
        (status.role, status.primary.map(|p| p.node_id.get())),
        (ServerRole::Primary, Some(1))
    );
    assert!(status.raft.is_some());
    let status = two.ready().await;
    assert_eq!(
        (status.role, status.primary.map(|p| p.node_id.get())),
        (ServerRole::Standby, Some(1))
    );
    assert_eq!(status.postgres.timeline, Some(1));
    two.wait_for("SELECT n FROM t", "1").await;
    one.wait_for("SELECT active FROM pg_replication_slots WHERE slot_name = 'pgraft_2'", "t").await;
    one.wait_for("SHOW data_checksums", "on").await;

    // The roles have the expected attributes.
    one.connect("app", "owner-1", "app")
        .await
        .unwrap()
        .batch_execute("CREATE TABLE mine ()")
        .await
        .unwrap();
    let operator = one.connect("pgraft_operator", "operator-1", "postgres").await.unwrap();
    assert!(operator.batch_execute("CREATE TABLE nope ()").await.is_err());
    assert!(
        operator
            .query_one("SELECT pg_has_role('pg_monitor', 'usage')", &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
    one.connect("pgraft_replication", "wrong", "postgres").await.unwrap_err();

    // Every line of the log is a JSON object.
    for line in one.log().lines() {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(
            record["ts"].is_string() && record["level"].is_string() && record["msg"].is_string(),
            "{line}"
        );
    }

    assert!(two.terminate().await.success());
    assert_eq!(two.control_state(), "shut down in recovery");
    assert!(one.terminate().await.success());
    assert_eq!(one.control_state(), "shut down");
}

#[tokio::test]
async fn a_killed_postmaster_comes_back() {
    let Some(nodes) = pair().await else { return };
    for node in &nodes.nodes {
        let old = node.postmaster().unwrap();
        kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
        until("a new postmaster", async || node.postmaster().filter(|pid| *pid != old)).await;
        node.ready().await;
        assert_eq!(node.sql("SELECT n FROM t").await.unwrap().as_deref(), Some("1"));
    }
    nodes.nodes[1].streaming().await;
    nodes.nodes[0].sql("INSERT INTO t VALUES (2)").await.unwrap();
    nodes.nodes[1].wait_for("SELECT max(n) FROM t", "2").await;
}

#[tokio::test]
async fn a_manager_killed_during_a_clone_starts_it_again() {
    let Some(mut nodes) = bootstrap(2).await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    // Enough data that the copy takes a moment.
    one.sql("CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 200000) AS n")
        .await
        .unwrap();
    let (fresh, data) = (two.directory.join("pgdata.pgraft/new"), two.directory.join("pgdata"));
    let mut caught = 0;
    while caught < 3 {
        two.start();
        until("a clone that has begun", async || {
            (fresh.join("base").exists() || data.exists()).then_some(())
        })
        .await;
        two.kill_manager();
        if !data.exists() {
            caught += 1;
        } else if caught == 0 {
            // The clone was too fast to be interrupted. Try again from the beginning.
            if let Some(server) = two.postmaster() {
                let _ = kill(Pid::from_raw(server), Signal::SIGQUIT);
                until("its server's end", async || (!is_alive(server)).then_some(())).await;
            }
            std::fs::remove_dir_all(&data).unwrap();
        } else {
            break;
        }
    }
    two.start();
    two.streaming().await;
    two.wait_for("SELECT count(*) FROM t", "200000").await;
    assert!(!fresh.exists());
    one.wait_for("SELECT count(*) FROM pg_replication_slots", "1").await;
}

#[tokio::test]
async fn a_killed_manager_leaves_no_second_server() {
    let Some(mut nodes) = pair().await else { return };
    for node in &mut nodes.nodes {
        let old = node.postmaster().unwrap();
        node.kill_manager();
        assert_eq!(
            node.sql("SELECT n FROM t").await.unwrap().as_deref(),
            Some("1"),
            "the server lives on"
        );
        node.start();
        until("a new postmaster", async || node.postmaster().filter(|pid| *pid != old)).await;
        node.ready().await;
        assert!(!is_alive(old), "the old server has ended");
    }
    nodes.nodes[1].streaming().await;
}

#[tokio::test]
async fn nodes_restart_from_their_own_disks_without_a_peer() {
    let Some(mut nodes) = pair().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    two.wait_for("SELECT n FROM t", "1").await;
    assert!(one.terminate().await.success());
    assert!(two.terminate().await.success());
    two.start();
    let status = two.ready().await;
    assert_eq!((status.role, status.postgres.streaming), (ServerRole::Standby, Some(false)));
    assert_eq!(status.primary.map(|p| p.node_id.get()), Some(1), "it still knows its primary");
    assert_eq!(two.sql("SELECT n FROM t").await.unwrap().as_deref(), Some("1"));
    assert!(two.terminate().await.success());
    one.start();
    assert_eq!(one.ready().await.role, ServerRole::Primary);
    two.start();
    two.streaming().await;
    one.sql("INSERT INTO t VALUES (2)").await.unwrap();
    two.wait_for("SELECT max(n) FROM t", "2").await;
}

#[tokio::test]
async fn changed_secrets_and_settings_take_effect_without_a_restart() {
    let Some(mut nodes) = pair().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    for node in [&*one, &*two] {
        node.set_password("replication", "replication-2");
        node.set_password("owner", "owner: \\ 'two'");
    }
    until("the new password to work", async || {
        one.connect("app", "owner: \\ 'two'", "app").await.ok()
    })
    .await;
    one.connect("app", "owner-1", "app").await.unwrap_err();
    assert!(!one.log().contains("owner: "), "the log has a password");
    // The standby's next connection uses the new password.
    let receiver = two.sql("SELECT pid FROM pg_stat_wal_receiver").await.unwrap();
    one.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'pgraft_2'").await.unwrap();
    let changed = async || {
        two.sql("SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'")
            .await
            .ok()
            .flatten()
            .filter(|p| Some(p) != receiver.as_ref())
    };
    until("a new walreceiver", changed).await;

    one.parameters.insert("work_mem".into(), "7MB".into());
    one.parameters.insert("listen_addresses".into(), "nowhere".into());
    one.write_config();
    one.wait_for("SHOW work_mem", "7MB").await;
    one.signal(Signal::SIGHUP);
    one.ready().await;
    // An unusable password changes nothing.
    std::fs::write(one.directory.join("instance.yaml"), "nonsense: [").unwrap();
    until("a log line", async || {
        one.log().contains("could not use the changed configuration file").then_some(())
    })
    .await;
    until("the problem", async || {
        let problems = one.status()?.configuration.problems;
        problems
            .iter()
            .any(|p| {
                p.setting == "configuration file"
                    && p.message.ends_with("the last valid configuration is used")
            })
            .then_some(())
    })
    .await;
    one.ready().await;
}

#[tokio::test]
async fn a_dropped_slot_is_created_again() {
    let Some(nodes) = pair().await else { return };
    let [one, two] = &nodes.nodes[..] else { panic!() };
    // The slot is inactive only for a moment.
    let drop = "SELECT pg_terminate_backend(active_pid, 5000), pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'pgraft_2'";
    until("the slot to be dropped", async || one.sql(drop).await.ok()).await;
    two.streaming().await;
    one.wait_for("SELECT active FROM pg_replication_slots WHERE slot_name = 'pgraft_2'", "t").await;
}

#[tokio::test]
async fn a_bootstrap_node_bootstraps_no_second_cluster() {
    let Some(mut nodes) = pair().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    assert!(one.terminate().await.success());
    for name in ["pgdata", "pgdata.pgraft", "raft"] {
        std::fs::remove_dir_all(one.directory.join(name)).unwrap();
    }
    two.ready().await;
    one.start();
    until("its refusal", async || one.log().contains("no second cluster is created").then_some(()))
        .await;
    assert!(!one.directory.join("pgdata").exists());
    let (code, body) = one.get("/readyz").unwrap();
    assert_eq!((code, body["ready"].as_bool()), (503, Some(false)));
    assert_eq!(one.get("/livez").unwrap().0, 200);
    assert!(one.terminate().await.success());
}

#[tokio::test]
async fn the_slot_of_a_removed_member_is_dropped() {
    let Some(mut nodes) = pair().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    assert!(!one.directory.join("pgdata/pgraft.bootstrap").exists());
    one.wait_for("SELECT pgraft_get_leader()", "1").await;
    // With the operator's role, as the operator does it.
    let operator = one.connect("pgraft_operator", "operator-1", "postgres").await.unwrap();
    let add = format!("SELECT pgraft_add_node(2, '127.0.0.1', {})", two.raft_port());
    assert!(operator.query_one(&add, &[]).await.unwrap().get::<_, bool>(0));
    two.wait_for("SELECT count(*) FROM pgraft_get_nodes()", "2").await;
    until("instance.json", async || {
        two.directory.join("raft/instance.json").exists().then_some(())
    })
    .await;
    // With this file, both nodes restart in their roles from their own disks.
    assert!(two.terminate().await.success());
    assert!(one.terminate().await.success());
    two.start();
    one.start();
    assert_eq!(one.ready().await.role, ServerRole::Primary);
    assert_eq!(two.streaming().await.primary.map(|p| p.node_id.get()), Some(1));
    // Either may be the leader after the restart, and a leader can remove itself.
    let remove = async || {
        let removed = one.sql("SELECT pgraft_remove_node(2)").await;
        if removed.is_ok() {
            removed.ok()
        } else {
            two.sql("SELECT pgraft_remove_node(2)").await.ok()
        }
    };
    until("the removal", remove).await;
    one.wait_for("SELECT count(*) FROM pgraft_get_nodes()", "1").await;
    assert!(two.terminate().await.success());
    one.wait_for("SELECT count(*) FROM pg_replication_slots", "0").await;
}

#[tokio::test]
async fn a_bootstrap_node_killed_at_any_step_completes_its_bootstrap() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 1);
    let one = &mut nodes.nodes[0];
    let at = |name: &str| one.directory.join(name);
    // The steps: initdb runs, initdb is done, the server starts, the worker starts, the cluster is
    // created.
    let steps = [
        at("pgdata.pgraft/new/PG_VERSION"),
        at("pgdata"),
        at("pgdata/postmaster.pid"),
        at("raft/control.sock"),
        at("raft/instance.json"),
    ];
    for step in steps {
        one.start();
        until("a step of bootstrap", async || step.exists().then_some(())).await;
        one.kill_manager();
    }
    one.start();
    assert_eq!(one.ready().await.role, ServerRole::Primary);
    one.wait_for("SELECT count(*) FROM pg_database WHERE datname = 'app'", "1").await;
    until("the mark to be removed", async || {
        (!one.directory.join("pgdata/pgraft.bootstrap").exists()).then_some(())
    })
    .await;
    one.wait_for("SELECT count(*) FROM pgraft_log() WHERE kind = 'init'", "1").await;
}

#[tokio::test]
async fn a_node_without_a_primary_to_clone_waits_and_logs_it() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 2);
    let two = &mut nodes.nodes[1];
    two.start();
    until("a log line", async || two.log().contains("no primary is known").then_some(())).await;
    let (code, body) = two.get("/readyz").unwrap();
    assert_eq!((code, body["ready"].as_bool()), (503, Some(false)));
    assert_eq!(two.get("/livez").unwrap().0, 200);
    let status = two.status().unwrap();
    assert_eq!((status.role, status.primary), (ServerRole::Starting, None));
    assert!(two.terminate().await.success());
    assert!(!two.directory.join("pgdata").exists());
}

#[tokio::test]
async fn a_standby_that_is_not_a_member_yet_finds_a_primary_that_moved() {
    let Some(mut nodes) = pair().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    assert!(two.terminate().await.success());
    // As if the primary had another address when this node was cloned. Nothing listens on port 1.
    let moved = two.directory.join("pgdata.pgraft/upstream.json");
    std::fs::write(&moved, r#"{"node_id":1,"host":"127.0.0.1","port":1}"#).unwrap();
    two.start();
    two.streaming().await;
    one.sql("INSERT INTO t VALUES (2)").await.unwrap();
    two.wait_for("SELECT max(n) FROM t", "2").await;
}

#[tokio::test]
async fn a_second_signal_shortens_the_shutdown() {
    let Some(mut nodes) = bootstrap(1).await else { return };
    let one = &mut nodes.nodes[0];
    one.signal(Signal::SIGTERM);
    one.signal(Signal::SIGINT);
    assert!(one.ended().await.success());
    assert!(one.postmaster().is_none());
}

/// A zombie is not alive.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
