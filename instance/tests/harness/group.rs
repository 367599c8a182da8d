//! Three nodes that choose their primary themselves.

use pgraft_instance::status::Role;

use super::ledger::Ledger;
use super::{Node, Nodes, bin_directory, until, without_extension};

/// Three members that stream and are waited for, and the table that the client writes to.
pub async fn of_three(change: impl Fn(&mut Node)) -> Option<Nodes> {
    if without_extension() {
        return None;
    }
    let mut nodes = Nodes::new(&bin_directory()?, 3);
    for node in &mut nodes.nodes {
        node.failover = true;
        change(node);
        node.start();
    }
    nodes.nodes[0].ready().await;
    for id in [2, 3] {
        nodes.nodes[id - 1].ready().await;
        let add = format!("SELECT pgraft_add_node({id}, '127.0.0.1', {})", nodes.nodes[id - 1].raft_port());
        // The leader may be any of them by now.
        until("a new member", async || {
            for node in &nodes.nodes[..id] {
                if node.sql(&add).await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    let primary = primary(&nodes).await;
    nodes.nodes[primary].wait_for("SELECT count(*) FROM pgraft_members WHERE role = 'voter'", "3").await;
    nodes.nodes[primary].wait_for("SHOW synchronous_standby_names", "ANY 1 (\"pgraft_2\",\"pgraft_3\")").await;
    nodes.nodes[primary].connect("app", "owner-1", "app").await.unwrap().batch_execute("CREATE TABLE ledger (row bigint)").await.unwrap();
    Some(nodes)
}

/// Who takes writes.
pub async fn primary(nodes: &Nodes) -> usize {
    until("a primary", async || {
        let takes_writes = |status: &pgraft_instance::status::Status| status.role == Role::Primary && status.ready;
        nodes.nodes.iter().position(|node| node.status().is_some_and(|s| takes_writes(&s)))
    })
    .await
}

pub async fn more_rows(ledger: &Ledger, count: usize) {
    let before = ledger.acked();
    until("acknowledged rows", async || (ledger.acked() >= before + count).then_some(())).await;
}

pub fn epoch(nodes: &Nodes, of: usize) -> u64 {
    nodes.nodes[of].status().and_then(|s| s.raft).map_or(0, |r| r.epoch)
}
