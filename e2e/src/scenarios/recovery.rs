//! Node 3 is down while nodes 4 and 5 are added. When it is back, it has both members and all data.
//! Then its replay is paused: it is not ready, and Degraded names it, until the replay continues.

use pgraft_api::cluster::Role;
use serde_json::json;

use crate::cluster::{KindCluster, NAME, TIMEOUT, is_ready, pod_name};
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({ "standby": { "maxLag": "10s" } })).await?;
    data::write(&cluster, 1, 100).await?;
    let pods = cluster.pods().await?;
    let host =
        pods.get(&3).and_then(|pod| pod.spec.as_ref()?.node_name.clone()).unwrap_or_default();

    // It stays down, since its volume is on an unschedulable host.
    cluster.cordon(&host, true).await?;
    let steps = while_down(&cluster).await;
    cluster.cordon(&host, false).await?;
    steps?;

    cluster.settled(5).await?;
    cluster.same_everywhere(&[1, 2, 3, 4, 5]).await?;
    data::same_on(&cluster, 1, &[1, 2, 3, 4, 5]).await?;
    let joined = "select array_agg((data->>'node')::int order by index) from pgraft_log() where kind = 'join' and committed";
    let order: Vec<i32> = cluster.superuser(3).await?.value(joined, &[]).await?;
    ensure!(
        order.ends_with(&[4, 5]),
        "node 3 has the joins {order:?}, which must end with 4 and 5"
    );
    paused(&cluster).await?;
    Ok(Vec::new())
}

async fn paused(cluster: &KindCluster) -> Result<(), E2eFailure> {
    cluster.superuser(3).await?.run("select pg_wal_replay_pause()").await?;
    data::write(cluster, 1, 1000).await?;
    until("node 3 is not ready, and Degraded has the reason", TIMEOUT, || async {
        let ready = is_ready(&cluster.pod_api().get(&pod_name(3)).await?);
        let status = cluster.resources().get(NAME).await?.status.unwrap_or_default();
        let degraded = status
            .conditions
            .into_iter()
            .find(|c| c.type_ == "Degraded")
            .map(|c| c.message)
            .unwrap_or_default();
        let reported =
            degraded.contains(&pod_name(3)) && degraded.contains("replay of WAL has been paused");
        Ok(if !ready && reported { Polled::Ready(()) } else { Polled::Pending(degraded) })
    })
    .await?;
    cluster.superuser(3).await?.run("select pg_wal_replay_resume()").await?;
    cluster.settled(5).await?;
    data::same_on(cluster, 1, &[1, 3]).await
}

async fn while_down(cluster: &KindCluster) -> Result<(), E2eFailure> {
    let before = cluster.pods().await?.get(&3).and_then(|pod| pod.metadata.uid.clone());
    cluster.delete_pod(3).await?;
    until("the new pod of node 3 is pending", TIMEOUT, || async {
        let pod = cluster.pod_api().get(&pod_name(3)).await?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        let new = pod.metadata.uid != before;
        Ok(if new && phase == "Pending" { Polled::Ready(()) } else { Polled::Pending(phase) })
    })
    .await?;

    cluster.scale(5).await?;
    until("nodes 4 and 5 are voters while node 3 is down", TIMEOUT, || async {
        let members = cluster.members().await?;
        let voters: Vec<i64> =
            members.iter().filter(|m| m.role == Role::Voter).map(|m| m.id).collect();
        let unreachable = members.iter().any(|m| m.id == 3 && m.reachable == Some(false));
        Ok(if voters == [1, 2, 3, 4, 5] && unreachable {
            Polled::Ready(())
        } else {
            Polled::Pending(format!("{members:?}"))
        })
    })
    .await?;
    ensure!(!is_ready(&cluster.pod_api().get(&pod_name(3)).await?), "node 3 was not down");
    cluster.same_rows_on(&[1, 2, 4, 5], &[1, 2, 3, 4, 5]).await?;
    data::write(cluster, 1, 100).await
}
