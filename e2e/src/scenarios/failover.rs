//! A cluster under load: while a client writes over persistent connections, there is a switchover,
//! the primary's server is killed during a scale from three to five, its pod is deleted, both
//! happen without an operator, an unreachable voter is replaced, and the primary's server is killed
//! during a scale from five to three. At the end, acknowledged rows exist and refused rows do not.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cluster::{KindCluster, NAME, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::cut::NetworkCut;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::primary_term::{
    KILL_SERVER, all_back, epoch, followed, in_pod, next_primary_term, primary,
};
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until, until_true};
use crate::writer::{Connections, LoadWriter, WrittenRows};

const THREE: [i32; 3] = [1, 2, 3];
const FIVE: [i32; 5] = [1, 2, 3, 4, 5];
const CONNECTIONS: u8 = 4;
const REPLACE_AFTER: &str = "15s";
/// The number of streams to standbys that are not encrypted.
const UNENCRYPTED_STREAMS: &str =
    "select count(*) from pg_stat_replication join pg_stat_ssl using (pid) where not ssl";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({ "failover": { "enabled": true } })).await?;
    data::write(&cluster, 1, 1000).await?;
    let writer = LoadWriter::begin(
        &cluster,
        "under-load",
        Connections::Kept(CONNECTIONS),
        &["no-such-host".to_owned()],
    )
    .await?;
    let mut marks = Vec::new();
    let mut mark = |what: &'static str| marks.push((what, now()));

    mark("kubectl patch of spec.switchover");
    switched_over(&cluster, &writer).await?;
    mark("kill -9 of the primary's postmaster while 3 members become 5");
    grown(&cluster, &writer).await?;
    mark("the primary's pod deleted, of 5 members");
    let third = lost(&cluster, &writer, async |primary| cluster.delete_pod(primary).await).await?;
    let unencrypted: i64 = cluster.superuser(third).await?.value(UNENCRYPTED_STREAMS, &[]).await?;
    ensure!(unencrypted == 0, "{unencrypted} standbys of node {third} stream without encryption");
    mark("kill -9 of the primary's postmaster, no operator");
    without_operator(&cluster, &writer).await?;
    mark("a voter is cut off, and replaced");
    let members = replaced(&cluster, &writer).await?;
    mark("kill -9 of the primary's postmaster while 5 members become 3");
    let left = shrunk(&cluster, &writer).await?;
    mark("");

    let written = writer.stop().await?;
    let last = primary(&cluster, &left).await?;
    written.are_on(&cluster, last).await?;
    all_back(&cluster, last, &left).await?;
    cluster.same_everywhere(&left).await?;
    println!(
        "{}: {} in epoch {}; the five members were {members:?}",
        cluster.namespace,
        written.counts(),
        epoch(&cluster, last).await?
    );
    Ok(figures(&written, &marks))
}

