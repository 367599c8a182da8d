//! The leader is lost during an add: afterwards the node is a member or it is not, and all members
//! agree.

use serde_json::json;
use std::collections::BTreeMap;

use crate::cluster::{KindCluster, NodeRow, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::sql::SqlSession;
use crate::wait::{Polled, until};

const MEMBERS: [i32; 3] = [1, 2, 3];

/// How the leader is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Its pod is deleted.
    Deleted,
    /// Every process in its pod except the first is killed at once.
    Killed,
}

/// The results of the calls on a leader until it was lost.
#[derive(Debug)]
struct AddCalls {
    /// The number of confirmed calls.
    confirmed: usize,
    /// The node that the last confirmed call added, if that was an add.
    member: Option<i32>,
    /// The node of the call that got no answer, and may have succeeded.
    unanswered: i32,
    /// The error of that call.
    error: String,
}

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    // Servers outside of Kubernetes that never answer. The operator does not manage them, so that
    // only the leader decides.
    let mut newcomer = 100;
    for loss in [Loss::Deleted, Loss::Killed, Loss::Deleted, Loss::Killed] {
        newcomer = lose_the_leader(&cluster, loss, newcomer).await?;
    }
    // The same through the operator: the leader is lost while a new pod joins.
    cluster.scale(4).await?;
    let fourth = until("the pod of a fourth member exists", TIMEOUT, || async {
        let newest = cluster.pods().await?.keys().next_back().copied();
        Ok(newest
            .filter(|id| *id > 3)
            .map_or(Polled::Pending(format!("{newest:?}")), Polled::Ready))
    })
    .await?;
    cluster.pod_ready(fourth).await?;
    cluster.delete_pod(cluster.leader(2).await?).await?;
    cluster.settled(4).await?;
    cluster.same_everywhere(&[1, 2, 3, fourth]).await?;
    one_join_each(&cluster, &[1, 2, 3, fourth]).await?;
    Ok(Vec::new())
}

/// Adds and removes nodes continuously while the leader is lost, so that it is lost during a call.
/// Returns the last id that was used.
async fn lose_the_leader(cluster: &KindCluster, loss: Loss, used: i32) -> Result<i32, E2eFailure> {
    let leader = cluster.leader(1).await?;
    let session = cluster.superuser(leader).await?;
    let lost = async {
        match loss {
            Loss::Deleted => cluster.delete_pod(leader).await,
            Loss::Killed => {
                // This also kills its own shell, so that the command always fails.
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
        "leader-lost: leader {leader} {loss:?} after {} confirmed calls, during a call for node {}; members besides the first three: {there:?}; {}",
        calls.confirmed, calls.unanswered, calls.error
    );
    let (before, after) = match calls.member {
        None => (vec![], vec![calls.unanswered]),
        Some(id) => (vec![id], vec![]),
    };
    ensure!(
        there == before || there == after,
        "the members besides {MEMBERS:?} are {there:?} instead of {before:?} or {after:?}"
    );
    for id in there {
        remove(cluster, id).await?;
    }
    cluster.settled(3).await?;
    Ok(calls.unanswered)
}

/// Adds and removes one node after the other until a call gets no answer.
async fn call_until_lost(leader: &SqlSession, used: i32) -> Result<AddCalls, E2eFailure> {
    let mut calls = AddCalls { confirmed: 0, member: None, unanswered: used, error: String::new() };
    for id in used + 1..used + 100_000 {
        let address = format!("198.18.{}.{}", 112 + id / 250 % 16, id % 250 + 1); // unused, in the range of the test network
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

/// Waits until all three have applied the same log and show the same rows. Returns the rows.
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
            return Ok(Polled::Pending("no member".into()));
        };
        let settled =
            matches!(first.0, Some((Some(_), committed, applied)) if committed == applied);
        Ok(if settled && seen.values().all(|s| *s == first) {
            Polled::Ready(first.1)
        } else {
            Polled::Pending(format!("{seen:?}"))
        })
    })
    .await
}

async fn remove(cluster: &KindCluster, newcomer: i32) -> Result<(), E2eFailure> {
    until(&format!("node {newcomer} is removed"), TIMEOUT, || async {
        let leader = cluster.leader(1).await?;
        cluster
            .superuser(leader)
            .await?
            .run(&format!("select pgraft_remove_node({newcomer})"))
            .await?;
        Ok(Polled::Ready(()))
    })
    .await?;
    cluster.same_rows(&MEMBERS).await.map(drop)
}

/// Checks that every log has exactly one committed join of each of these nodes, except the
/// bootstrap node.
pub async fn one_join_each(cluster: &KindCluster, members: &[i32]) -> Result<(), E2eFailure> {
    for &pod in members {
        let counts = "select (data->>'node')::int, count(*) from pgraft_log() where kind = 'join' and committed group by 1";
        let rows = cluster.superuser(pod).await?.rows(counts, &[]).await?;
        let joins: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for id in members.iter().filter(|id| **id != 1) {
            ensure!(
                joins.get(id) == Some(&1),
                "the log of node {pod} must have one join of node {id}, and has {joins:?}"
            );
        }
    }
    Ok(())
}
