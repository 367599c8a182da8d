//! A member loses its disk: its volume and its pod are deleted. A new member with a new id replaces
//! it and has all data. The old id leaves first and is never used again.

use serde_json::json;

use crate::cluster::{KindCluster, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    data::write(&cluster, 1, 1000).await?;

    lose(&cluster, 2).await?;
    cluster.settled(3).await?;
    cluster.same_everywhere(&[1, 3, 4]).await?;
    data::same_on(&cluster, 1, &[1, 3, 4]).await?;
    let volumes: Vec<i32> = cluster.volumes().await?.into_iter().collect();
    ensure!(volumes == [1, 3, 4], "the volumes belong to nodes {volumes:?}");
    left_before(&cluster, 2, 4).await?;

    // The same with the leader's disk, unless it is the primary: without failover, a lost primary
    // is not replaced.
    let leader = cluster.leader(1).await?;
    let next = if leader == 1 { 3 } else { leader };
    lose(&cluster, next).await?;
    cluster.settled(3).await?;
    let rest: Vec<i32> = [1, 3, 4, 5].into_iter().filter(|id| *id != next).collect();
    cluster.same_everywhere(&rest).await?;
    data::same_on(&cluster, 1, &rest).await?;
    left_before(&cluster, next, 5).await?;
    measured(&cluster).await?;
    Ok(Vec::new())
}

/// Deletes the volume and the pod of a member. A finalizer keeps the volume until the pod is gone.
async fn lose(cluster: &KindCluster, node: i32) -> Result<(), E2eFailure> {
    let pod = pod_name(node);
    command("kubectl", &["delete", "pvc", &pod, "--wait=false", "--namespace", &cluster.namespace])
        .await?;
    cluster.delete_pod(node).await
}

async fn left_before(cluster: &KindCluster, old: i32, new: i32) -> Result<(), E2eFailure> {
    let session = cluster.superuser(new).await?;
    let at = "select coalesce(min(index), -1) from pgraft_log() where committed and (data->>'node')::int = $1 and kind = $2";
    let left: i64 = session.value(at, &[&old, &"remove"]).await?;
    let joined: i64 = session.value(at, &[&new, &"join"]).await?;
    ensure!(
        0 <= left && left < joined,
        "node {old} left at {left} and node {new} joined at {joined}"
    );
    Ok(())
}

/// Checks the metrics of the operator and of a pod.
async fn measured(cluster: &KindCluster) -> Result<(), E2eFailure> {
    let namespace = &cluster.namespace;
    let read = async |path: String| command("kubectl", &["get", "--raw", &path]).await;
    let operator = read(
        "/api/v1/namespaces/pgraft-system/services/pgraft-operator-metrics:http/proxy/metrics"
            .into(),
    )
    .await?;
    let voters = format!(
        "pgraft_cluster_members{{namespace=\"{namespace}\",cluster=\"demo\",role=\"voter\"}} 3"
    );
    ensure!(operator.contains(&voters), "the operator's metrics have no line {voters:?}");
    let pod =
        read(format!("/api/v1/namespaces/{namespace}/pods/demo-1:8008/proxy/metrics")).await?;
    for line in ["pgraft_up 1", "pgraft_is_primary 1", "pgraft_members{role=\"voter\"} 3"] {
        ensure!(
            pod.lines().any(|l| l == line),
            "the metrics of demo-1 have no line {line:?}: {pod}"
        );
    }
    Ok(())
}
