//! Specs that make no sense: the API server refuses them in words that a person understands.

use serde_json::{Value, json};

use crate::cluster::{Cluster, NAME};
use crate::command::{run as command, run_with_input};
use crate::ensure;
use crate::failure::Failure;
use crate::scenario::Figure;

pub async fn run(cluster: Cluster) -> Result<Vec<Figure>, Failure> {
    let namespace = cluster.namespace.as_str();
    for (spec, words) in never() {
        let manifest = Cluster::manifest(1, &spec).to_string();
        let created = run_with_input("kubectl", &["--namespace", namespace, "create", "--dry-run=server", "--filename=-"], &manifest).await;
        refused(&created, &spec, words)?;
    }
    cluster.create(1, &json!({})).await?;
    for (change, words) in no_more() {
        let patch = json!({ "spec": change }).to_string();
        let arguments = ["--namespace", namespace, "patch", &format!("pgr/{NAME}"), "--dry-run=server", "--type=merge", "--patch", &patch];
        refused(&command("kubectl", &arguments).await, &change, words)?;
    }
    let scaled = command("kubectl", &["--namespace", namespace, "scale", &format!("pgr/{NAME}"), "--replicas=0"]).await;
    refused(&scaled, &json!("kubectl scale --replicas=0"), "replicas must be at least 1")?;
    cluster.settled(1).await?;
    Ok(Vec::new())
}

/// What can't be made.
fn never() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"replicas": 0}), "replicas must be at least 1"),
        (json!({"replicas": 65}), "replicas must be at most 64"),
        (json!({"storage": {"size": "much"}}), "storage.size must be a size such as 10Gi"),
        (json!({"postgresql": {"parameters": {"port": "5433"}}}), "postgresql.parameters must not set port"),
        (
            json!({"postgresql": {"parameters": {"synchronous_standby_names": "*"}}}),
            "postgresql.parameters must not set synchronous_standby_names",
        ),
        (json!({"postgresql": {"parameters": {"pgraft.node_id": "9"}}}), "postgresql.parameters must not set pgraft.*"),
        (json!({"bootstrap": {"initdb": {"database": "postgres"}}}), "bootstrap.initdb.database must be a database of your own"),
        (json!({"bootstrap": {"initdb": {"owner": "pg_me"}}}), "bootstrap.initdb.owner must be a role of your own"),
        (
            json!({"raft": {"heartbeatInterval": "2s", "electionTimeout": "1s"}}),
            "raft.electionTimeout must be at least three times raft.heartbeatInterval",
        ),
    ]
}

/// What can't be changed any more.
fn no_more() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"replicas": 0}), "replicas must be at least 1"),
        (json!({"storage": {"size": "512Mi"}}), "storage.size can't shrink"),
        (json!({"storage": {"storageClass": "other"}}), "storage.storageClass can't be changed"),
        (json!({"bootstrap": {"initdb": {"database": "other"}}}), "bootstrap is read once"),
    ]
}

fn refused(result: &Result<String, Failure>, what: &Value, words: &str) -> Result<(), Failure> {
    match result {
        Ok(_) => Err(Failure::Wrong(format!("{what} was not refused"))),
        Err(Failure::Command { output, .. }) => {
            ensure!(output.contains(words), "{what} was refused in other words than {words:?}: {output}");
            Ok(())
        }
        Err(other) => Err(Failure::Wrong(format!("{what}: {other}"))),
    }
}
