//! Scales 1 → 3 → 5 → 3 → 1 → 3, or without the five if volumes are retained. After each step,
//! every pod has the data and the same members, no id is used twice, and the volumes are deleted or
//! kept according to the policy.

use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::KindCluster;
use crate::data;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};

/// `persistentVolumeClaimRetentionPolicy.whenScaled`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Delete,
    Retain,
}

pub async fn run(cluster: KindCluster, policy: Policy) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let word = if policy == Policy::Delete { "Delete" } else { "Retain" };
    cluster
        .create(1, &json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": word}}))
        .await?;
    let mut ever = BTreeSet::new();
    let steps: &[&[i32]] = match policy {
        Policy::Delete => &[&[1], &[1, 2, 3], &[1, 2, 3, 4, 5], &[1, 2, 3], &[1], &[1, 6, 7]],
        Policy::Retain => &[&[1], &[1, 2, 3], &[1], &[1, 4, 5]],
    };
    for (step, ids) in steps.iter().enumerate() {
        if step > 0 {
            let replicas = i32::try_from(ids.len()).unwrap_or_default();
            cluster.scale(replicas).await?;
            cluster.settled(replicas).await?;
        }
        ever.extend(ids.iter().copied());
        data::write(&cluster, 1, 100).await?;
        data::same_on(&cluster, 1, ids).await?;
        cluster.same_everywhere(ids).await?;
        let volumes =
            if policy == Policy::Delete { ids.iter().copied().collect() } else { ever.clone() };
        volumes_are(&cluster, &volumes).await?;
    }
    Ok(Vec::new())
}

async fn volumes_are(cluster: &KindCluster, expected: &BTreeSet<i32>) -> Result<(), E2eFailure> {
    until(
        &format!("the volumes in {} are {expected:?}", cluster.namespace),
        Duration::from_mins(1),
        || async {
            let volumes = cluster.volumes().await?;
            Ok(if volumes == *expected {
                Polled::Ready(())
            } else {
                Polled::Pending(format!("{volumes:?}"))
            })
        },
    )
    .await
}
