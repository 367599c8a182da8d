//! The minority side of a partition can change nothing: five real servers, each in a network namespace of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test, which may end anywhere")]

#[path = "server/network.rs"]
mod network;
mod server;

use futures::future::join_all;
use network::Network;
use server::{Server, bindir, cluster_of, scratch};

const NODES: &str = "select * from pgraft_get_nodes()";

#[tokio::test]
async fn the_minority_changes_nothing() {
    let Some(bindir) = bindir() else { return };
    let Some(network) = Network::new(6) else { return };
    let dir = scratch();
    let server = |n: usize| {
        let id = u16::try_from(n + 1).unwrap();
        let server = Server::inside(&bindir, dir.path(), id, network.hosts[n].id(), &Network::address(n));
        server.set("pgraft.allow_plaintext = on");
        server
    };
    let servers = cluster_of((0..5).map(server).collect()).await;
    let sixth = server(5);
    sixth.start();
    sixth.rows("create extension pgraft").await;

    // The leader is on the minority side.
    assert_eq!(servers[0].one("select pgraft_get_leader()").await, "1");
    let before = rows(&servers[0]).await;
    network.split(&[0, 1]);
    let (refused, ()) = tokio::join!(tries(&servers[..2], 70), servers[2].until("select leader in (3, 4, 5) from pgraft_status()", "t"));
    assert_eq!(refused, 6);
    let leader = leader_of(&servers, 2).await;
    assert_eq!(servers[leader].add(&sixth).await, "t", "the majority changes");
    servers[leader].until("select voters from pgraft_status()", "6").await;
    // (Node 2 still hears node 1, and can't know that nobody else does.)
    servers[0].until("select leader is null from pgraft_status()", "t").await;
    for minority in &servers[..2] {
        assert_eq!(rows(minority).await, before, "the minority shows what it knew");
    }
    network.heal();
    let after = rows(&servers[leader]).await;
    agree(&servers, &after).await;
    sixth.until(NODES, &after).await;

    // The leader is on the majority side, with half of its followers gone.
    let leader = leader_of(&servers, 0).await;
    servers[leader].until("select bool_and(reachable) from pgraft_members", "t").await;
    let away: Vec<usize> = (0..5).filter(|n| *n != leader).take(2).collect();
    let minority: Vec<&Server> = away.iter().map(|n| &servers[*n]).collect();
    network.split(&away);
    servers[leader].until("select count(*) from pgraft_members where not reachable", "2").await;
    assert_eq!(tries(minority.iter().copied(), 80).await, 6);
    assert_eq!(servers[leader].one("select pgraft_remove_node(6)").await, "t", "the majority changes");
    network.heal();
    let after = rows(&servers[leader]).await;
    agree(&servers, &after).await;

    // One way only: the leader hears a follower, and is not heard.
    let leader = leader_of(&servers, 0).await;
    servers[leader].until("select bool_and(reachable) from pgraft_members", "t").await;
    let deaf = (leader + 1) % 5;
    network.drop_one_way(leader, deaf);
    servers[deaf].until("select leader is null from pgraft_status()", "t").await;
    assert_eq!(tries([&servers[deaf]], 90).await, 3);
    let (term, change) = ("select pgraft_get_term()", format!("select pgraft_add_node(7, '{}', 7777)", Network::address(5)));
    let before = servers[leader].one(term).await;
    assert_eq!(servers[leader].one(&change).await, "t", "four of five decide");
    assert_eq!(servers[leader].one("select pgraft_remove_node(7)").await, "t");
    assert_eq!(servers[leader].one(term).await, before, "whoever is deaf does not bring the leader down");
    network.heal_one_way(leader, deaf);
    let after = rows(&servers[leader]).await;
    agree(&servers, &after).await;
}

/// Every change on every one of these servers, at once; each is refused or not committed. Nobody ever asks for these ids again.
async fn tries<'a>(servers: impl IntoIterator<Item = &'a Server>, id: u16) -> usize {
    let calls = servers.into_iter().enumerate().flat_map(|(n, server)| {
        let newcomer = usize::from(id) + n;
        let calls = [
            format!("select pgraft_add_node({newcomer}, '10.77.0.{newcomer}', 7001)"),
            "select pgraft_remove_node(5)".to_owned(),
            format!("select pgraft_set_address(4, '10.77.0.{newcomer}', 7001)"),
        ];
        calls.map(|sql| async move {
            let error = server.error(&sql).await;
            assert!(["PGR01", "PGR04"].contains(&error.code().code()), "node {}: {sql}: {error:?}", server.id);
        })
    });
    join_all(calls).await.len()
}

/// All have these rows, and the same committed log, in which nothing of what the minority wanted is to be found.
async fn agree(servers: &[Server], wanted: &str) {
    let log = "select string_agg(index || kind || data::text, ',' order by index) from pgraft_log() where committed and kind <> 'blank'";
    for server in servers {
        server.until(NODES, wanted).await;
        server.until("select leader is not null and commit_index = applied_index from pgraft_status()", "t").await;
    }
    let first = servers[0].one(log).await;
    for server in servers {
        server.until(log, &first).await;
        let minority = "select count(*) from pgraft_log() where data::text ~ '10[.]77[.]0[.][789][0-9]'";
        server.until(minority, "0").await;
    }
}

async fn leader_of(servers: &[Server], asked: usize) -> usize {
    servers[asked].until("select leader is not null from pgraft_status()", "t").await;
    let leader: u16 = servers[asked].one("select pgraft_get_leader()").await.parse().unwrap();
    servers.iter().position(|s| s.id == leader).expect("one of the five leads")
}

async fn rows(server: &Server) -> String {
    server.rows(NODES).await.iter().map(|r| r.join(",")).collect::<Vec<_>>().join(" ")
}
