//! Invalid configurations: valid settings are applied, invalid ones are reported, and the server
//! keeps running.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "used by tests only"
)]

use pgraft_testkit::cluster::{complete, primary, three_nodes};
use pgraft_testkit::{Nodes, TestNode, bin_directory, until};

/// Waits until a node reports these problems.
async fn problems(node: &TestNode, what: &str, wanted: &[&str]) {
    until(what, async || {
        let report = node.status()?.configuration;
        let said: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        let all = said.len() == wanted.len()
            && wanted.iter().all(|part| said.iter().any(|line| line.contains(part)));
        (all && report.valid == wanted.is_empty()).then_some(())
    })
    .await;
}

fn set(node: &mut TestNode, name: &str, value: &str) {
    node.parameters.insert(name.into(), value.into());
}

#[tokio::test]
async fn an_invalid_setting_is_reported_and_the_others_are_applied() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 1);
    let node = &mut nodes.nodes[0];
    // At the first start.
    set(node, "nosuch_param", "1");
    set(node, "a b", "1");
    set(node, "include", "/etc/passwd");
    set(node, "work_mem", "7MB");
    node.start();
    node.ready().await;
    problems(
        node,
        "the first problems",
        &["nosuch_param \"1\": unrecognized", "a b \"1\": not a valid", "include \"/etc/passwd\""],
    )
    .await;
    node.wait_for("SHOW work_mem", "7MB").await;

    // At runtime: values, ranges, lines of pg_hba.conf, a parameter of a library.
    node.parameters
        .retain(|name, _| ["shared_buffers", "max_connections"].contains(&name.as_str()));
    set(node, "work_mem", "12 parsecs");
    set(node, "maintenance_work_mem", "71MB");
    set(node, "superuser_reserved_connections", "30");
    node.hba = vec![
        "host all all 10.0.0.0/8 scram-sha-256".into(),
        "host all all 10.0.0.0/8 scram".into(),
    ];
    node.write_config();
    let named = [
        "work_mem \"12 parsecs\": invalid value",
        "superuser_reserved_connections \"30\":",
        "pg_hba line 2 \"host all all 10.0.0.0/8 scram\": invalid authentication method \"scram\"",
    ];
    problems(node, "the problems of a reload", &named).await;
    node.wait_for("SHOW maintenance_work_mem", "71MB").await;
    node.wait_for("SHOW work_mem", "7MB").await;
    node.wait_for("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL", "0").await;
    node.wait_for("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL", "0").await;

    // It starts with these problems, and still reports them.
    node.terminate().await;
    node.start();
    node.ready().await;
    problems(node, "the same problems", &named).await;
    node.wait_for("SHOW work_mem", "7MB").await;
    assert_eq!(node.log().matches("configuration: work_mem").count(), 2, "once for each run");

    // A line that was added by hand would prevent Postgres from reloading.
    let auto = node.directory.join("pgdata/postgresql.auto.conf");
    std::fs::write(&auto, "nosuch = 1\n").unwrap();
    until("the line to be removed", async || {
        (std::fs::read_to_string(&auto).ok()? != "nosuch = 1\n").then_some(())
    })
    .await;
    std::fs::write(&auto, "").unwrap();

    node.parameters.remove("work_mem");
    node.parameters.remove("superuser_reserved_connections");
    node.hba.pop();
    node.write_config();
    problems(node, "no problem", &[]).await;
    node.wait_for("SELECT count(*) FROM pg_hba_file_rules WHERE address = '10.0.0.0'", "1").await;
}

#[tokio::test]
async fn a_server_that_cannot_start_falls_back_to_its_last_configuration() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 1);
    let node = &mut nodes.nodes[0];
    set(node, "shared_preload_libraries", "auto_explain");
    node.start();
    node.ready().await;
    node.wait_for("SHOW shared_preload_libraries", "pgraft,\"auto_explain\"").await;
    problems(node, "no problem", &[]).await;
    // A configuration counts as proven only after it has run for a moment.
    let proven = node.directory.join("pgdata.pgraft/configuration.json");
    until("a proven configuration", async || {
        std::fs::read_to_string(&proven).ok()?.contains("\"proven\":{").then_some(())
    })
    .await;

    // A missing library, a library with an invalid parameter, too much memory, and a missing group,
    // which the trial start does not detect.
    set(node, "shared_preload_libraries", "auto_explain, nosuchlib");
    set(node, "session_preload_libraries", "nosuchlib2");
    set(node, "auto_explain.log_format", "papyrus");
    set(node, "shared_buffers", "1000TB");
    node.write_config();
    let named = [
        "shared_preload_libraries \"auto_explain, nosuchlib\": could not access file \"nosuchlib\"",
        "session_preload_libraries \"nosuchlib2\": could not access file \"nosuchlib2\"",
        "auto_explain.log_format \"papyrus\": invalid value",
        "shared_buffers \"1000TB\":",
    ];
    problems(node, "the problems", &named).await;
    node.parameters.retain(|name, _| name == "max_connections");
    set(node, "shared_buffers", "24MB");
    set(node, "unix_socket_group", "no such group");
    node.sql("ALTER SYSTEM SET work_mem = '9MB'").await.unwrap();
    node.write_config();
    until("a pending restart", async || {
        let pending = node.status()?.configuration.pending_restart;
        (pending == ["shared_buffers", "shared_preload_libraries", "unix_socket_group"])
            .then_some(())
    })
    .await;
    // Written by hand, not by ALTER SYSTEM.
    node.terminate().await;
    let auto = node.directory.join("pgdata/postgresql.auto.conf");
    let text = std::fs::read_to_string(&auto).unwrap();
    std::fs::write(&auto, format!("{text}nosuch = 1\n")).unwrap();
    node.start();
    node.ready().await;
    problems(
        node,
        "the fallback",
        &[
            "postgresql.auto.conf line 4 \"nosuch = 1\": ",
            "Postgres did not start with this configuration:",
        ],
    )
    .await;
    node.wait_for("SHOW shared_buffers", "16MB").await;
    node.wait_for("SHOW shared_preload_libraries", "pgraft,\"auto_explain\"").await;

    node.parameters.remove("unix_socket_group");
    node.write_config();
    node.terminate().await;
    node.start();
    node.ready().await;
    node.wait_for("SHOW shared_buffers", "24MB").await;
    node.wait_for("SHOW work_mem", "9MB").await;
    problems(node, "no problem any more", &[]).await;
}

