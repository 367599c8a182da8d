//! Disk layouts: links, mount points, tablespaces, WAL on another disk, files of a dead server; and
//! a host without IPv4.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "used by tests only"
)]

use nix::unistd::{User, chown, geteuid};
use pgraft_testkit::cluster::{cluster_of, complete, leader, primary};
use pgraft_testkit::network::TestNetwork;
use pgraft_testkit::{Nodes, TestNode, bin_directory, may_mount, until};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

fn give(path: &Path) {
    if geteuid().is_root() {
        let user = User::from_name("postgres").unwrap().unwrap();
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

fn directory(path: &Path) {
    fs::create_dir_all(path).unwrap();
    give(path);
}

/// A bootstrap node, and a standby that was not started.
async fn bootstrap_node_and_another() -> Option<Nodes> {
    let mut nodes = Nodes::new(&bin_directory()?, 2);
    nodes.nodes[0].start();
    nodes.nodes[0].ready().await;
    Some(nodes)
}

#[tokio::test]
async fn tablespaces_and_wal_on_other_disks_survive_a_clone() {
    let Some(mut nodes) = bootstrap_node_and_another().await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    let at = |node: &TestNode, name: &str| node.directory.join(name);
    // A disk at the same path on every host. Node 1 uses it directly.
    let place = at(one, "disk/fast=1");
    directory(place.parent().unwrap());
    directory(&place);
    let create = format!("CREATE TABLESPACE fast LOCATION '{}'", place.display());
    one.sql(&create).await.unwrap();
    one.sql("CREATE TABLE far TABLESPACE fast AS SELECT generate_series(1, 1000) AS i")
        .await
        .unwrap();

    // Both nodes on one host: node 2 must not use the files of node 1.
    two.start();
    until("a refusal", async || {
        two.log().contains("contains files of another server").then_some(())
    })
    .await;
    assert!(!two.directory.join("pgdata").exists());
    assert!(two.terminate().await.success());
    assert_eq!(one.sql("SELECT count(*) FROM far").await.unwrap().as_deref(), Some("1000"));
    if !may_mount() {
        return;
    }

    let own = at(two, "disk");
    directory(&own);
    directory(&own.join("fast=1"));
    directory(&own.join("fast=1/lost+found"));
    two.bound = Some([own.clone(), place.parent().unwrap().to_owned()]);
    two.start();
    two.streaming().await;
    two.wait_for("SELECT count(*) FROM far", "1000").await;
    let copied = || {
        fs::read_dir(own.join("fast=1"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    assert!(
        copied().iter().any(|name| name.starts_with("PG_"))
            && !copied().contains(&"pgraft-clone".to_owned()),
        "{:?}",
        copied()
    );

    // Its WAL is moved to another disk by hand, and it is cloned again.
    assert!(two.terminate().await.success());
    let (wal, link) = (at(two, "wal"), at(two, "pgdata/pg_wal"));
    fs::rename(&link, &wal).unwrap();
    symlink(&wal, &link).unwrap();
    fs::write(at(two, "pgdata.pgraft/rewind-in-progress"), "").unwrap();
    one.sql("INSERT INTO far SELECT generate_series(1001, 2000)").await.unwrap();
    two.start();
    two.streaming().await;
    two.wait_for("SELECT count(*) FROM far", "2000").await;
    assert_eq!(fs::read_link(&link).unwrap(), wal);
    assert!(
        fs::read_dir(&wal).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().len() == 24)
    );
    assert!(
        !at(two, "pgdata.pgraft/rewind-in-progress").exists() && !wal.join("pgraft-clone").exists()
    );
}

#[tokio::test]
async fn a_linked_data_directory_stays_on_its_disk() {
    let Some(mut nodes) = bootstrap_node_and_another().await else { return };
    let two = &mut nodes.nodes[1];
    for name in ["disk", "disk/data", "other", "other/raft"] {
        directory(&two.directory.join(name));
    }
    let (data, link) = (two.directory.join("disk/data"), two.directory.join("pgdata"));
    symlink(&data, &link).unwrap();
    symlink(two.directory.join("other/raft"), two.directory.join("raft")).unwrap();
    two.start();
    two.streaming().await;
    for round in 0..2 {
        assert!(
            fs::symlink_metadata(&link).unwrap().is_symlink() && data.join("PG_VERSION").exists(),
            "round {round}"
        );
        assert!(two.directory.join("disk/data.pgraft/lock").exists());
        assert!(two.terminate().await.success());
        if round == 0 {
            // The state after a copy by hand, and another clone.
            fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(two.directory.join("disk/data.pgraft/rewind-in-progress"), "").unwrap();
            two.start();
            two.streaming().await;
        }
    }
}

/// Starts a node that must refuse to run and change nothing. Returns its message.
async fn refused(node: &mut TestNode) -> String {
    let before = node.log().len();
    node.start();
    assert_eq!(node.ended().await.code(), Some(2), "{}", node.log());
    assert!(!node.directory.join("pgdata.pgraft").exists());
    let log = node.log();
    assert_eq!(log[before..].trim().lines().count(), 1, "{log}");
    log[before..].to_owned()
}

#[tokio::test]
async fn an_impossible_layout_is_refused_before_anything_is_written() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 1);
    let one = &mut nodes.nodes[0];
    let at = |node: &TestNode, name: &str| node.directory.join(name);
    symlink(at(one, "nowhere"), at(one, "pgdata")).unwrap();
    assert!(refused(one).await.contains("which does not exist"));
    fs::remove_file(at(one, "pgdata")).unwrap();

    fs::rename(at(one, "socket"), at(one, "socket.away")).unwrap();
    assert!(refused(one).await.contains("socketDirectory:"));
    fs::rename(at(one, "socket.away"), at(one, "socket")).unwrap();

    // Owned by root, so that a clone cannot be created beside the data.
    if geteuid().is_root() {
        chown(&one.directory, Some(0.into()), None).unwrap();
        assert!(
            refused(one).await.contains("because a clone is created beside the data directory")
        );
        give(&one.directory);
    }
    if may_mount() {
        for name in ["volume", "volume/lost+found", "pgdata"] {
            directory(&at(one, name));
        }
        one.bound = Some([at(one, "volume"), at(one, "pgdata")]);
        let words = refused(one).await;
        assert!(words.contains("is a mount point") && words.contains("pgdata/pgdata"), "{words}");
        assert!(fs::read_dir(at(one, "pgdata")).unwrap().next().is_none());
        one.bound = None;
    }
    one.start();
    one.ready().await;
}

/// As after the kill of a container whose volumes stay: the process ids in the lock files belong to
/// other processes.
#[tokio::test]
async fn lock_files_of_a_dead_server_are_ignored() {
    let Some(bin) = bin_directory() else { return };
    let mut nodes = Nodes::new(&bin, 1);
    let one = &mut nodes.nodes[0];
    one.start();
    one.ready().await;
    // Run as Postgres' user, since Postgres ignores processes of other users.
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    if geteuid().is_root() {
        let postgres = User::from_name("postgres").unwrap().unwrap();
        sleep.uid(postgres.uid.as_raw()).gid(postgres.gid.as_raw());
    }
    let mut user = sleep.spawn().unwrap();
    let this = std::process::id();
    let thread: u32 = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|t| t.unwrap().file_name().to_str()?.parse().ok())
        .max()
        .unwrap();
    for pid in [1, this, thread, user.id()] {
        one.kill_all();
        for name in [
            format!("socket/.s.PGSQL.{}.lock", one.postgres_port()),
            "pgdata/postmaster.pid".into(),
        ] {
            let path = one.directory.join(&name);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, format!("{pid}\n{}", text.split_once('\n').unwrap().1)).unwrap();
        }
        one.start();
        one.ready().await;
        assert_ne!(one.postmaster().unwrap().unsigned_abs(), pid);
    }
    user.kill().unwrap();
    user.wait().unwrap();
}