fn figures(written: &WrittenRows, marks: &[(&'static str, i64)]) -> Vec<ReportedFigure> {
    let figure = |two: &[(&str, i64)]| ReportedFigure {
        what: format!(
            "{}: the longest time without an acknowledged insert through -rw, over {CONNECTIONS} persistent connections",
            two[0].0
        ),
        value: format!("{:.1} s", written.gap(two[0].1, two[1].1).as_secs_f64()),
    };
    marks.windows(2).map(figure).collect()
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

async fn switched_over(cluster: &KindCluster, writer: &LoadWriter) -> Result<(), E2eFailure> {
    let former = primary(cluster, &THREE).await?;
    let target = THREE.into_iter().find(|id| *id != former).unwrap_or_default();
    patch(cluster, &json!({ "switchover": { "target": pod_name(target) } })).await?;
    kubectl(cluster, &["wait", "pgr/demo", "--for=condition=SwitchoverDone", "--timeout=120s"])
        .await?;
    followed(cluster, primary(cluster, &THREE).await?, &THREE).await?;
    writer.more(20).await
}

async fn grown(cluster: &KindCluster, writer: &LoadWriter) -> Result<(), E2eFailure> {
    cluster.scale(5).await?;
    until_true("the first new pod exists", TIMEOUT, || async {
        Ok(cluster.pods().await?.contains_key(&4))
    })
    .await?;
    let (former, before) = primary_and_epoch(cluster, &THREE).await?;
    in_pod(cluster, former, KILL_SERVER).await?;
    next_primary_term(cluster, before, &FIVE).await?;
    cluster.settled(5).await?;
    followed(cluster, primary(cluster, &FIVE).await?, &FIVE).await?;
    writer.more(20).await
}

/// Ends the primary of five, and waits until all members follow the next one.
async fn lost(
    cluster: &KindCluster,
    writer: &LoadWriter,
    lose: impl AsyncFnOnce(i32) -> Result<(), E2eFailure>,
) -> Result<i32, E2eFailure> {
    let (former, before) = primary_and_epoch(cluster, &FIVE).await?;
    lose(former).await?;
    next_primary_term(cluster, before, &FIVE).await?;
    for node in FIVE {
        cluster.pod_ready(node).await?;
    }
    let next = primary(cluster, &FIVE).await?;
    followed(cluster, next, &FIVE).await?;
    writer.more(20).await?;
    Ok(next)
}

async fn without_operator(cluster: &KindCluster, writer: &LoadWriter) -> Result<(), E2eFailure> {
    operators(0).await?;
    let steps = async {
        let next =
            lost(cluster, writer, async |primary| in_pod(cluster, primary, KILL_SERVER).await)
                .await?;
        let target = FIVE.into_iter().find(|id| *id != next).unwrap_or_default();
        cluster
            .superuser(target)
            .await?
            .run(&format!("select pgraft_switchover({target})"))
            .await?;
        let last = primary(cluster, &FIVE).await?;
        followed(cluster, last, &FIVE).await?;
        Ok::<_, E2eFailure>(last)
    }
    .await;
    operators(1).await?;
    let last = pod_name(steps?);
    // The status shows the change when the operator is back.
    cluster.settled(5).await?;
    until("the status names the new primary", TIMEOUT, || async {
        let primary = cluster.resources().get(NAME).await?.status.and_then(|s| s.primary);
        Ok(if primary.as_ref() == Some(&last) {
            Polled::Ready(())
        } else {
            Polled::Pending(format!("{primary:?}"))
        })
    })
    .await
}

/// A voter is unreachable, and the operator is restarted while it waits to replace the voter.
async fn replaced(cluster: &KindCluster, writer: &LoadWriter) -> Result<Vec<i32>, E2eFailure> {
    let (is_primary, leads) = (primary(cluster, &FIVE).await?, cluster.leader(1).await?);
    let gone = FIVE.into_iter().find(|id| *id != is_primary && *id != leads).unwrap_or_default();
    let others: Vec<i32> = FIVE.into_iter().filter(|id| *id != gone).collect();
    patch(cluster, &json!({ "failover": { "replaceAfter": REPLACE_AFTER } })).await?;
    let cut = NetworkCut::between(cluster, &[gone], &others).await?;
    let steps = async {
        let since =
            until("the status shows since when the voter is unreachable", TIMEOUT, || async {
                Ok(unreachable_since_in_status(cluster, gone)
                    .await?
                    .flatten()
                    .map_or(Polled::Pending("no".into()), Polled::Ready))
            })
            .await?;
        operators(0).await?;
        operators(1).await?;
        until("the unreachable voter is no longer a member", TIMEOUT, || async {
            let Some(now) = unreachable_since_in_status(cluster, gone).await? else {
                return Ok(Polled::Ready(Ok(())));
            };
            let changed = now.as_ref().is_some_and(|now| *now != since);
            Ok(if changed {
                Polled::Ready(Err((since.clone(), now)))
            } else {
                Polled::Pending(format!("{now:?}"))
            })
        })
        .await?
        .map_err(|times| {
            E2eFailure::Wrong(format!("node {gone} is unreachable since another time: {times:?}"))
        })?;
        cluster.settled(5).await
    }
    .await;
    cut.heal().await?;
    steps?;
    patch(cluster, &json!({ "failover": { "replaceAfter": null } })).await?;
    let members = ids(cluster).await?;
    ensure!(!members.contains(&gone), "node {gone} is still a member");
    followed(cluster, primary(cluster, &members).await?, &members).await?;
    writer.more(20).await?;
    Ok(members)
}

/// Since when a member is unreachable, according to the status. The outer `None` is for no member.
async fn unreachable_since_in_status(
    cluster: &KindCluster,
    node: i32,
) -> Result<Option<Option<String>>, E2eFailure> {
    let members = cluster.members().await?;
    let member = members.into_iter().find(|m| m.id == i64::from(node));
    Ok(member.map(|m| m.unreachable_since.map(|since| since.0.to_string())))
}

async fn shrunk(cluster: &KindCluster, writer: &LoadWriter) -> Result<Vec<i32>, E2eFailure> {
    cluster.scale(3).await?;
    until_true("one of five members has left", TIMEOUT, || async {
        Ok(ids(cluster).await?.len() < 5)
    })
    .await?;
    let is_primary = cluster
        .members()
        .await?
        .into_iter()
        .find(|m| m.primary)
        .and_then(|m| i32::try_from(m.id).ok())
        .unwrap_or_default();
    if let Err(failure) = in_pod(cluster, is_primary, KILL_SERVER).await {
        println!("{}: node {is_primary} was already gone: {failure}", cluster.namespace);
    }
    cluster.settled(3).await?;
    let left = ids(cluster).await?;
    followed(cluster, primary(cluster, &left).await?, &left).await?;
    writer.more(20).await?;
    Ok(left)
}

async fn primary_and_epoch(cluster: &KindCluster, asked: &[i32]) -> Result<(i32, i64), E2eFailure> {
    let node = primary(cluster, asked).await?;
    Ok((node, epoch(cluster, node).await?))
}

async fn ids(cluster: &KindCluster) -> Result<Vec<i32>, E2eFailure> {
    Ok(cluster.members().await?.iter().filter_map(|m| i32::try_from(m.id).ok()).collect())
}

async fn operators(replicas: u8) -> Result<(), E2eFailure> {
    const DEPLOYMENT: &str = "deployment/pgraft-operator";
    command(
        "kubectl",
        &["scale", DEPLOYMENT, &format!("--replicas={replicas}"), "--namespace", "pgraft-system"],
    )
    .await?;
    let timeout = format!("--timeout={}s", Duration::from_mins(3).as_secs());
    command("kubectl", &["rollout", "status", DEPLOYMENT, &timeout, "--namespace", "pgraft-system"])
        .await
        .map(drop)
}

async fn patch(cluster: &KindCluster, spec: &Value) -> Result<(), E2eFailure> {
    kubectl(
        cluster,
        &["patch", "pgr", NAME, "--type", "merge", "--patch", &json!({ "spec": spec }).to_string()],
    )
    .await
}

async fn kubectl(cluster: &KindCluster, arguments: &[&str]) -> Result<(), E2eFailure> {
    command("kubectl", &[&["--namespace", &cluster.namespace], arguments].concat()).await.map(drop)
}
