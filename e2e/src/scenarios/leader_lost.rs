//! The leader's pod is deleted in the middle of an add: afterwards the node is a member or it is not, and that is the same everywhere.

use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{Cluster, NodeRow, PATIENCE};
use crate::ensure;
use crate::failure::Failure;
use crate::scenario::Figure;
use crate::wait::{Look, until};

const MEMBERS: [i32; 3] = [1, 2, 3];

pub async fn run(cluster: Cluster) -> Result<Vec<Figure>, Failure> {
    cluster.create(3, &json!({})).await?;
    let mut outcomes = Vec::new();
    // Servers outside of Kubernetes that never answer, so that the operator leaves them alone and nobody but the leader decides.
    for (round, newcomer) in (101..=103).enumerate() {
        outcomes.push(lose_the_leader(&cluster, newcomer, u64::try_from(round).unwrap_or_default()).await?);
    }
    // And the way through the operator: the leader goes while a pod of ours joins.
    cluster.scale(4).await?;
    let fourth = until("a fourth member's pod", PATIENCE, || async {
        let newest = cluster.pods().await?.keys().next_back().copied();
        Ok(newest.filter(|id| *id > 3).map_or(Look::NotYet(format!("{newest:?}")), Look::Yes))
    })
    .await?;
    cluster.pod_ready(fourth).await?;
    cluster.delete_pod(cluster.leader(2).await?).await?;
    cluster.settled(4).await?;
    cluster.same_everywhere(&[1, 2, 3, fourth]).await?;
    one_join_each(&cluster, &[1, 2, 3, fourth]).await?;
    println!("leader-lost: {}", outcomes.join("; "));
    Ok(Vec::new())
}

async fn lose_the_leader(cluster: &Cluster, newcomer: i32, pause: u64) -> Result<String, Failure> {
    let leader = cluster.leader(1).await?;
    let address = format!("198.18.127.{newcomer}"); // in the range of the test network, and nobody's
    let session = cluster.superuser(leader).await?;
    let call = async move { session.value::<bool>("select pgraft_add_node($1, $2, 7001)", &[&newcomer, &address]).await };
    let kill = async {
        tokio::time::sleep(Duration::from_millis(pause)).await; // each round strikes at another moment
        cluster.delete_pod(leader).await
    };
    let (answer, killed) = tokio::join!(call, kill);
    killed?;
    let rows = agreed(cluster).await?;
    let there = rows.iter().any(|row| row.id == newcomer);
    ensure!(there || answer.is_err(), "node {newcomer} was confirmed, and is not there: {rows:?}");
    ensure!(rows.len() == if there { 4 } else { 3 }, "more was changed than node {newcomer}: {rows:?}");
    if there {
        remove(cluster, newcomer).await?;
    }
    cluster.settled(3).await?;
    Ok(format!(
        "node {newcomer}: {}, answered {}",
        if there { "there" } else { "not there" },
        answer.map_or_else(|f| f.to_string(), |t| t.to_string())
    ))
}

/// Waits until all three have applied the same log, and returns their rows, which must be equal then.
async fn agreed(cluster: &Cluster) -> Result<Vec<NodeRow>, Failure> {
    until("all three members have applied the same log and show the same rows", PATIENCE, || async {
        let mut seen = BTreeMap::new();
        for node in MEMBERS {
            let session = cluster.superuser(node).await?;
            let status = session.rows("select leader, commit_index, applied_index from pgraft_status()", &[]).await?;
            let status: Option<(Option<i32>, i64, i64)> = status.first().map(|row| (row.get(0), row.get(1), row.get(2)));
            seen.insert(node, (status, cluster.rows(node).await?));
        }
        let Some(first) = seen.values().next().cloned() else { return Ok(Look::NotYet("nobody".into())) };
        let settled = matches!(first.0, Some((Some(_), committed, applied)) if committed == applied);
        Ok(if settled && seen.values().all(|s| *s == first) { Look::Yes(first.1) } else { Look::NotYet(format!("{seen:?}")) })
    })
    .await
}

async fn remove(cluster: &Cluster, newcomer: i32) -> Result<(), Failure> {
    until(&format!("node {newcomer} is taken out again"), PATIENCE, || async {
        let leader = cluster.leader(1).await?;
        cluster.superuser(leader).await?.run(&format!("select pgraft_remove_node({newcomer})")).await?;
        Ok(Look::Yes(()))
    })
    .await?;
    cluster.same_rows(&MEMBERS).await.map(drop)
}

/// Every pod's log has exactly one committed join of each of these nodes but the founder, and all logs have the same.
pub async fn one_join_each(cluster: &Cluster, members: &[i32]) -> Result<(), Failure> {
    for &pod in members {
        let counts = "select (data->>'node')::int, count(*) from pgraft_log() where kind = 'join' and committed group by 1";
        let rows = cluster.superuser(pod).await?.rows(counts, &[]).await?;
        let joins: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for id in members.iter().filter(|id| **id != 1) {
            ensure!(joins.get(id) == Some(&1), "the log of node {pod} should have one join of node {id}, and has {joins:?}");
        }
    }
    Ok(())
}
