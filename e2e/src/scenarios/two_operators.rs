//! Two operators, of which one is active. It is killed during a scale, and the other one completes
//! the scale. An operator that is stopped hands over at once.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use std::time::Instant;

use super::leader_lost::one_join_each;
use crate::cluster::{KindCluster, TIMEOUT};
use crate::command::run as command;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};

const SYSTEM: &str = "pgraft-system";
const DEPLOYMENT: &str = "deployment/pgraft-operator";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    operators(2).await?;
    let result = steps(&cluster).await;
    operators(1).await?;
    result
}

async fn steps(cluster: &KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    cluster.scale(5).await?;
    until("the volume of node 4 exists", TIMEOUT, || async {
        let volumes = cluster.volumes().await?;
        Ok(if volumes.contains(&4) {
            Polled::Ready(())
        } else {
            Polled::Pending(format!("{volumes:?}"))
        })
    })
    .await?;
    let killed = hand_over(cluster, Some(0)).await?;
    cluster.settled(5).await?;
    cluster.same_everywhere(&[1, 2, 3, 4, 5]).await?;
    one_join_each(cluster, &[1, 2, 3, 4, 5]).await?;

    let stopped = hand_over(cluster, None).await?;
    cluster.scale(3).await?;
    cluster.settled(3).await?;
    cluster.same_everywhere(&[1, 2, 3]).await?;
    Ok(vec![
        ReportedFigure {
            what: "from the kill of the active operator until the other one holds the Lease".into(),
            value: killed,
        },
        ReportedFigure {
            what: "from the stop of the active operator until the other one holds the Lease".into(),
            value: stopped,
        },
    ])
}

/// Deletes the operator that holds the Lease, and waits for another holder.
async fn hand_over(cluster: &KindCluster, grace: Option<u32>) -> Result<String, E2eFailure> {
    let client = cluster.resources().into_client();
    let leases = Api::<Lease>::namespaced(client.clone(), SYSTEM);
    let holder = async || {
        Ok::<_, E2eFailure>(
            leases
                .get("pgraft-operator")
                .await?
                .spec
                .and_then(|s| s.holder_identity)
                .unwrap_or_default(),
        )
    };
    let before = until("an operator holds the Lease", TIMEOUT, || async {
        let holder = holder().await?;
        Ok(if holder.is_empty() { Polled::Pending("none".into()) } else { Polled::Ready(holder) })
    })
    .await?;
    let pod = before.split('_').next().unwrap_or_default();
    Api::<Pod>::namespaced(client, SYSTEM)
        .delete(pod, &DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() })
        .await?;
    let begun = Instant::now();
    until("the other operator holds the Lease", TIMEOUT, || async {
        let now = holder().await?;
        Ok(if now.is_empty() || now == before { Polled::Pending(now) } else { Polled::Ready(()) })
    })
    .await?;
    Ok(format!("{:.1} s", begun.elapsed().as_secs_f64()))
}

async fn operators(replicas: u8) -> Result<(), E2eFailure> {
    command(
        "kubectl",
        &["scale", DEPLOYMENT, &format!("--replicas={replicas}"), "--namespace", SYSTEM],
    )
    .await?;
    command("kubectl", &["rollout", "status", DEPLOYMENT, "--timeout=180s", "--namespace", SYSTEM])
        .await
        .map(drop)
}
