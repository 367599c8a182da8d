//! Planned changes of the primary while a client writes: by `spec.switchover`, by a scale that
//! removes the primary, and by a rolling restart. Each time another node becomes the primary first,
//! no acknowledged row is lost, and status and Events report the change.

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use pgraft_api::cluster::{FailoverReason, LastFailoverStatus};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::cluster::{KindCluster, NAME, TIMEOUT, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};
use crate::writer::{Connections, LoadWriter, WrittenRows};

/// Far more than a switchover takes.
const LONGEST_GAP: Duration = Duration::from_secs(30);

/// Changes to the database `postgres` and to roles that an administrator might make.
const ADVERSE: &str = "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC; DROP SCHEMA public CASCADE; \
    ALTER ROLE pgraft_operator SET statement_timeout = 1; ALTER ROLE pgraft_operator SET default_transaction_read_only = on; \
    ALTER ROLE postgres SET statement_timeout = 1";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    // pgraft's own sessions must not depend on these settings and grants.
    let parameters = json!({"default_transaction_isolation": "serializable"});
    cluster
        .create(
            3,
            &json!({ "failover": { "enabled": true }, "postgresql": { "parameters": parameters } }),
        )
        .await?;
    cluster.superuser(1).await?.run(ADVERSE).await?;
    data::write(&cluster, 1, 10).await?;
    let mut figures = requested(&cluster).await?;
    figures.push(refused(&cluster).await?);
    let first = changed(&cluster, 1).await?.epoch;
    figures.push(scaled_away(&cluster).await?);
    let second = changed(&cluster, first).await?.epoch;
    figures.push(restarted(&cluster).await?);
    let third = changed(&cluster, second).await?.epoch;
    reported_once(&cluster, &[first, second, third]).await?;
    Ok(figures)
}

/// `kubectl patch`, as in the documentation.
async fn requested(cluster: &KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let writer = begin(cluster, "requested").await?;
    let begun = Instant::now();
    request(cluster, &json!({"target": "demo-3"})).await?;
    kubectl(cluster, &["wait", "pgr/demo", "--for=condition=SwitchoverDone", "--timeout=120s"])
        .await?;
    let took = begun.elapsed();
    let last = changed(cluster, 1).await?;
    ensure!(
        last.reason == FailoverReason::Switchover && last.from == "demo-1" && last.to == "demo-3",
        "the status has {last:?}"
    );
    writer.more(10).await?;
    let written = writer.stop().await?;
    written.are_on(cluster, 3).await?;
    cluster.settled(3).await?;
    println!("{}: {last:?}", cluster.namespace);
    Ok(vec![
        ReportedFigure {
            what: "kubectl patch of spec.switchover, until the condition SwitchoverDone".into(),
            value: seconds(took),
        },
        ReportedFigure {
            what: "this switchover, as measured by the members (status.lastFailover)".into(),
            value: format!("{} ms", last.duration_ms),
        },
        gap("this switchover", &written)?,
    ])
}

/// An impossible request is refused, and changes nothing.
async fn refused(cluster: &KindCluster) -> Result<ReportedFigure, E2eFailure> {
    request(cluster, &json!({"target": "demo-9"})).await?;
    until("the condition SwitchoverDone is False", TIMEOUT, || async {
        let conditions =
            cluster.resources().get(NAME).await?.status.map(|s| s.conditions).unwrap_or_default();
        let message = conditions
            .into_iter()
            .find(|c| c.type_ == "SwitchoverDone" && c.status == "False")
            .map(|c| c.message)
            .unwrap_or_default();
        Ok(if message.contains("node 9 is not a member") {
            Polled::Ready(())
        } else {
            Polled::Pending(message)
        })
    })
    .await?;
    cluster.settled(3).await?;
    ensure!(primary(cluster).await? == "demo-3", "the primary has changed");
    request(cluster, &Value::Null).await?;
    Ok(ReportedFigure {
        what: "refused switchovers that changed nothing".into(),
        value: "1".into(),
    })
}

/// The scale removes the highest id, which is the primary.
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
    let written = writer.stop().await?;
    written.are_on(cluster, node(&primary(cluster).await?)?).await?;
    cluster.same_everywhere(&[1, 2, 4]).await?;
    gap("kubectl scale 3 to 2 through the primary, and back to 3", &written)
}

