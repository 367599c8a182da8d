//! Common mistakes, one after the other on one cluster: each is reported in a condition, does not
//! block anything else, and can be undone.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::cluster::{KindCluster, NAME, TIMEOUT, pod_name};
use crate::command::{run as command, run_with_input};
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until, until_true};

/// An object of another application, under a name that the operator uses.
const FOREIGN: &str = "demo-quorum";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({ "failover": { "enabled": true } })).await?;
    volumes_that_cannot_grow(&cluster).await?;
    an_image_that_does_not_start(&cluster).await?;
    a_foreign_object(&cluster).await?;
    let replaced = a_stopped_postmaster(&cluster).await?;
    let figure = ReportedFigure {
        what: "a stopped postmaster, until another pod is the primary".into(),
        value: format!("{:.1} s", replaced.as_secs_f32()),
    };
    Ok(vec![figure])
}

/// kind's storage class cannot expand volumes. The operator still replaces a lost pod, and accepts
/// the old size again.
async fn volumes_that_cannot_grow(cluster: &KindCluster) -> Result<(), E2eFailure> {
    patch(cluster, json!({ "storage": { "size": "2Gi" } })).await?;
    reconciled(cluster, "False", &pod_name(1)).await?;
    let before = uid(cluster, 3).await?;
    cluster.delete_pod(3).await?;
    until_true("node 3 has a new pod", TIMEOUT, || async {
        Ok(uid(cluster, 3).await.is_ok_and(|uid| uid != before))
    })
    .await?;
    cluster.pod_ready(3).await?;
    patch(cluster, json!({ "storage": { "size": "1Gi" } })).await?;
    reconciled(cluster, "True", "").await?;
    cluster.settled(3).await
}

/// At most one pod gets the image, and it starts with the next image.
async fn an_image_that_does_not_start(cluster: &KindCluster) -> Result<(), E2eFailure> {
    let image = cluster.image().await?;
    patch(cluster, json!({ "image": "registry.invalid/none:1", "imagePullPolicy": "Never" }))
        .await?;
    until("two of three pods are ready", TIMEOUT, || async {
        let ready =
            cluster.resources().get(NAME).await?.status.map_or(0, |status| status.ready_replicas);
        Ok(if ready == 2 { Polled::Ready(()) } else { Polled::Pending(format!("{ready} ready")) })
    })
    .await?;
    patch(cluster, json!({ "image": image, "imagePullPolicy": "IfNotPresent" })).await?;
    cluster.settled(3).await
}

/// A foreign PodDisruptionBudget is reported and not changed.
async fn a_foreign_object(cluster: &KindCluster) -> Result<(), E2eFailure> {
    let namespace = cluster.namespace.as_str();
    command("kubectl", &["--namespace", namespace, "delete", "pdb", FOREIGN, "--wait=false"])
        .await?;
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": FOREIGN },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "theirs" } } },
    });
    // The operator may be faster. Then its budget is deleted and replaced.
    let created = until("the other application's budget exists", TIMEOUT, || async {
        let _ = command(
            "kubectl",
            &["--namespace", namespace, "delete", "pdb", FOREIGN, "--ignore-not-found"],
        )
        .await;
        let made = run_with_input(
            "kubectl",
            &["--namespace", namespace, "create", "--filename=-"],
            &budget.to_string(),
        )
        .await;
        Ok(match made {
            Ok(_) => Polled::Ready(()),
            Err(error) => Polled::Pending(error.to_string()),
        })
    });
    created.await?;
    reconciled(cluster, "False", FOREIGN).await?;
    let read = ["--namespace", namespace, "get", "pdb", FOREIGN, "--output=json"];
    let there: Value =
        serde_json::from_str(&command("kubectl", &read).await?).map_err(kube::Error::SerdeError)?;
    ensure!(
        there["spec"]["selector"]["matchLabels"] == json!({ "app": "theirs" }),
        "the operator changed it: {there}"
    );
    ensure!(there["metadata"]["ownerReferences"].is_null(), "the operator took it over: {there}");
    command("kubectl", &["--namespace", namespace, "delete", "pdb", FOREIGN]).await?;
    reconciled(cluster, "True", "").await?;
    cluster.settled(3).await
}

async fn a_stopped_postmaster(cluster: &KindCluster) -> Result<Duration, E2eFailure> {
    let before = primary(cluster).await?;
    let stop = "kill -STOP $(head -1 /var/lib/pgraft/pgdata/postmaster.pid)";
    command(
        "kubectl",
        &["--namespace", &cluster.namespace, "exec", &before, "--", "bash", "-c", stop],
    )
    .await?;
    let begun = Instant::now();
    until_true("another pod is the primary", TIMEOUT, || async {
        Ok(primary(cluster).await? != before)
    })
    .await?;
    let replaced = begun.elapsed();
    cluster.settled(3).await?;
    Ok(replaced)
}

async fn patch(cluster: &KindCluster, spec: Value) -> Result<(), E2eFailure> {
    let patch = json!({ "spec": spec }).to_string();
    let arguments = [
        "--namespace",
        &cluster.namespace,
        "patch",
        &format!("pgr/{NAME}"),
        "--type=merge",
        "--patch",
        &patch,
    ];
    command("kubectl", &arguments).await.map(drop)
}

async fn reconciled(cluster: &KindCluster, status: &str, message: &str) -> Result<(), E2eFailure> {
    until(&format!("Reconciled is {status}"), TIMEOUT, || async {
        let conditions =
            cluster.resources().get(NAME).await?.status.map(|s| s.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_ == "Reconciled");
        let text =
            found.as_ref().map(|c| format!("{}: {}", c.status, c.message)).unwrap_or_default();
        Ok(if found.is_some_and(|c| c.status == status && c.message.contains(message)) {
            Polled::Ready(())
        } else {
            Polled::Pending(text)
        })
    })
    .await
}

async fn primary(cluster: &KindCluster) -> Result<String, E2eFailure> {
    let status = cluster.resources().get(NAME).await?.status.unwrap_or_default();
    Ok(status.primary.unwrap_or_default())
}

async fn uid(cluster: &KindCluster, node: i32) -> Result<Option<String>, E2eFailure> {
    Ok(cluster.pod_api().get(&pod_name(node)).await?.metadata.uid)
}
