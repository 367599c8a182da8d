//! A cluster at work: while a client writes over connections that it keeps, the primary is another
//! one by request; its server is killed while three members become five, and its pod is deleted;
//! the members do the same with no operator; a voter that is gone for good is replaced; and while
//! five members become three the primary's server is killed again. What was acknowledged is there
//! in the end, what was refused is not.

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
use crate::wait::{Look, until, until_true};
use crate::writer::{Acknowledged, Connections, LoadWriter};

const THREE: [i32; 3] = [1, 2, 3];
const FIVE: [i32; 5] = [1, 2, 3, 4, 5];
const CONNECTIONS: u8 = 4;
const REPLACE_AFTER: &str = "15s";
/// Every stream to a standby, by whether it is encrypted.
const IN_THE_CLEAR: &str =
    "select count(*) from pg_stat_replication join pg_stat_ssl using (pid) where not ssl";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({ "failover": { "enabled": true } })).await?;
    data::write(&cluster, 1, 1000).await?;
    let writer = LoadWriter::begin(
        &cluster,
        "at-work",
        Connections::Kept(CONNECTIONS),
        &["no-such-host".to_owned()],
    )
    .await?;
    let mut marks = Vec::new();
    let mut begins = |what: &'static str| marks.push((what, now()));

    begins("kubectl patch of spec.switchover");
    asked_for(&cluster, &writer).await?;
    begins("kill -9 of the primary's postmaster while 3 members become 5");
    grown(&cluster, &writer).await?;
    begins("the primary's pod deleted, of 5 members");
    let third = lost(&cluster, &writer, async |primary| cluster.delete_pod(primary).await).await?;
    let clear: i64 = cluster.superuser(third).await?.value(IN_THE_CLEAR, &[]).await?;
    ensure!(clear == 0, "{clear} standbys of node {third} stream in the clear");
    begins("kill -9 of the primary's postmaster, no operator");
    without_operator(&cluster, &writer).await?;
    begins("a voter cut off for good, and replaced");
    let members = replaced(&cluster, &writer).await?;
    begins("kill -9 of the primary's postmaster while 5 members become 3");
    let left = shrunk(&cluster, &writer).await?;
    begins("");

    let told = writer.stop().await?;
    let last = primary(&cluster, &left).await?;
    told.are_on(&cluster, last).await?;
    all_back(&cluster, last, &left).await?;
    cluster.same_everywhere(&left).await?;
    println!(
        "{}: {} in epoch {}; 5 members were {members:?}",
        cluster.namespace,
        told.counts(),
        epoch(&cluster, last).await?
    );
    Ok(figures(&told, &marks))
}

fn figures(told: &Acknowledged, marks: &[(&'static str, i64)]) -> Vec<ReportedFigure> {
    let figure = |two: &[(&str, i64)]| ReportedFigure {
        what: format!(
            "{}: the longest time without an acknowledged insert through -rw, {CONNECTIONS} connections that are kept",
            two[0].0
        ),
        value: format!("{:.1} s", told.gap(two[0].1, two[1].1).as_secs_f64()),
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

async fn asked_for(cluster: &KindCluster, writer: &LoadWriter) -> Result<(), E2eFailure> {
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
    until_true("the first of the new pods is made", TIMEOUT, || async {
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

/// Loses the primary of five, and waits until everybody follows the next one.
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
    let story = async {
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
    let last = pod_name(story?);
    // When it is back it shows what has happened.
    cluster.settled(5).await?;
    until("the status names the new primary", TIMEOUT, || async {
        let primary = cluster.resources().get(NAME).await?.status.and_then(|s| s.primary);
        Ok(if primary.as_ref() == Some(&last) {
            Look::Yes(())
        } else {
            Look::NotYet(format!("{primary:?}"))
        })
    })
    .await
}

/// Nobody reaches one of the voters any more, and an operator is started again while it counts.
async fn replaced(cluster: &KindCluster, writer: &LoadWriter) -> Result<Vec<i32>, E2eFailure> {
    let (is_primary, leads) = (primary(cluster, &FIVE).await?, cluster.leader(1).await?);
    let gone = FIVE.into_iter().find(|id| *id != is_primary && *id != leads).unwrap_or_default();
    let others: Vec<i32> = FIVE.into_iter().filter(|id| *id != gone).collect();
    patch(cluster, &json!({ "failover": { "replaceAfter": REPLACE_AFTER } })).await?;
    let cut = NetworkCut::between(cluster, &[gone], &others).await?;
    let story = async {
        let since = until("the status tells since when it is away", TIMEOUT, || async {
            Ok(away_since(cluster, gone)
                .await?
                .flatten()
                .map_or(Look::NotYet("no".into()), Look::Yes))
        })
        .await?;
        operators(0).await?;
        operators(1).await?;
        until("the voter that is gone has left", TIMEOUT, || async {
            let Some(told) = away_since(cluster, gone).await? else { return Ok(Look::Yes(Ok(()))) };
            let anew = told.as_ref().is_some_and(|told| *told != since);
            Ok(if anew {
                Look::Yes(Err((since.clone(), told)))
            } else {
                Look::NotYet(format!("{told:?}"))
            })
        })
        .await?
        .map_err(|times| {
            E2eFailure::Wrong(format!("node {gone} is away since another time: {times:?}"))
        })?;
        cluster.settled(5).await
    }
    .await;
    cut.heal().await?;
    story?;
    patch(cluster, &json!({ "failover": { "replaceAfter": null } })).await?;
    let members = ids(cluster).await?;
    ensure!(!members.contains(&gone), "node {gone} is a member");
    followed(cluster, primary(cluster, &members).await?, &members).await?;
    writer.more(20).await?;
    Ok(members)
}

/// What the status tells of a member: None where it is none.
async fn away_since(
    cluster: &KindCluster,
    node: i32,
) -> Result<Option<Option<String>>, E2eFailure> {
    let members = cluster.members().await?;
    let member = members.into_iter().find(|m| m.id == i64::from(node));
    Ok(member.map(|m| m.unreachable_since.map(|since| since.0.to_string())))
}

async fn shrunk(cluster: &KindCluster, writer: &LoadWriter) -> Result<Vec<i32>, E2eFailure> {
    cluster.scale(3).await?;
    until_true("the first has left", TIMEOUT, || async { Ok(ids(cluster).await?.len() < 5) })
        .await?;
    let is_primary = cluster
        .members()
        .await?
        .into_iter()
        .find(|m| m.primary)
        .and_then(|m| i32::try_from(m.id).ok())
        .unwrap_or_default();
    if let Err(failure) = in_pod(cluster, is_primary, KILL_SERVER).await {
        println!("{}: node {is_primary} went first: {failure}", cluster.namespace);
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
