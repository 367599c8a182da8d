//! Who is the primary, by the members' own word, and whether all of them are behind it.

use std::time::Duration;

use crate::cluster::{KindCluster, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::wait::{Look, until};

/// For a shell in the primary's pod: its server dies.
pub const KILL_SERVER: &str = "kill -9 $(head -1 /var/lib/pgraft/pgdata/postmaster.pid)";

/// Runs a script in a member's pod.
///
/// # Errors
/// [`Failure::Command`].
pub async fn in_pod(cluster: &KindCluster, node: i32, script: &str) -> Result<(), E2eFailure> {
    command(
        "kubectl",
        &["exec", &pod_name(node), "--namespace", &cluster.namespace, "--", "bash", "-c", script],
    )
    .await
    .map(drop)
}

/// Where a node's pod is, and its identity.
///
/// # Errors
/// What the API server says.
pub async fn place(cluster: &KindCluster, node: i32) -> Result<(String, String), E2eFailure> {
    let pod = cluster.pod_api().get(&pod_name(node)).await?;
    Ok((
        pod.spec.and_then(|s| s.node_name).unwrap_or_default(),
        pod.metadata.uid.unwrap_or_default(),
    ))
}

/// Who takes writes, by the word of these nodes: the same by all, one of them, and settled.
///
/// # Errors
/// [`Failure::Deadline`] with what they said last.
pub async fn primary(cluster: &KindCluster, asked: &[i32]) -> Result<i32, E2eFailure> {
    until(&format!("{asked:?} agree on one primary, which is one of them"), TIMEOUT, || async {
        let mut words = Vec::new();
        for node in asked {
            let session = cluster.superuser(*node).await?;
            let word: Option<i32> = session
                .value("select max(node_id) from pgraft_members where is_primary", &[])
                .await?;
            words.push(word.unwrap_or_default());
        }
        let writes = asked.contains(&words[0])
            && !cluster
                .superuser(words[0])
                .await?
                .value::<bool>("select pg_is_in_recovery()", &[])
                .await?;
        let agreed = writes && words.iter().all(|word| *word == words[0]);
        Ok(if agreed { Look::Yes(words[0]) } else { Look::NotYet(format!("{words:?}")) })
    })
    .await
}

/// Waits until the other members follow this primary.
///
/// # Errors
/// [`Failure::Deadline`].
pub async fn followed(
    cluster: &KindCluster,
    primary: i32,
    members: &[i32],
) -> Result<(), E2eFailure> {
    for node in members {
        cluster.pod_ready(*node).await?;
    }
    until("the primary has all its standbys", TIMEOUT, || async {
        let session = cluster.superuser(primary).await?;
        let streaming: i64 = session
            .value("select count(*) from pg_stat_replication where state = 'streaming'", &[])
            .await?;
        Ok(if usize::try_from(streaming) == Ok(members.len() - 1) {
            Look::Yes(())
        } else {
            Look::NotYet(format!("{streaming}"))
        })
    })
    .await
}

/// Waits until all members have the same rows, and just one of them is no standby.
///
/// # Errors
/// [`Failure::Deadline`], [`Failure::Wrong`].
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
            "node {node}: in recovery is {standby}, and the primary is {primary}"
        );
    }
    Ok(())
}

/// In which epoch this node is.
///
/// # Errors
/// [`Failure::Sql`].
pub async fn epoch(cluster: &KindCluster, node: i32) -> Result<i64, E2eFailure> {
    cluster.superuser(node).await?.value("select epoch from pgraft_status()", &[]).await
}

/// Waits until one of these nodes is the primary in a later epoch.
///
/// # Errors
/// [`Failure::Deadline`].
pub async fn next_primary_term(
    cluster: &KindCluster,
    before: i64,
    asked: &[i32],
) -> Result<i32, E2eFailure> {
    let limit = Duration::from_mins(2);
    until(&format!("a primary in a later epoch than {before}"), limit, || async {
        let mut why = String::new();
        for node in asked {
            let is_primary = "select epoch > $1::bigint and coalesce(gate, '') = 'open' and not pg_is_in_recovery() from pgraft_status()";
            let answer = async { cluster.superuser(*node).await?.value::<bool>(is_primary, &[&before]).await };
            match tokio::time::timeout(Duration::from_secs(5), answer).await {
                Ok(Ok(true)) => return Ok(Look::Yes(*node)),
                Ok(Ok(false)) => {}
                Ok(Err(failure)) => why = failure.to_string(),
                Err(_) => "no answer in 5 s".clone_into(&mut why),
            }
        }
        Ok(Look::NotYet(why))
    })
    .await
}
