//! Somebody asks for another primary, scales the primary's member away, and asks for other pods,
//! all under a client that writes: each time the primary is another one first, nothing that was
//! acknowledged is gone, and status and Events tell what happened.

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use pgraft_operator::api::{FailoverReason, LastFailoverStatus};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::cluster::{KindCluster, NAME, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Look, until};
use crate::writer::{Acknowledged, Connections, LoadWriter};

/// Generous: what is usual is printed.
const LONGEST_GAP: Duration = Duration::from_secs(30);

/// What administrators do to the database `postgres` and to roles.
const ADVERSE: &str = "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC; DROP SCHEMA public CASCADE; \
    ALTER ROLE pgraft_operator SET statement_timeout = 1; ALTER ROLE pgraft_operator SET default_transaction_read_only = on; \
    ALTER ROLE postgres SET statement_timeout = 1";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    // With settings and grants that pgraft's own sessions must not depend on.
    let parameters = json!({"default_transaction_isolation": "serializable"});
    cluster
        .create(
            3,
            &json!({ "failover": { "enabled": true }, "postgresql": { "parameters": parameters } }),
        )
        .await?;
    cluster.superuser(1).await?.run(ADVERSE).await?;
    data::write(&cluster, 1, 10).await?;
    let mut figures = asked_for(&cluster).await?;
    figures.push(refused(&cluster).await?);
    let first = changed(&cluster, 1).await?.epoch;
    figures.push(scaled_away(&cluster).await?);
    let second = changed(&cluster, first).await?.epoch;
    figures.push(restarted(&cluster).await?);
    let third = changed(&cluster, second).await?.epoch;
    told_once(&cluster, &[first, second, third]).await?;
    Ok(figures)
}

/// `kubectl patch`, as the documentation has it.
async fn asked_for(cluster: &KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let writer = begin(cluster, "asked-for").await?;
    let begun = Instant::now();
    ask(cluster, &json!({"target": "demo-3"})).await?;
    kubectl(cluster, &["wait", "pgr/demo", "--for=condition=SwitchoverDone", "--timeout=120s"])
        .await?;
    let took = begun.elapsed();
    let last = changed(cluster, 1).await?;
    ensure!(
        last.reason == FailoverReason::Switchover && last.from == "demo-1" && last.to == "demo-3",
        "the status tells of {last:?}"
    );
    writer.more(10).await?;
    let told = writer.stop().await?;
    told.are_on(cluster, 3).await?;
    cluster.settled(3).await?;
    println!("{}: {last:?}", cluster.namespace);
    Ok(vec![
        ReportedFigure {
            what: "kubectl patch of spec.switchover, until the condition SwitchoverDone".into(),
            value: seconds(took),
        },
        ReportedFigure {
            what: "the same, as the members measure it (status.lastFailover)".into(),
            value: format!("{} ms", last.duration_ms),
        },
        gap("the same", &told)?,
    ])
}

/// A request that nobody can carry out changes nothing, and nothing waits for it.
async fn refused(cluster: &KindCluster) -> Result<ReportedFigure, E2eFailure> {
    ask(cluster, &json!({"target": "demo-9"})).await?;
    until("the refusal is shown", TIMEOUT, || async {
        let conditions =
            cluster.resources().get(NAME).await?.status.map(|s| s.conditions).unwrap_or_default();
        let said = conditions
            .into_iter()
            .find(|c| c.type_ == "SwitchoverDone" && c.status == "False")
            .map(|c| c.message)
            .unwrap_or_default();
        Ok(if said.contains("node 9 is not a member") { Look::Yes(()) } else { Look::NotYet(said) })
    })
    .await?;
    cluster.settled(3).await?;
    ensure!(primary(cluster).await? == "demo-3", "the primary is another one");
    ask(cluster, &Value::Null).await?;
    Ok(ReportedFigure {
        what: "switchovers that were refused, with everything as it was".into(),
        value: "1".into(),
    })
}

/// The highest id goes, and is the primary.
async fn scaled_away(cluster: &KindCluster) -> Result<ReportedFigure, E2eFailure> {
    let writer = begin(cluster, "scaled-away").await?;
    let epoch = changed(cluster, 1).await?.epoch;
    cluster.scale(2).await?;
    cluster.settled(2).await?;
    println!("{}: {:?}", cluster.namespace, changed(cluster, epoch).await?);
    cluster.same_everywhere(&[1, 2]).await?;
    cluster.scale(3).await?;
    cluster.settled(3).await?;
    writer.more(10).await?;
    let told = writer.stop().await?;
    told.are_on(cluster, node(&primary(cluster).await?)?).await?;
    cluster.same_everywhere(&[1, 2, 4]).await?;
    gap("kubectl scale 3 to 2 through the primary, and back to 3", &told)
}

