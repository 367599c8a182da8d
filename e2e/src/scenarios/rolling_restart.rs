//! After a change of the resources, the pods are replaced one at a time, the leader after the other
//! standbys and the primary last. Data, volumes and ids stay.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{KindCluster, NAME, TIMEOUT, is_ready};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};

const NODES: [i32; 3] = [1, 2, 3];

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    data::write(&cluster, 1, 1000).await?;
    let (pods, volumes, rows) =
        (identities(&cluster).await?, volumes(&cluster).await?, cluster.same_rows(&NODES).await?);
    let leader = cluster.leader(1).await?;

    let begun = std::time::Instant::now();
    patch(&cluster, &json!({"spec": {"resources": {"requests": {"memory": "48Mi"}}}})).await?;
    let order = watch(&cluster, &pods).await?;
    let took = begun.elapsed();
    ensure!(
        order.last() == Some(&1),
        "the primary must be restarted last, but the order was {order:?}"
    );
    ensure!(
        leader == 1 || order[1] == leader,
        "the leader, {leader}, must be restarted after the other standby, but the order was {order:?}"
    );
    kubectl(&cluster, &["wait", "pgr/demo", "--for=condition=PodsUpToDate", "--timeout=60s"])
        .await?;
    cluster.settled(3).await?;

    for (node, pod) in cluster.pods().await? {
        let memory = pod
            .spec
            .iter()
            .flat_map(|s| &s.containers)
            .find_map(|c| Some(c.resources.as_ref()?.requests.as_ref()?["memory"].0.clone()));
        ensure!(memory.as_deref() == Some("48Mi"), "pod {node} requests {memory:?}");
    }
    ensure!(self::volumes(&cluster).await? == volumes, "a volume was replaced");
    ensure!(cluster.same_rows(&NODES).await? == rows, "the members changed");
    cluster.same_everywhere(&NODES).await?;
    data::same_on(&cluster, 1, &NODES).await?;
    data::write(&cluster, 1, 100).await?;
    data::same_on(&cluster, 1, &NODES).await?;
    missing_image(&cluster).await?;
    let what = "a rolling restart of three members, from the change of the spec until the third new pod is ready".into();
    Ok(vec![ReportedFigure { what, value: format!("{:.0} s", took.as_secs_f64()) }])
}

/// Waits until every pod was replaced and is ready. Returns the order in which they went down, or
/// fails if two were down at once.
async fn watch(
    cluster: &KindCluster,
    before: &BTreeMap<i32, String>,
) -> Result<Vec<i32>, E2eFailure> {
    let mut order: Vec<i32> = Vec::new();
    let (order_seen, what) = (
        std::sync::Mutex::new(&mut order),
        format!("all pods of {} were replaced", cluster.namespace),
    );
    let both = until(&what, 3 * TIMEOUT, || async {
        let pods = cluster.pods().await?;
        let replaced = |node: &i32| {
            pods.get(node).is_some_and(|pod| pod.metadata.uid.as_ref() != before.get(node))
        };
        let down: BTreeSet<i32> =
            NODES.into_iter().filter(|node| !pods.get(node).is_some_and(is_ready)).collect();
        let mut order = order_seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for node in &down {
            if !order.contains(node) {
                order.push(*node);
            }
        }
        if down.len() > 1 {
            return Ok(Polled::Ready(Some(down)));
        }
        let done = down.is_empty() && NODES.iter().all(replaced);
        Ok(if done {
            Polled::Ready(None)
        } else {
            Polled::Pending(format!("down: {down:?}, so far: {order:?}"))
        })
    })
    .await?;
    match both {
        Some(down) => Err(E2eFailure::Wrong(format!("{down:?} were down at the same time"))),
        None => Ok(order),
    }
}

/// A missing image stops the restart at the first pod. The next spec repairs that pod too.
async fn missing_image(cluster: &KindCluster) -> Result<(), E2eFailure> {
    let before = identities(cluster).await?;
    patch(
        cluster,
        &json!({"spec": {"image": "pgraft/postgres:no-such-version", "imagePullPolicy": "Never"}}),
    )
    .await?;
    until("a pod cannot start", TIMEOUT, || async {
        let waiting = |pod: &Pod| {
            let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
            containers
                .filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone())
                .collect::<Vec<_>>()
        };
        let pods = cluster.pods().await?;
        let stuck: Vec<_> = pods
            .iter()
            .map(|(node, pod)| (*node, waiting(pod)))
            .filter(|(_, reasons)| !reasons.is_empty())
            .collect();
        let found =
            stuck.iter().any(|(_, reasons)| reasons.iter().any(|r| r == "ErrImageNeverPull"));
        Ok(if found { Polled::Ready(()) } else { Polled::Pending(format!("{stuck:?}")) })
    })
    .await?;
    let untouched = identities(cluster)
        .await?
        .into_iter()
        .filter(|(node, uid)| before.get(node) == Some(uid))
        .count();
    ensure!(untouched == 2, "{untouched} instead of 2 pods were not changed");
    patch(cluster, &json!({"spec": {"image": null, "imagePullPolicy": "IfNotPresent"}})).await?;
    kubectl(cluster, &["wait", "pgr/demo", "--for=condition=PodsUpToDate", "--timeout=180s"])
        .await?;
    cluster.settled(3).await?;
    data::same_on(cluster, 1, &NODES).await
}

async fn patch(cluster: &KindCluster, patch: &serde_json::Value) -> Result<(), E2eFailure> {
    kubectl(cluster, &["patch", "pgr/demo", "--type=merge", "--patch", &patch.to_string()]).await
}

async fn kubectl(cluster: &KindCluster, arguments: &[&str]) -> Result<(), E2eFailure> {
    command("kubectl", &[&["--namespace", &cluster.namespace], arguments].concat()).await.map(drop)
}

async fn identities(cluster: &KindCluster) -> Result<BTreeMap<i32, String>, E2eFailure> {
    Ok(cluster
        .pods()
        .await?
        .into_iter()
        .filter_map(|(node, pod)| Some((node, pod.metadata.uid?)))
        .collect())
}

async fn volumes(cluster: &KindCluster) -> Result<BTreeSet<Option<String>>, E2eFailure> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(
        cluster.resources().into_client(),
        &cluster.namespace,
    );
    let ours = ListParams::default().labels(&format!("pgraft.io/cluster={NAME}"));
    Ok(claims.list(&ours).await?.items.into_iter().map(|claim| claim.metadata.uid).collect())
}