/// Every pod is replaced, the primary's after a switchover.
async fn restarted(cluster: &KindCluster) -> Result<ReportedFigure, E2eFailure> {
    let former = primary(cluster).await?;
    let epoch = changed(cluster, 1).await?.epoch;
    let writer = begin(cluster, "restarted").await?;
    kubectl(cluster, &["annotate", "pgr/demo", "pgraft.io/restarted-at=now"]).await?;
    until("every pod was replaced", 2 * TIMEOUT, || async {
        let status = cluster.resources().get(NAME).await?.status.unwrap_or_default();
        let current =
            status.conditions.iter().any(|c| c.type_ == "PodsUpToDate" && c.status == "True");
        Ok(if current && status.last_failover.is_some_and(|l| l.epoch > epoch) {
            Polled::Ready(())
        } else {
            Polled::Pending(status.phase)
        })
    })
    .await?;
    cluster.settled(3).await?;
    println!("{}: {former} before, {:?}", cluster.namespace, changed(cluster, epoch).await?);
    writer.more(10).await?;
    let written = writer.stop().await?;
    written.are_on(cluster, node(&primary(cluster).await?)?).await?;
    gap("a rolling restart of three members", &written)
}

/// Waits until there is exactly one Event for each of these epochs.
async fn reported_once(cluster: &KindCluster, epochs: &[i64]) -> Result<(), E2eFailure> {
    let events = Api::<Event>::namespaced(cluster.resources().into_client(), &cluster.namespace);
    until("every change of the primary has one Event", TIMEOUT, || async {
        let events = events.list(&ListParams::default()).await?.items;
        let reported = events
            .iter()
            .filter(|e| matches!(e.reason.as_deref(), Some("SwitchedOver" | "FailedOver")));
        let messages: Vec<&str> = reported.filter_map(|e| e.message.as_deref()).collect();
        let times = |epoch: &i64| {
            messages
                .iter()
                .filter(|message| message.contains(&format!("in epoch {epoch}:")))
                .count()
        };
        ensure!(
            epochs.iter().all(|epoch| times(epoch) <= 1),
            "a change has two Events: {messages:?}"
        );
        Ok(if epochs.iter().all(|epoch| times(epoch) == 1) {
            Polled::Ready(())
        } else {
            Polled::Pending(format!("{messages:?}"))
        })
    })
    .await
}

/// Waits until the status reports a change of the primary after this epoch.
async fn changed(cluster: &KindCluster, epoch: i64) -> Result<LastFailoverStatus, E2eFailure> {
    until(
        &format!("status.lastFailover in {} is after epoch {epoch}", cluster.namespace),
        TIMEOUT,
        || async {
            let last = cluster.resources().get(NAME).await?.status.and_then(|s| s.last_failover);
            Ok(match last {
                Some(last) if last.epoch > epoch => Polled::Ready(last),
                other => Polled::Pending(format!("{other:?}")),
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

async fn request(cluster: &KindCluster, switchover: &Value) -> Result<(), E2eFailure> {
    let patch = json!({ "spec": { "switchover": switchover } }).to_string();
    kubectl(cluster, &["patch", "pgr", NAME, "--type", "merge", "--patch", &patch]).await
}

async fn kubectl(cluster: &KindCluster, arguments: &[&str]) -> Result<(), E2eFailure> {
    command("kubectl", &[&["--namespace", &cluster.namespace], arguments].concat()).await.map(drop)
}

/// Starts a client that writes, on any host.
async fn begin(cluster: &KindCluster, story: &'static str) -> Result<LoadWriter, E2eFailure> {
    LoadWriter::begin(cluster, story, Connections::OneEach, &["no-such-host".to_owned()]).await
}

fn gap(what: &str, written: &WrittenRows) -> Result<ReportedFigure, E2eFailure> {
    let longest = written.gap(0, i64::MAX);
    ensure!(longest < LONGEST_GAP, "{what}: no insert was acknowledged for {longest:?}");
    let what = format!(
        "{what}: the longest time between two acknowledged inserts through -rw, each with a new connection"
    );
    Ok(ReportedFigure { what, value: seconds(longest) })
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
