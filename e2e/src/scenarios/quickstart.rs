//! The example of the README: three members, one `kubectl scale`, and the same four rows in every
//! pod and in the status.

use crate::cluster::{KindCluster, NAME, pod_name};
use crate::command::{run as command, run_with_input};
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let namespace = cluster.namespace.as_str();
    let kubectl = |arguments: &'static [&str]| async move {
        command("kubectl", &[&["--namespace", namespace], arguments].concat()).await
    };
    let example = std::fs::read_to_string("examples/cluster.yaml")?;
    run_with_input("kubectl", &["--namespace", namespace, "apply", "--filename=-"], &example)
        .await?;
    kubectl(&["wait", "pgr/demo", "--for=condition=Ready", "--timeout=180s"]).await?;
    kubectl(&["scale", "pgr/demo", "--replicas=4"]).await?;
    kubectl(&["wait", "pgr/demo", "--for=jsonpath={.status.readyReplicas}=4", "--timeout=120s"])
        .await?;

    let table = kubectl(&["get", "pgr"]).await?;
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    ensure!(
        header == ["NAME", "REPLICAS", "READY", "STATUS", "LEADER", "PRIMARY", "QUORUM", "AGE"],
        "kubectl get pgr has the columns {header:?}"
    );

    // The example has no superuser password, so this runs psql in the pod, as the README does.
    let mut shown = Vec::new();
    for node in 1..=4 {
        let query = [
            "--namespace",
            namespace,
            "exec",
            &pod_name(node),
            "--",
            "psql",
            "-U",
            "postgres",
            "-c",
            "select * from pgraft_get_nodes()",
        ];
        shown.push(command("kubectl", &query).await?);
    }
    ensure!(shown.iter().all(|s| *s == shown[0]), "the pods show different rows: {shown:#?}");
    ensure!(shown[0].contains("(4 rows)"), "expected four rows: {}", shown[0]);
    for (row, line) in cluster.members().await?.iter().zip(shown[0].lines().skip(2)) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        ensure!(
            columns == [row.id.to_string(), row.address.clone(), row.port.to_string()],
            "the status has {row:?}, the pods show {line}"
        );
    }

    // What the application writes on the primary is in every pod.
    let primary =
        cluster.members().await?.iter().find(|m| m.primary).and_then(|m| i32::try_from(m.id).ok());
    let Some(primary) = primary else {
        return Err(E2eFailure::Wrong(format!("the status of {NAME} names no primary")));
    };
    data::write(&cluster, primary, 1000).await?;
    data::same_on(&cluster, primary, &[1, 2, 3, 4]).await?;
    Ok(Vec::new())
}