/// Every pod is made again, the primary's after it has handed over.
async fn restarted(cluster: &KindCluster) -> Result<ReportedFigure, E2eFailure> {
    let former = primary(cluster).await?;
    let epoch = changed(cluster, 1).await?.epoch;
    let writer = begin(cluster, "restarted").await?;
    kubectl(cluster, &["annotate", "pgr/demo", "pgraft.io/restarted-at=now"]).await?;
    until("every pod is made again", 2 * TIMEOUT, || async {
        let status = cluster.resources().get(NAME).await?.status.unwrap_or_default();
        let current =
            status.conditions.iter().any(|c| c.type_ == "PodsUpToDate" && c.status == "True");
        Ok(if current && status.last_failover.is_some_and(|l| l.epoch > epoch) {
            Look::Yes(())
        } else {
            Look::NotYet(status.phase)
        })
    })
    .await?;
    cluster.settled(3).await?;
    println!("{}: {former} before, {:?}", cluster.namespace, changed(cluster, epoch).await?);
    writer.more(10).await?;
    let told = writer.stop().await?;
    told.are_on(cluster, node(&primary(cluster).await?)?).await?;
    gap("a rolling restart of three members", &told)
}

/// One Event for each of these changes.
async fn told_once(cluster: &KindCluster, epochs: &[i64]) -> Result<(), E2eFailure> {
    let events = Api::<Event>::namespaced(cluster.resources().into_client(), &cluster.namespace);
    until("every change of the primary is an Event, once", TIMEOUT, || async {
        let events = events.list(&ListParams::default()).await?.items;
        let told = events
            .iter()
            .filter(|e| matches!(e.reason.as_deref(), Some("SwitchedOver" | "FailedOver")));
        let told: Vec<&str> = told.filter_map(|e| e.message.as_deref()).collect();
        let times = |epoch: &i64| {
            told.iter().filter(|words| words.contains(&format!("in epoch {epoch}:"))).count()
        };
        ensure!(epochs.iter().all(|epoch| times(epoch) <= 1), "the same is told twice: {told:?}");
        Ok(if epochs.iter().all(|epoch| times(epoch) == 1) {
            Look::Yes(())
        } else {
            Look::NotYet(format!("{told:?}"))
        })
    })
    .await
}

/// The change of the primary that the status tells of, as soon as it is a later one than this
/// epoch's.
async fn changed(cluster: &KindCluster, epoch: i64) -> Result<LastFailoverStatus, E2eFailure> {
    until(
        &format!("{}: status.lastFailover is later than epoch {epoch}", cluster.namespace),
        TIMEOUT,
        || async {
            let last = cluster.resources().get(NAME).await?.status.and_then(|s| s.last_failover);
            Ok(match last {
                Some(last) if last.epoch > epoch => Look::Yes(last),
                other => Look::NotYet(format!("{other:?}")),
            })
        },
    )
    .await
}

async fn primary(cluster: &KindCluster) -> Result<String, E2eFailure> {
    Ok(cluster.resources().get(NAME).await?.status.and_then(|s| s.primary).unwrap_or_default())
}

fn node(pod: &str) -> Result<i32, E2eFailure> {
    let known = (1..10).find(|id| pod_name(*id) == pod);
    known.ok_or_else(|| E2eFailure::Wrong(format!("{pod} is the primary")))
}

async fn ask(cluster: &KindCluster, request: &Value) -> Result<(), E2eFailure> {
    let patch = json!({ "spec": { "switchover": request } }).to_string();
    kubectl(cluster, &["patch", "pgr", NAME, "--type", "merge", "--patch", &patch]).await
}

async fn kubectl(cluster: &KindCluster, arguments: &[&str]) -> Result<(), E2eFailure> {
    command("kubectl", &[&["--namespace", &cluster.namespace], arguments].concat()).await.map(drop)
}

/// A client that writes, on any host.
async fn begin(cluster: &KindCluster, story: &'static str) -> Result<LoadWriter, E2eFailure> {
    LoadWriter::begin(cluster, story, Connections::OneEach, &["no-such-host".to_owned()]).await
}

fn gap(what: &str, told: &Acknowledged) -> Result<ReportedFigure, E2eFailure> {
    let longest = told.gap(0, i64::MAX);
    ensure!(longest < LONGEST_GAP, "{what}: nothing was acknowledged for {longest:?}");
    let what = format!(
        "{what}: the longest time between two acknowledged inserts through -rw, one connection each"
    );
    Ok(ReportedFigure { what, value: seconds(longest) })
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
