//! The SQL functions on real servers, with every result and error.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{
    TIMEOUT, TestServer, change, cluster, on_leader, steady_cluster, text_rows, until_on_leader,
};
use pgraft_testkit::{bin_directory, free_port};
use tokio_postgres::error::SqlState;

const NODES: &str = "select * from pgraft_get_nodes()";

#[tokio::test]
async fn the_documented_session_works_word_for_word() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = steady_cluster(&bindir, dir.path(), 3).await;
    assert_eq!(servers[0].one("select pgraft_get_leader()").await, "1");
    // The new node does not need to run for the entry to be committed.
    assert_eq!(servers[0].rows("SELECT pgraft_add_node(4, '127.0.0.1', 7004);").await, [["t"]]);
    let row = |id: u16, port: u16| vec![id.to_string(), "127.0.0.1".to_owned(), port.to_string()];
    let mut table: Vec<_> = servers.iter().map(|s| row(s.id, s.raft_port)).collect();
    table.push(row(4, 7004));
    assert_eq!(servers[0].rows(NODES).await, table, "on the leader at once");
    let shown: Vec<String> = table.iter().map(|r| r.join(",")).collect();
    for server in &servers {
        server.until(NODES, &shown.join(" ")).await;
    }
    let error = servers[1].error("SELECT pgraft_add_node(5, '192.168.1.15', 7005)").await;
    assert_eq!(
        error.message(),
        "Cannot add node - this node is not the leader. Node addition must be performed on the leader."
    );
    assert_eq!(
        error.hint().unwrap(),
        format!("The leader is node 1 (127.0.0.1:{}).", servers[0].raft_port)
    );
    assert_eq!(error.code().code(), "PGR01");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn every_refusal_has_its_message() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = steady_cluster(&bindir, dir.path(), 2).await;
    let (leader, follower) = (&servers[0], &servers[1]);
    let (p1, p2) = (leader.raft_port, follower.raft_port);
    let long = "a".repeat(254);
    let cases = [
        (
            "select pgraft_add_node(0, 'h', 1)".to_owned(),
            "22023",
            "invalid node id 0: it must be between 1 and 2147483647".to_owned(),
        ),
        (
            "select pgraft_add_node(-7, 'h', 1)".to_owned(),
            "22023",
            "invalid node id -7: it must be between 1 and 2147483647".to_owned(),
        ),
        (
            "select pgraft_add_node(9, '', 1)".to_owned(),
            "22023",
            "invalid address \"\": it must not be empty".to_owned(),
        ),
        (
            format!("select pgraft_add_node(9, '{long}', 1)"),
            "22023",
            format!(
                "invalid address \"{}\": it must not be longer than 253 characters",
                "a".repeat(64)
            ),
        ),
        (
            "select pgraft_add_node(9, 'a b', 1)".to_owned(),
            "22023",
            "invalid address \"a b\": it is neither a host name nor an IP address".to_owned(),
        ),
        (
            "select pgraft_add_node(9, 'no.such.host.invalid', 1)".to_owned(),
            "22023",
            "could not resolve address \"no.such.host.invalid\"".to_owned(),
        ),
        (
            "select pgraft_add_node(9, '127.0.0.1', 0)".to_owned(),
            "22023",
            "invalid port 0: it must be between 1 and 65535".to_owned(),
        ),
        (
            "select pgraft_add_node(9, '127.0.0.1', 65536)".to_owned(),
            "22023",
            "invalid port 65536: it must be between 1 and 65535".to_owned(),
        ),
        (
            "select pgraft_add_node(2, '127.0.0.1', 1)".to_owned(),
            "42710",
            format!("node 2 is already a member with address 127.0.0.1:{p2}"),
        ),
        (
            format!("select pgraft_add_node(9, '127.0.0.1', {p1})"),
            "42710",
            format!("address 127.0.0.1:{p1} is already used by node 1"),
        ),
        (
            "select pgraft_remove_node(1)".to_owned(),
            "55006",
            "node 1 is the primary and cannot be removed".to_owned(),
        ),
        (
            "select pgraft_remove_node(8)".to_owned(),
            "42704",
            "node 8 is not a member of this cluster".to_owned(),
        ),
        (
            "select pgraft_set_address(0, 'h', 1)".to_owned(),
            "22023",
            "invalid node id 0: it must be between 1 and 2147483647".to_owned(),
        ),
        (
            "select pgraft_set_address(2, 'a b', 1)".to_owned(),
            "22023",
            "invalid address \"a b\": it is neither a host name nor an IP address".to_owned(),
        ),
        (
            "select pgraft_set_address(2, '127.0.0.1', 65536)".to_owned(),
            "22023",
            "invalid port 65536: it must be between 1 and 65535".to_owned(),
        ),
        (
            "select pgraft_set_address(2, 'no.such.host.invalid', 1)".to_owned(),
            "22023",
            "could not resolve address \"no.such.host.invalid\"".to_owned(),
        ),
        (
            "select pgraft_set_address(8, '127.0.0.1', 1)".to_owned(),
            "42704",
            "node 8 is not a member of this cluster".to_owned(),
        ),
        (
            format!("select pgraft_set_address(2, '127.0.0.1', {p1})"),
            "42710",
            format!("address 127.0.0.1:{p1} is already used by node 1"),
        ),
        (
            "select pgraft_init()".to_owned(),
            "55000",
            format!(
                "this node is already a member of cluster {}",
                leader.one("select cluster_id from pgraft_status()").await
            ),
        ),
    ];
    let before = leader.rows("select index, kind from pgraft_log()").await;
    for (sql, sqlstate, message) in cases {
        let error = leader.error(&sql).await;
        assert_eq!((error.code().code(), error.message()), (sqlstate, message.as_str()), "{sql}");
        assert!(error.hint().is_some_and(|h| !h.is_empty()), "{sql} gives no hint");
    }
    assert_eq!(
        leader.rows("select index, kind from pgraft_log()").await,
        before,
        "a refusal left something in the log"
    );

    let error = follower.error("select pgraft_remove_node(1)").await;
    assert_eq!(
        error.message(),
        "Cannot remove node - this node is not the leader. Node removal must be performed on the leader."
    );
    let error = follower.error("select pgraft_set_address(2, '127.0.0.1', 1)").await;
    assert_eq!(
        error.message(),
        "Cannot set address - this node is not the leader. Addresses must be changed on the leader."
    );
    assert_eq!(
        (error.code().code(), error.hint()),
        ("PGR01", Some(format!("The leader is node 1 (127.0.0.1:{p1}).").as_str()))
    );
    assert_eq!(
        leader.one(&format!("select pgraft_set_address(2, '127.0.0.1', {p2})")).await,
        "t",
        "it is there already"
    );

    // Repeating a call is no error, a change in progress blocks the next one, and a used id stays
    // used.
    assert_eq!(leader.add(follower).await, "t");
    assert_eq!(
        leader.rows(&format!("select pgraft_add_node(3, '127.0.0.1', {})", free_port())).await,
        [["t"]]
    );
    let error = leader.error("select pgraft_add_node(4, '127.0.0.1', 1)").await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("PGR03", "a membership change is in progress: node 3 is joining")
    );
    assert_eq!(leader.one("select pgraft_remove_node(3)").await, "t");
    assert_eq!(leader.one("select pgraft_remove_node(3)").await, "t");
    let error = leader.error("select pgraft_add_node(3, '127.0.0.1', 1)").await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("PGR02", "node id 3 belonged to a removed node and cannot be reused")
    );
    assert_eq!(leader.one("select next_node_id from pgraft_status()").await, "4");
    assert_eq!(
        leader
            .one("select count(*) from pgraft_log() where kind = 'join' and data ->> 'node' = '2'")
            .await,
        "1"
    );
}

