//! The traces of a failed scenario: custom resources, pods, events and logs, as files.

use std::path::{Path, PathBuf};

use crate::cluster::KindCluster;
use crate::command::run;
use crate::failure::E2eFailure;

/// Writes the traces into a folder named after the scenario, and returns the folder. A file whose
/// content could not be read has the error instead.
///
/// # Errors
/// [`E2eFailure::Io`] if the folder cannot be written.
pub async fn keep(
    folder: &Path,
    scenario: &str,
    cluster: &KindCluster,
) -> Result<PathBuf, E2eFailure> {
    let folder = folder.join(scenario);
    tokio::fs::create_dir_all(&folder).await?;
    let namespace = cluster.namespace.as_str();
    let files: [(&str, &[&str]); 6] = [
        (
            "resources.yaml",
            &["get", "pgr,configmaps,services,pdb,pvc", "--output=yaml", "--namespace", namespace],
        ),
        ("pods.yaml", &["get", "pods", "--output=yaml", "--namespace", namespace]),
        ("pods.txt", &["get", "pods,pvc,pgr", "--output=wide", "--namespace", namespace]),
        (
            "events.txt",
            &["get", "events", "--sort-by=.metadata.creationTimestamp", "--namespace", namespace],
        ),
        ("nodes.txt", &["describe", "nodes"]),
        (
            "operator.log",
            &[
                "logs",
                "--namespace=pgraft-system",
                "--selector=app.kubernetes.io/name=pgraft-operator",
                "--tail=5000",
            ],
        ),
    ];
    for (file, arguments) in files {
        write(&folder.join(file), arguments).await?;
    }
    for node in cluster.pods().await.unwrap_or_default().into_keys() {
        let pod = crate::cluster::pod_name(node);
        write(
            &folder.join(format!("{pod}.log")),
            &["logs", &pod, "--all-containers", "--namespace", namespace],
        )
        .await?;
        write(
            &folder.join(format!("{pod}.previous.log")),
            &["logs", &pod, "--previous", "--namespace", namespace],
        )
        .await?;
        let statements = "select * from pgraft_status(); select * from pgraft_members; select * from pgraft_log()";
        let psql = [
            "exec",
            &pod,
            "--container=postgres",
            "--namespace",
            namespace,
            "--",
            "psql",
            "-U",
            "postgres",
            "-x",
            "-c",
            statements,
        ];
        write(&folder.join(format!("{pod}.sql.txt")), &psql).await?;
    }
    Ok(folder)
}

async fn write(file: &Path, arguments: &[&str]) -> Result<(), E2eFailure> {
    let text = run("kubectl", arguments).await.unwrap_or_else(|failure| failure.to_string());
    Ok(tokio::fs::write(file, text).await?)
}