/// Members use IPv6 only, and clients IPv4. Every listener accepts both.
#[tokio::test]
async fn members_with_ipv6_only_form_a_cluster() {
    let Some(bin) = bin_directory() else { return };
    let Some(mut network) = TestNetwork::new(3) else { return };
    network.only_ipv6();
    let mut nodes = Nodes::inside(&bin, &network);
    for node in &mut nodes.nodes {
        let raft = json!({"port": node.raft_port(), "listenAddress": "*", "allowPlaintext": true, "heartbeatInterval": "200ms", "electionTimeout": "1s"});
        node.config.insert("raft".into(), raft);
    }
    let nodes = cluster_of(nodes).await;
    let before = primary(&nodes).await;
    let next = (before + 1) % 3;
    let switch = format!("SELECT pgraft_switchover({})::text", next + 1);
    until("a switchover", async || nodes.nodes[before].sql(&switch).await.ok()).await;
    complete(&nodes).await;
    let after = primary(&nodes).await;
    assert_ne!(after, before);
    let by_gateway = nodes.nodes[before].connect_to_gateway().await.unwrap();
    by_gateway.batch_execute("INSERT INTO ledger VALUES (1)").await.unwrap();
    let members = "SELECT string_agg(address, ' ' ORDER BY node_id) FROM pgraft_get_nodes()";
    let want = "fd70:6772:6166::1 fd70:6772:6166::2 fd70:6772:6166::3";
    assert_eq!(nodes.nodes[after].sql(members).await.unwrap().as_deref(), Some(want));
    let leads = until("a leader", async || leader(&nodes)).await;
    let refused = nodes.nodes[(leads + 1) % 3]
        .sql("SELECT pgraft_add_node(9, 'fd70:6772:6166::1', 7001)")
        .await
        .unwrap_err();
    let words = refused
        .as_db_error()
        .map(|e| format!("{} {}", e.message(), e.hint().unwrap_or_default()))
        .unwrap_or_default();
    assert!(words.contains("[fd70:6772:6166::"), "the address is in brackets: {words}");
}