#[tokio::test]
async fn functions_check_privileges() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = steady_cluster(&bindir, dir.path(), 1).await;
    let server = &servers[0];
    server.rows("create role watcher login in role pg_monitor; create role nobody login").await;
    let (watcher, nobody) = (server.connect_as("watcher").await, server.connect_as("nobody").await);
    for sql in [
        NODES,
        "select * from pgraft_members",
        "select * from pgraft_status()",
        "select * from pgraft_failover()",
        "select * from pgraft_log()",
    ] {
        text_rows(&watcher, sql).await.unwrap();
        assert_eq!(
            text_rows(&nobody, sql).await.unwrap_err().code(),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE),
            "{sql}"
        );
    }
    for sql in [
        "select pgraft_init()",
        "select pgraft_add_node(2, 'h', 1)",
        "select pgraft_remove_node(1)",
        "select pgraft_set_address(1, 'h', 1)",
        "select pgraft_switchover(1)",
        "select pgraft_force_primary(1)",
    ] {
        assert_eq!(
            text_rows(&watcher, sql).await.unwrap_err().code(),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE),
            "{sql}"
        );
    }
    assert_eq!(
        text_rows(&nobody, "select pgraft_get_leader(), pgraft_is_leader(), pgraft_get_term() > 0")
            .await
            .unwrap(),
        [["1", "t", "t"]]
    );
    let settings =
        "select count(*) from pg_settings where name like 'pgraft.%' and short_desc <> ''";
    assert_eq!(server.one(settings).await, "17");
}

