//! Invalid specs, at least one for each field of the CRD: the API server refuses each with a clear
//! message. Then parameters that only Postgres can check, which a condition reports.

mod cases;

use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::cluster::{KindCluster, NAME, TIMEOUT};
use crate::command::{run as command, run_with_input};
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until};

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let namespace = cluster.namespace.as_str();
    let create = ["--namespace", namespace, "create", "--dry-run=server", "--filename=-"];
    let (specs, names) = (cases::specs(), cases::names());
    let accepted =
        run_with_input("kubectl", &create, &KindCluster::manifest(1, &json!({})).to_string()).await;
    ensure!(accepted.is_ok(), "a valid spec was refused: {accepted:?}");
    for (spec, words) in &specs {
        let manifest = KindCluster::manifest(1, spec).to_string();
        refused(&run_with_input("kubectl", &create, &manifest).await, spec, words)?;
    }
    for (name, words) in &names {
        let mut manifest = KindCluster::manifest(1, &json!({}));
        manifest["metadata"]["name"] = json!(name);
        refused(
            &run_with_input("kubectl", &create, &manifest.to_string()).await,
            &json!(name),
            words,
        )?;
    }
    cluster.create(1, &json!({})).await?;
    let changes = cases::changes();
    for (change, words) in &changes {
        let patch = json!({ "spec": change }).to_string();
        let arguments = [
            "--namespace",
            namespace,
            "patch",
            &format!("pgr/{NAME}"),
            "--dry-run=server",
            "--type=merge",
            "--patch",
            &patch,
        ];
        refused(&command("kubectl", &arguments).await, change, words)?;
    }
    let scaled = command(
        "kubectl",
        &["--namespace", namespace, "scale", &format!("pgr/{NAME}"), "--replicas=0"],
    )
    .await;
    refused(&scaled, &json!("kubectl scale --replicas=0"), "replicas must be at least 1")?;
    cluster.settled(1).await?;
    let figures = configured(&cluster).await?;
    let refusals = specs.len() + names.len() + changes.len() + 1;
    let refused = ReportedFigure {
        what: "invalid specs refused with the expected message".into(),
        value: refusals.to_string(),
    };
    Ok([vec![refused], figures].concat())
}

/// A parameter that Postgres rejects is named in a condition, and the rest of the change is
/// applied. A parameter that needs a restart causes one.
async fn configured(cluster: &KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let set = async |parameters: Value| {
        let patch = json!({ "spec": { "postgresql": { "parameters": parameters } } }).to_string();
        let arguments = [
            "--namespace",
            &cluster.namespace,
            "patch",
            &format!("pgr/{NAME}"),
            "--type=merge",
            "--patch",
            &patch,
        ];
        command("kubectl", &arguments).await
    };
    let begun = Instant::now();
    set(json!({"work_mem": "7MB", "nosuch_param": "1"})).await?;
    uses(cluster, "work_mem", "7MB").await?;
    let reached = begun.elapsed();
    condition(cluster, "False", "nosuch_param \"1\": unrecognized configuration parameter").await?;
    let named = begun.elapsed();
    set(json!({"nosuch_param": null, "shared_buffers": "64MB"})).await?;
    condition(cluster, "True", "").await?;
    uses(cluster, "shared_buffers", "64MB").await?;
    cluster.settled(1).await?;
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f32());
    Ok(vec![
        ReportedFigure {
            what: "a changed parameter, until the server uses it".into(),
            value: seconds(reached),
        },
        ReportedFigure {
            what: "an unknown parameter, until a condition names it".into(),
            value: seconds(named),
        },
    ])
}

async fn uses(cluster: &KindCluster, setting: &str, value: &str) -> Result<(), E2eFailure> {
    until(&format!("{setting} is {value}"), TIMEOUT, || async {
        // The server may be restarting.
        let shown = async {
            cluster.app(1).await?.value::<String>("select current_setting($1)", &[&setting]).await
        }
        .await;
        Ok(match shown {
            Ok(shown) if shown == value => Polled::Ready(()),
            Ok(shown) => Polled::Pending(shown),
            Err(error) => Polled::Pending(error.to_string()),
        })
    })
    .await
}

async fn condition(cluster: &KindCluster, status: &str, words: &str) -> Result<(), E2eFailure> {
    until(&format!("ConfigurationValid is {status}"), TIMEOUT, || async {
        let conditions =
            cluster.resources().get(NAME).await?.status.map(|s| s.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_ == "ConfigurationValid");
        let text =
            found.as_ref().map(|c| format!("{}: {}", c.status, c.message)).unwrap_or_default();
        Ok(if found.is_some_and(|c| c.status == status && c.message.contains(words)) {
            Polled::Ready(())
        } else {
            Polled::Pending(text)
        })
    })
    .await
}

fn refused(
    result: &Result<String, E2eFailure>,
    what: &Value,
    words: &str,
) -> Result<(), E2eFailure> {
    match result {
        Ok(_) => Err(E2eFailure::Wrong(format!("{what} was not refused"))),
        Err(E2eFailure::Command { output, .. }) => {
            ensure!(output.contains(words), "{what} was refused without {words:?}: {output}");
            Ok(())
        }
        Err(other) => Err(E2eFailure::Wrong(format!("{what}: {other}"))),
    }
}
