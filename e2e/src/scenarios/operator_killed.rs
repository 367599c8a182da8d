//! The operator is killed several times while it scales: every step is completed, and none is done
//! twice.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::leader_lost::one_join_each;
use crate::cluster::{KindCluster, TIMEOUT, is_ready};
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    let operators = Api::<Pod>::namespaced(cluster.resources().into_client(), "pgraft-system");

    cluster.scale(5).await?;
    for (moment, volumes, members) in [
        ("the volume of node 4", 4, 3),
        ("node 4 in the membership", 4, 4),
        ("the volume of node 5", 5, 4),
        ("node 5 in the membership", 5, 5),
    ] {
        until(&format!("{moment} exists"), TIMEOUT, || async {
            let seen = (cluster.volumes().await?.len(), cluster.rows(2).await?.len());
            Ok(if seen.0 >= volumes && seen.1 >= members {
                Polled::Ready(())
            } else {
                Polled::Pending(format!("{seen:?}"))
            })
        })
        .await?;
        kill(&operators).await?;
    }
    cluster.settled(5).await?;
    cluster.same_everywhere(&[1, 2, 3, 4, 5]).await?;
    one_join_each(&cluster, &[1, 2, 3, 4, 5]).await?;

    cluster.scale(3).await?;
    for left in [4, 3] {
        until(&format!("{left} members are left"), TIMEOUT, || async {
            let members = cluster.rows(2).await?.len();
            Ok(if members <= left {
                Polled::Ready(())
            } else {
                Polled::Pending(members.to_string())
            })
        })
        .await?;
        kill(&operators).await?;
    }
    cluster.settled(3).await?;
    cluster.same_everywhere(&[1, 2, 3]).await?;
    Ok(Vec::new())
}

/// Deletes the operator's ready pods without a grace period.
async fn kill(operators: &Api<Pod>) -> Result<(), E2eFailure> {
    for pod in
        operators.list(&ListParams::default()).await?.items.iter().filter(|pod| is_ready(pod))
    {
        let name = pod.metadata.name.clone().unwrap_or_default();
        operators
            .delete(
                &name,
                &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() },
            )
            .await?;
    }
    Ok(())
}