#[tokio::test]
async fn functions_work_before_a_cluster_and_without_a_worker() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let server = TestServer::new(&bindir, dir.path(), 1);
    server.start();
    server.rows("create extension pgraft").await;
    assert_eq!(
        server.rows("select state, cluster_id, leader from pgraft_status()").await,
        [["uninitialized", "", ""]]
    );
    assert_eq!(server.rows("select pgraft_get_leader()").await, [[""]]);
    assert!(server.rows(NODES).await.is_empty());
    let error = server.error("select pgraft_add_node(2, '127.0.0.1', 1)").await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("55000", "this node is not a member of a pgraft cluster")
    );
    assert_eq!(server.one("select pgraft_init()").await, "t");
    assert_eq!(server.rows(NODES).await.len(), 1);

    // Invalid settings: one clear line, and Postgres keeps running.
    let inside = format!("pgraft.data_dir = '{}/raft'", server.pgdata().display());
    let wrong = [
        ("pgraft.node_id = 0", "pgraft.node_id is not set"),
        ("pgraft.data_dir = ''", "pgraft.data_dir is not set"),
        ("pgraft.data_dir = 'raft'", "pgraft.data_dir \"raft\" is not an absolute path"),
        (
            &inside,
            "is inside the data directory, where a base backup would copy this node's identity",
        ),
        (
            "pgraft.node_id = 2",
            "belongs to node 1, but pgraft.node_id is 2: give every node a directory of its own",
        ),
        (
            "pgraft.listen_address = '*'",
            "pgraft.advertise_address (required because pgraft.listen_address covers several addresses) is not set",
        ),
        (
            "pgraft.listen_address = '0.0.0.0'\npgraft.advertise_address = '127.0.0.1'",
            "pgraft.listen_address 0.0.0.0 can be reached from other hosts, and without TLS whoever reaches it can speak for a member",
        ),
        (
            "pgraft.tls_cert_file = '/c'",
            "pgraft.tls_cert_file is set and pgraft.tls_key_file is not",
        ),
        (
            "pgraft.tls_cert_file = '/c'\npgraft.tls_key_file = '/k'\npgraft.tls_ca_file = 'a'",
            "pgraft.tls_ca_file \"a\" is not an absolute path",
        ),
        (
            "pgraft.election_timeout = '100ms'",
            "pgraft.election_timeout (100 ms) must be at least three times pgraft.heartbeat_interval (50 ms)",
        ),
    ];
    let good = std::fs::read_to_string(server.pgdata().join("postgresql.conf")).unwrap();
    for (setting, words) in wrong {
        server.stop();
        server.set(setting);
        server.start();
        assert_eq!(server.one("select 1").await, "1");
        for sql in [NODES, "select pgraft_add_node(2, '127.0.0.1', 1)"] {
            let error = server.error(sql).await;
            assert!(error.message().contains(words), "{setting}: {sql}: {error}");
        }
        let line = server
            .log()
            .lines()
            .rfind(|l| l.contains("the worker cannot start"))
            .unwrap_or_default()
            .to_owned();
        assert!(line.contains(words), "{setting}: {line}");
        std::fs::write(server.pgdata().join("postgresql.conf"), &good).unwrap();
    }
    server.stop();
    server.start();
    server.until("select state from pgraft_status()", "leader").await;
}

