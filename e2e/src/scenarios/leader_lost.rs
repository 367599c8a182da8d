//! The leader is lost in the middle of an add: afterwards the node is a member or it is not, and
//! that is the same everywhere.

use serde_json::json;
use std::collections::BTreeMap;

use crate::cluster::{KindCluster, NodeRow, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::sql::SqlSession;
use crate::wait::{Look, until};

const MEMBERS: [i32; 3] = [1, 2, 3];

/// How the leader goes.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Its pod is deleted.
    Deleted,
    /// Every process in it but the first is killed at once.
    Killed,
}

/// What the calls on a leader came to, until it was lost.
#[derive(Debug)]
struct AddCalls {
    /// How many were confirmed.
    confirmed: usize,
    /// Who was added by the last confirmed call, if that was an add.
    member: Option<i32>,
    /// Whom the call was about that got no answer: it may have been done or not.
    unanswered: i32,
    /// What came instead of an answer.
    error: String,
}

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    // Servers outside of Kubernetes that never answer: the operator leaves them alone, and nobody
    // but the leader decides.
    let mut newcomer = 100;
    for loss in [Loss::Deleted, Loss::Killed, Loss::Deleted, Loss::Killed] {
        newcomer = lose_the_leader(&cluster, loss, newcomer).await?;
    }
    // And the way through the operator: the leader goes while a pod of ours joins.
    cluster.scale(4).await?;
    let fourth = until("a fourth member's pod", TIMEOUT, || async {
        let newest = cluster.pods().await?.keys().next_back().copied();
        Ok(newest.filter(|id| *id > 3).map_or(Look::NotYet(format!("{newest:?}")), Look::Yes))
    })
    .await?;
    cluster.pod_ready(fourth).await?;
    cluster.delete_pod(cluster.leader(2).await?).await?;
    cluster.settled(4).await?;
    cluster.same_everywhere(&[1, 2, 3, fourth]).await?;
    one_join_each(&cluster, &[1, 2, 3, fourth]).await?;
    Ok(Vec::new())
}

/// Adds and removes without a pause while the leader goes, so that it goes in the middle of a call.
/// Returns the last id that was used.
async fn lose_the_leader(cluster: &KindCluster, loss: Loss, used: i32) -> Result<i32, E2eFailure> {
    let leader = cluster.leader(1).await?;
    let session = cluster.superuser(leader).await?;
    let lost = async {
        match loss {
            Loss::Deleted => cluster.delete_pod(leader).await,
            Loss::Killed => {
                // Its own shell dies of it as well, so there is nothing good to be heard from it.
                let _ = command(
                    "kubectl",
                    &[
                        "exec",
                        &pod_name(leader),
                        "--namespace",
                        &cluster.namespace,
                        "--",
                        "bash",
                        "-c",
                        "kill -9 -1",
                    ],
                )
                .await;
                Ok(())
            }
        }
    };
    let (calls, lost) = tokio::join!(call_until_lost(&session, used), lost);
    lost?;
    let calls = calls?;
    let rows = agreed(cluster).await?;
    let there: Vec<i32> =
        rows.iter().map(|row| row.id).filter(|id| !MEMBERS.contains(id)).collect();
    println!(
        "leader-lost: {loss:?} leader {leader} after {} confirmed calls, at node {}: {there:?}, {}",
        calls.confirmed, calls.unanswered, calls.error
    );
    let (before, after) = match calls.member {
        None => (vec![], vec![calls.unanswered]),
        Some(id) => (vec![id], vec![]),
    };
    ensure!(
        there == before || there == after,
        "the members besides {MEMBERS:?} are {there:?}, and should be {before:?} or {after:?}"
    );
    for id in there {
        remove(cluster, id).await?;
    }
    cluster.settled(3).await?;
    Ok(calls.unanswered)
}

/// Add, remove, add the next one, ... until a call gets no answer.
async fn call_until_lost(leader: &SqlSession, used: i32) -> Result<AddCalls, E2eFailure> {
    let mut calls = AddCalls { confirmed: 0, member: None, unanswered: used, error: String::new() };
    for id in used + 1..used + 100_000 {
        let address = format!("198.18.{}.{}", 112 + id / 250 % 16, id % 250 + 1); // in the range of the test network, and nobody's
        calls.unanswered = id;
        for statement in [
            format!("select pgraft_add_node({id}, '{address}', 7001)"),
            format!("select pgraft_remove_node({id})"),
        ] {
            if let Err(failure) = leader.run(&statement).await {
                calls.error = failure.to_string();
                return Ok(calls);
            }
            calls.confirmed += 1;
            calls.member = if calls.member.is_none() { Some(id) } else { None };
        }
    }
    Err(E2eFailure::Wrong("the leader was never lost".into()))
}

/// Waits until all three have applied the same log, and returns their rows, which must be equal
/// then.
async fn agreed(cluster: &KindCluster) -> Result<Vec<NodeRow>, E2eFailure> {
    until("all three members have applied the same log and show the same rows", TIMEOUT, || async {
        let mut seen = BTreeMap::new();
        for node in MEMBERS {
            let session = cluster.superuser(node).await?;
            let status = session
                .rows("select leader, commit_index, applied_index from pgraft_status()", &[])
                .await?;
            let status: Option<(Option<i32>, i64, i64)> =
                status.first().map(|row| (row.get(0), row.get(1), row.get(2)));
            seen.insert(node, (status, cluster.rows(node).await?));
        }
        let Some(first) = seen.values().next().cloned() else {
            return Ok(Look::NotYet("nobody".into()));
        };
        let settled =
            matches!(first.0, Some((Some(_), committed, applied)) if committed == applied);
        Ok(if settled && seen.values().all(|s| *s == first) {
            Look::Yes(first.1)
        } else {
            Look::NotYet(format!("{seen:?}"))
        })
    })
    .await
}

async fn remove(cluster: &KindCluster, newcomer: i32) -> Result<(), E2eFailure> {
    until(&format!("node {newcomer} is taken out again"), TIMEOUT, || async {
        let leader = cluster.leader(1).await?;
        cluster
            .superuser(leader)
            .await?
            .run(&format!("select pgraft_remove_node({newcomer})"))
            .await?;
        Ok(Look::Yes(()))
    })
    .await?;
    cluster.same_rows(&MEMBERS).await.map(drop)
}

/// Every pod's log has exactly one committed join of each of these nodes but the bootstrap node,
/// and all logs have the same.
pub async fn one_join_each(cluster: &KindCluster, members: &[i32]) -> Result<(), E2eFailure> {
    for &pod in members {
        let counts = "select (data->>'node')::int, count(*) from pgraft_log() where kind = 'join' and committed group by 1";
        let rows = cluster.superuser(pod).await?.rows(counts, &[]).await?;
        let joins: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for id in members.iter().filter(|id| **id != 1) {
            ensure!(
                joins.get(id) == Some(&1),
                "the log of node {pod} should have one join of node {id}, and has {joins:?}"
            );
        }
    }
    Ok(())
}
