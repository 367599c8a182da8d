//! Which node is the primary according to the members, and whether the others follow it.

use std::time::Duration;

use crate::cluster::{KindCluster, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::wait::{Polled, until};

/// A shell command that kills the server of a pod.
pub const KILL_SERVER: &str = "kill -9 $(head -1 /var/lib/pgraft/pgdata/postmaster.pid)";

/// Runs a script in a member's pod.
///
/// # Errors
/// [`E2eFailure::Command`].
pub async fn in_pod(cluster: &KindCluster, node: i32, script: &str) -> Result<(), E2eFailure> {
    command(
        "kubectl",
        &["exec", &pod_name(node), "--namespace", &cluster.namespace, "--", "bash", "-c", script],
    )
    .await
    .map(drop)
}

/// The host and the uid of a node's pod.
///
/// # Errors
/// An error of the API server.
pub async fn place(cluster: &KindCluster, node: i32) -> Result<(String, String), E2eFailure> {
    let pod = cluster.pod_api().get(&pod_name(node)).await?;
    Ok((
        pod.spec.and_then(|s| s.node_name).unwrap_or_default(),
        pod.metadata.uid.unwrap_or_default(),
    ))
}

/// Waits until these nodes agree that one of them is the primary, and it takes writes.
///
/// # Errors
/// [`E2eFailure::Deadline`] with the last answers.
pub async fn primary(cluster: &KindCluster, asked: &[i32]) -> Result<i32, E2eFailure> {
    until(&format!("{asked:?} agree that one of them is the primary"), TIMEOUT, || async {
        let mut answers = Vec::new();
        for node in asked {
            let session = cluster.superuser(*node).await?;
            let answer: Option<i32> = session
                .value("select max(node_id) from pgraft_members where is_primary", &[])
                .await?;
            answers.push(answer.unwrap_or_default());
        }
        let writes = asked.contains(&answers[0])
            && !cluster
                .superuser(answers[0])
                .await?
                .value::<bool>("select pg_is_in_recovery()", &[])
                .await?;
        let agreed = writes && answers.iter().all(|answer| *answer == answers[0]);
        Ok(if agreed { Polled::Ready(answers[0]) } else { Polled::Pending(format!("{answers:?}")) })
    })
    .await
}

/// Waits until the other members follow this primary.
///
/// # Errors
/// [`E2eFailure::Deadline`].
pub async fn followed(
    cluster: &KindCluster,
    primary: i32,
    members: &[i32],
) -> Result<(), E2eFailure> {
    for node in members {
        cluster.pod_ready(*node).await?;
    }
    until("all standbys stream from the primary", TIMEOUT, || async {
        let session = cluster.superuser(primary).await?;
        let streaming: i64 = session
            .value("select count(*) from pg_stat_replication where state = 'streaming'", &[])
            .await?;
        Ok(if usize::try_from(streaming) == Ok(members.len() - 1) {
            Polled::Ready(())
        } else {
            Polled::Pending(format!("{streaming}"))
        })
    })
    .await
}

/// Waits until all members have the same rows, and all except the primary are standbys.
///
/// # Errors
/// [`E2eFailure::Deadline`], [`E2eFailure::Wrong`].
pub async fn all_back(
    cluster: &KindCluster,
    primary: i32,
    members: &[i32],
) -> Result<(), E2eFailure> {
    followed(cluster, primary, members).await?;
    data::same_on(cluster, primary, members).await?;
    for node in members {
        let standby: bool =
            cluster.superuser(*node).await?.value("select pg_is_in_recovery()", &[]).await?;
        ensure!(
            standby == (*node != primary),
            "node {node}: pg_is_in_recovery() is {standby}, and the primary is {primary}"
        );
    }
    Ok(())
}

/// The epoch of a node.
///
/// # Errors
/// [`E2eFailure::Sql`].
pub async fn epoch(cluster: &KindCluster, node: i32) -> Result<i64, E2eFailure> {
    cluster.superuser(node).await?.value("select epoch from pgraft_status()", &[]).await
}

/// Waits until one of these nodes is the primary in a later epoch.
///
/// # Errors
/// [`E2eFailure::Deadline`].
pub async fn next_primary_term(
    cluster: &KindCluster,
    before: i64,
    asked: &[i32],
) -> Result<i32, E2eFailure> {
    let limit = Duration::from_mins(2);
    until(&format!("there is a primary in an epoch after {before}"), limit, || async {
        let mut why = String::new();
        for node in asked {
            let is_primary = "select epoch > $1::bigint and coalesce(gate, '') = 'open' and not pg_is_in_recovery() from pgraft_status()";
            let answer = async { cluster.superuser(*node).await?.value::<bool>(is_primary, &[&before]).await };
            match tokio::time::timeout(Duration::from_secs(5), answer).await {
                Ok(Ok(true)) => return Ok(Polled::Ready(*node)),
                Ok(Ok(false)) => {}
                Ok(Err(failure)) => why = failure.to_string(),
                Err(_) => "no answer in 5 s".clone_into(&mut why),
            }
        }
        Ok(Polled::Pending(why))
    })
    .await
}
