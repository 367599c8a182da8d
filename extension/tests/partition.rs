//! The minority of a partition cannot change the membership: five servers in network namespaces.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::time::{Duration, Instant};

use futures::future::join_all;
use pgraft_testkit::bin_directory;
use pgraft_testkit::network::TestNetwork;
use pgraft_testkit::postgres::scratch;
use pgraft_testkit::server::{TIMEOUT, TestServer, change, cluster_of, until_on_leader};

const NODES: &str = "select * from pgraft_get_nodes()";

#[tokio::test]
async fn the_minority_cannot_change_the_membership() {
    let Some(bindir) = bin_directory() else { return };
    let Some(network) = TestNetwork::new(6) else { return };
    let dir = scratch();
    let server = |n: usize| {
        let id = u16::try_from(n + 1).unwrap();
        let server = TestServer::inside(
            &bindir,
            dir.path(),
            id,
            network.hosts[n].holder,
            &TestNetwork::address(n),
        );
        server.set("pgraft.allow_plaintext = on");
        server
    };
    let servers = cluster_of((0..5).map(server).collect()).await;
    let sixth = server(5);
    sixth.start();
    sixth.rows("create extension pgraft").await;

    // The leader is in the minority.
    let (leader, before) = (leader_of(&servers, 0).await, rows(&servers[0]).await);
    let minority = [leader, (leader + 1) % 5];
    network.split(&minority);
    let (cut_off, rest): (Vec<&TestServer>, Vec<&TestServer>) = diverged(&servers, &minority);
    assert_eq!(tries(&cut_off, 70).await, 6);
    change(&rest, &sixth.join()).await;
    until_on_leader(&rest, "select voters from pgraft_status()", "6").await;
    // The other member of the minority still has the old leader.
    cut_off[0].until("select leader is null from pgraft_status()", "t").await;
    for server in cut_off {
        assert_eq!(rows(server).await, before, "the minority shows what it knew");
    }
    network.heal();
    let after = rows(rest[0]).await;
    agree(&servers, &after).await;
    sixth.until(NODES, &after).await;

    // The leader is in the majority, and has lost half of its followers.
    let leader =
        until_on_leader(&servers, "select bool_and(reachable) from pgraft_members", "true").await;
    let minority = [(leader + 1) % 5, (leader + 2) % 5];
    network.split(&minority);
    let (cut_off, rest) = diverged(&servers, &minority);
    until_on_leader(&rest, "select count(*) from pgraft_members where not reachable", "2").await;
    assert_eq!(tries(&cut_off, 80).await, 6);
    let done = change(&rest, "select pgraft_remove_node(6)").await;
    network.heal();
    let after = rows(rest[done]).await;
    agree(&servers, &after).await;

    // One direction only: the leader receives a follower's messages, but not vice versa. crates/sim
    // tests that the follower does not depose the leader.
    let (leader, deaf) = until_deaf(&network, &servers).await;
    assert_eq!(tries(&[&servers[deaf]], 90).await, 3);
    let (_, rest) = diverged(&servers, &[deaf]);
    change(&rest, &format!("select pgraft_add_node(7, '{}', 7777)", TestNetwork::address(5))).await; // four of five are a majority
    let done = change(&rest, "select pgraft_remove_node(7)").await;
    network.heal_one_way(leader, deaf);
    let after = rows(rest[done]).await;
    agree(&servers, &after).await;
}

/// Splits the servers into these and the others.
fn diverged<'a>(
    servers: &'a [TestServer],
    these: &[usize],
) -> (Vec<&'a TestServer>, Vec<&'a TestServer>) {
    (
        these.iter().map(|n| &servers[*n]).collect(),
        (0..servers.len()).filter(|n| !these.contains(n)).map(|n| &servers[n]).collect(),
    )
}

/// Loses the leader's messages to a follower, until that follower has no leader. Tries again if the
/// leader has changed.
async fn until_deaf(network: &TestNetwork, servers: &[TestServer]) -> (usize, usize) {
    let start = Instant::now();
    loop {
        let leader =
            until_on_leader(servers, "select bool_and(reachable) from pgraft_members", "true")
                .await;
        let deaf = (leader + 1) % 5;
        network.drop_one_way(leader, deaf);
        while servers[deaf].one("select coalesce(leader, 0) from pgraft_status()").await
            == servers[leader].id.to_string()
        {
            assert!(start.elapsed() < TIMEOUT, "node {} still has its leader", servers[deaf].id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if servers[deaf].one("select leader is null from pgraft_status()").await == "t" {
            return (leader, deaf);
        }
        network.heal_one_way(leader, deaf);
        assert!(start.elapsed() < TIMEOUT, "the lead goes to and fro");
    }
}

/// Tries every change on all of these servers at once. Each must fail. The ids are not used again.
async fn tries(servers: &[&TestServer], id: u16) -> usize {
    let calls = servers.iter().enumerate().flat_map(|(n, server)| {
        let newcomer = usize::from(id) + n;
        let calls = [
            format!("select pgraft_add_node({newcomer}, '10.77.0.{newcomer}', 7001)"),
            "select pgraft_remove_node(5)".to_owned(),
            format!("select pgraft_set_address(4, '10.77.0.{newcomer}', 7001)"),
        ];
        calls.map(|sql| async move {
            let error = server.error(&sql).await;
            assert!(
                ["PGR01", "PGR04"].contains(&error.code().code()),
                "node {}: {sql}: {error:?}",
                server.id
            );
        })
    });
    join_all(calls).await.len()
}

/// Waits until all servers have these rows and the same committed log, without any change of the
/// minority.
async fn agree(servers: &[TestServer], wanted: &str) {
    for server in servers {
        server.until(NODES, wanted).await;
        server
            .until(
                "select leader is not null and commit_index = applied_index from pgraft_status()",
                "t",
            )
            .await;
    }
    let last = servers[0].one("select max(index) from pgraft_log() where committed").await;
    let log = format!(
        "select string_agg(index || kind || data::text, ',' order by index) from pgraft_log() where committed and index <= {last}"
    );
    let first = servers[0].one(&log).await;
    for server in servers {
        server.until(&log, &first).await;
        let minority =
            "select count(*) from pgraft_log() where data::text ~ '10[.]77[.]0[.][789][0-9]'";
        server.until(minority, "0").await;
    }
}

async fn leader_of(servers: &[TestServer], asked: usize) -> usize {
    servers[asked].until("select leader is not null from pgraft_status()", "t").await;
    let leader: u16 = servers[asked].one("select pgraft_get_leader()").await.parse().unwrap();
    servers.iter().position(|s| s.id == leader).expect("one of the five leads")
}

async fn rows(server: &TestServer) -> String {
    server.rows(NODES).await.iter().map(|r| r.join(",")).collect::<Vec<_>>().join(" ")
}