#[tokio::test]
async fn kills_lose_nothing() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = cluster(&bindir, dir.path(), 3).await;
    let table = servers[0].rows(NODES).await;
    let shown: Vec<String> = table.iter().map(|r| r.join(",")).collect();

    // Only the main thread handles signals. Every other thread blocks all that can be blocked.
    let worker = servers[1].worker().unwrap();
    for thread in std::fs::read_dir(format!("/proc/{worker}/task")).unwrap() {
        let thread = thread.unwrap();
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap();
        let mask =
            status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
        if thread.file_name().to_str() != Some(&worker.to_string()) {
            assert_eq!(mask, "fffffffe7ffbfeff", "{status}");
        }
    }

    // The worker gets SIGTERM, and restarts.
    let worker = servers[1].worker().unwrap();
    kill(worker, Signal::SIGTERM).unwrap();
    servers[1].until_worker("new worker", |w| w.is_some_and(|new| new != worker)).await;
    servers[1].until("select leader is not null, voters from pgraft_status()", "t,3").await;

    // The worker is killed. Postgres restarts its processes, and the Raft log is undamaged.
    kill(servers[1].worker().unwrap(), Signal::SIGKILL).unwrap();
    servers[1].until(NODES, &shown.join(" ")).await;

    // The bootstrap node's postmaster is killed. The others elect a leader if necessary, the next
    // call works, and the node comes back to the same rows.
    let postmaster = servers[0].postmaster().unwrap();
    kill(postmaster, Signal::SIGKILL).unwrap();
    let living = &servers[1..];
    until_on_leader(living, "select reachable from pgraft_members where node_id = 1", "false")
        .await;
    // While a voter is down, a new node must be running, since its vote could cost the majority.
    let port = free_port();
    let call = format!("select pgraft_add_node(4, '127.0.0.1', {port})");
    let error = on_leader(living, &call).await.1.unwrap_err();
    assert_eq!(
        (error.code().code(), error.message()),
        ("55006", "adding node 4 would leave only 2 of 4 voters reachable, but 3 are required")
    );
    let _answers = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    change(living, &call).await;
    // The killed server's remaining processes end when they notice. Until then they use the data
    // directory.
    let start = std::time::Instant::now();
    while std::process::Command::new("pgrep")
        .args(["-f", &servers[0].pgdata().display().to_string()])
        .output()
        .unwrap()
        .stdout
        .iter()
        .any(u8::is_ascii_digit)
    {
        assert!(start.elapsed() < TIMEOUT, "processes of the killed server stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    servers[0].start();
    servers[0].until("select count(*) from pgraft_get_nodes()", "4").await;
    change(&servers, "select pgraft_remove_node(4)").await;
}

#[tokio::test]
async fn a_call_without_a_majority_waits_and_can_be_cancelled() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = steady_cluster(&bindir, dir.path(), 3).await;
    // A new node that only accepts connections. The leader may not have contact with both other
    // voters when it is added.
    let newcomer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let call = format!(
        "select pgraft_add_node(4, '127.0.0.1', {})",
        newcomer.local_addr().unwrap().port()
    );
    servers[1].stop();
    servers[2].stop();
    let error = servers[0].error(&format!("set statement_timeout = '300ms'; {call}")).await;
    assert_eq!(error.code(), &SqlState::QUERY_CANCELED, "{error}");
    // The leader has lost its majority.
    servers[0].until("select leader is null from pgraft_status()", "t").await;
    let error = servers[0].error(&call).await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("PGR04", "no majority of the voters confirmed the change within 10 s")
    );
    assert_eq!(servers[0].rows(NODES).await.len(), 3, "nothing half done");
    servers[1].start();
    servers[2].start();
    // A leader refuses changes until it has contact with enough of its followers again.
    until_on_leader(
        &servers,
        "select count(*) from pgraft_members where role = 'voter' and reachable",
        "3",
    )
    .await;
    change(&servers, &call).await;
    for server in &servers {
        server.until("select count(*) from pgraft_get_nodes()", "4").await;
    }
}

#[tokio::test]
async fn a_hot_standby_can_be_a_member() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = steady_cluster(&bindir, dir.path(), 1).await;
    let standby = TestServer::standby_of(&bindir, dir.path(), 2, &servers[0]);
    standby.start();
    assert_eq!(standby.one("select pg_is_in_recovery()").await, "t");
    assert_eq!(servers[0].add(&standby).await, "t");
    standby.until("select voters, state from pgraft_status()", "2,follower").await;
    let error = standby.error("select pgraft_add_node(3, '127.0.0.1', 1)").await;
    assert_eq!(error.code().code(), "PGR01");
    servers[0].rows("create table t as select generate_series(1, 1000) n").await;
    servers[0].until("select lag_bytes from pgraft_members where node_id = 2", "0").await;
    servers[0]
        .until("select timeline, flush_lsn > '0/0' from pgraft_members where node_id = 2", "1,t")
        .await;
    standby.rows("select pg_promote()").await;
    standby.until("select voters from pgraft_status()", "2").await;
}