/// What a server ran with last is what it falls back to, not what it was started with.
#[tokio::test]
async fn a_reload_that_took_effect_is_part_of_the_fallback() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 1);
    let node = &mut nodes.nodes[0];
    node.start();
    node.ready().await;
    set(node, "work_mem", "7MB");
    node.write_config();
    node.wait_for("SHOW work_mem", "7MB").await;
    let proven = node.directory.join("pgdata.pgraft/configuration.json");
    until("the reloaded setting to be proven", async || {
        let known: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&proven).ok()?).ok()?;
        (known["proven"]["user"]["parameters"]["work_mem"] == "7MB").then_some(())
    })
    .await;
    set(node, "unix_socket_group", "no such group");
    node.write_config();
    node.terminate().await;
    node.start();
    node.ready().await;
    problems(node, "the fallback", &["Postgres did not start with this configuration:"]).await;
    node.wait_for("SHOW work_mem", "7MB").await;
}

/// The value is raised and lowered, with restarts in any order and a failover in between. No member
/// ever refuses to start or stops replaying.
#[tokio::test]
async fn max_connections_can_be_changed_during_a_failover() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let first = primary(&nodes).await;
    // The primary gets the higher value first, and its standbys replay that.
    set_everywhere(&mut nodes, "60");
    let standby = (first + 1) % 3;
    restart(&mut nodes, standby).await;
    complete(&nodes).await;
    until("the other primary", async || {
        // The primary's server restarts, which ends this session, and the other members may not be
        // ready yet.
        let _ = nodes.nodes[first].sql(&format!("SELECT pgraft_switchover({})", standby + 1)).await;
        (primary(&nodes).await == standby).then_some(())
    })
    .await;
    nodes.nodes[standby].sql("CREATE TABLE t AS SELECT 1 AS i").await.unwrap();
    for n in (0..3).filter(|n| *n != standby) {
        // A standby with a lower value pauses its replay, and is restarted.
        nodes.nodes[n].wait_for("SHOW max_connections", "60").await;
        nodes.nodes[n].wait_for("SELECT count(*) FROM t", "1").await;
    }
    complete(&nodes).await;

    // Lower values wait until the primary has them. With failover that is never the case, so no
    // restart is pending.
    set_everywhere(&mut nodes, "40");
    for node in &nodes.nodes {
        until("the held value", async || {
            let report = node.status()?.configuration;
            (report.held.len() == 1
                && report.held[0].setting == "max_connections"
                && report.pending_restart.is_empty())
            .then_some(())
        })
        .await;
    }
    for n in 0..3 {
        restart(&mut nodes, n).await;
        complete(&nodes).await;
    }
    let now = primary(&nodes).await;
    nodes.nodes[now].kill_all();
    nodes.nodes[now].start();
    complete(&nodes).await;
    let now = primary(&nodes).await;
    nodes.nodes[now].sql("INSERT INTO t VALUES (2)").await.unwrap();
    for node in &nodes.nodes {
        node.wait_for("SELECT count(*) FROM t", "2").await;
        node.wait_for(
            "SELECT NOT pg_is_in_recovery() OR pg_get_wal_replay_pause_state() = 'not paused'",
            "t",
        )
        .await;
    }
}

fn set_everywhere(nodes: &mut Nodes, value: &str) {
    for node in &mut nodes.nodes {
        set(node, "max_connections", value);
        node.write_config();
    }
}

async fn restart(nodes: &mut Nodes, n: usize) {
    nodes.nodes[n].terminate().await;
    nodes.nodes[n].start();
    nodes.nodes[n].ready().await;
}
