//! Nodes that never join, members that move, and a leader that removes itself.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::time::{Duration, Instant};

use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{TIMEOUT, TestServer, change, cluster, on_leader, until_on_leader};
use pgraft_testkit::{bin_directory, free_port};

const NODES: &str = "select * from pgraft_get_nodes()";

#[tokio::test]
async fn a_node_that_never_joins_is_removed_again() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = cluster(&bindir, dir.path(), 2).await;
    // Effective at the next start, so that no other node is removed while the machine is busy.
    for server in &servers {
        server.stop();
        server.set("pgraft.join_timeout = '2s'");
        server.start();
    }
    assert_eq!(servers[0].one("show pgraft.join_timeout").await, "2s");
    let port = free_port();
    let call = format!("select pgraft_add_node(3, '127.0.0.1', {port})");
    change(&servers, &call).await;
    for server in &servers {
        server.until("select voters, next_node_id, (select count(*) from pgraft_get_nodes()) from pgraft_status()", "2,4,2").await;
        // A second removal would be by another leader.
        server.until("select distinct data ->> 'node', committed from pgraft_log() where kind = 'join_expired'", "3,t").await;
    }
    let words = format!(
        "node 3 at 127.0.0.1:{port} has not come within pgraft.join_timeout (2 s): it is taken out again"
    );
    until(|| servers.iter().any(|s| s.log().contains(&words)), &words).await;
    assert_eq!(on_leader(&servers, &call).await.1.unwrap_err().code().code(), "PGR02");
}

#[tokio::test]
async fn a_member_moves_without_a_new_id() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let mut servers = cluster(&bindir, dir.path(), 3).await;
    let postgres_port_in_file = |server: &TestServer, node: usize| {
        let text =
            std::fs::read_to_string(server.raft_dir().join("instance.json")).unwrap_or_default();
        let file: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        file["members"][node - 1]["postgres"]["port"].as_u64()
    };

    // Node 2 moves with its Postgres server, and the cluster is updated afterwards.
    servers[1].stop();
    (servers[1].port, servers[1].raft_port) = (free_port(), free_port());
    servers[1].set(&format!("port = {}\npgraft.port = {}", servers[1].port, servers[1].raft_port));
    servers[1].start();
    until_on_leader(&servers, "select reachable from pgraft_members where node_id = 2", "false")
        .await;
    let port = servers[1].raft_port;
    let call = format!("select pgraft_set_address(2, '127.0.0.1', {port})");
    let told_it = change(&servers, &call).await;
    let table = rows(&servers[told_it], NODES).await;
    change(&servers, &call).await; // the same call again
    // It catches up and registers its new Postgres address, which every node then shows.
    until_on_leader(
        &servers,
        "select reachable and match_index > 0 from pgraft_members where node_id = 2",
        "true",
    )
    .await;
    for server in &servers {
        server.until(NODES, &table).await;
        server.until("select count(*) from pgraft_log() where kind = 'set_address'", "1").await;
        until(
            || postgres_port_in_file(server, 2) == Some(u64::from(servers[1].port)),
            "instance.json to follow",
        )
        .await;
    }
    let followed = format!(
        "select count(*) > 0 from pgraft_log() where kind = 'membership' and data -> 'nodes' -> '2' ->> 'port' = '{port}'"
    );
    servers[2].until(&followed, "t").await;

    // The leader itself: its address is changed first, and it stays a member after its restart
    // there.
    let leader = leader_of(&servers, 0, &[]).await;
    let id = servers[leader].id;
    servers[leader].raft_port = free_port();
    change(
        &servers,
        &format!("select pgraft_set_address({id}, '127.0.0.1', {})", servers[leader].raft_port),
    )
    .await;
    servers[leader].stop();
    servers[leader].set(&format!("pgraft.port = {}", servers[leader].raft_port));
    leader_of(&servers, (leader + 1) % 3, &[leader]).await;
    servers[leader].start();
    let next =
        until_on_leader(&servers, "select bool_and(reachable) from pgraft_members", "true").await;
    servers[leader].until(NODES, &rows(&servers[next], NODES).await).await;
}

#[tokio::test]
async fn the_leader_removes_itself() {
    let Some(bindir) = bin_directory() else { return };
    let dir = scratch();
    let servers = cluster(&bindir, dir.path(), 3).await;
    // The primary cannot be removed, so another node must be the leader.
    servers[0].stop();
    let leader = leader_of(&servers, 1, &[0]).await;
    servers[0].start();
    until_on_leader(&servers, "select bool_and(reachable) from pgraft_members", "true").await;
    let id = servers[leader].id;
    change(&servers, &format!("select pgraft_remove_node({id})")).await;
    for server in servers.iter().filter(|s| s.id != id) {
        let out = format!(
            "select voters, leader <> {id}, (select count(*) from pgraft_get_nodes()) from pgraft_status()"
        );
        server.until(&out, "2,t,2").await;
    }
    let rest: Vec<&TestServer> = servers.iter().filter(|s| s.id != id).collect();
    change(&rest, &format!("select pgraft_remove_node({id})")).await; // the same call on the successor
    let error = on_leader(&rest, &format!("select pgraft_add_node({id}, '127.0.0.1', 1)"))
        .await
        .1
        .unwrap_err();
    assert_eq!(error.code().code(), "PGR02");
}

/// The leader that a server reports, if it is none of these.
async fn leader_of(servers: &[TestServer], asked: usize, not: &[usize]) -> usize {
    let ids: Vec<String> = not.iter().map(|n| servers[*n].id.to_string()).collect();
    let others = format!(
        "select leader is not null and leader::text <> all ('{{{}}}') from pgraft_status()",
        ids.join(",")
    );
    servers[asked].until(&others, "t").await;
    let leader: u16 = servers[asked].one("select pgraft_get_leader()").await.parse().unwrap();
    servers.iter().position(|s| s.id == leader).unwrap()
}

async fn rows(server: &TestServer, sql: &str) -> String {
    server.rows(sql).await.iter().map(|r| r.join(",")).collect::<Vec<_>>().join(" ")
}

async fn until(ready: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < TIMEOUT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
