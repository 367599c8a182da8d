//! A cluster with the operator's CA is given one of its user's own. In three steps, each five
//! minutes after the one before, every member comes to trust it, to have a certificate of it, and
//! to forget the old one. No server is started again, and the leader goes on leading.

use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tls::{OWN_CA, applications, lives, own_ca};
use crate::cluster::{KindCluster, NAME, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::served::{self, POSTGRES, RAFT};
use crate::wait::{Look, until};

const NODES: [i32; 3] = [1, 2, 3];

/// One step of the takeover: five minutes, what a kubelet takes to bring files, and what a busy
/// machine takes for anything.
const STEP: Duration = Duration::from_mins(9);

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    // Patient voters: a busy machine must not be what changes the leader.
    cluster
        .create(3, &json!({"raft": {"heartbeatInterval": "1s", "electionTimeout": "15s"}}))
        .await?;
    data::write(&cluster, 1, 100).await?;
    let (pods, leader) = (lives(&cluster).await?, cluster.leader(1).await?);
    let term: i64 = cluster.superuser(1).await?.value("select pgraft_get_term()", &[]).await?;

    let begun = Instant::now();
    let ca = own_ca(&cluster).await?;
    let patch = json!({"spec": {"tls": {"caSecret": "our-ca"}}}).to_string();
    command(
        "kubectl",
        &[
            "patch",
            "pgr/demo",
            "--type=merge",
            "--patch",
            &patch,
            "--namespace",
            &cluster.namespace,
        ],
    )
    .await?;
    trusted(&cluster, "both CAs", |text| {
        text.contains(ca.trim()) && text.matches("BEGIN CERTIFICATE").count() == 2
    })
    .await?;
    served_by_the_new_one(&cluster).await?;
    let served = begun.elapsed();
    trusted(&cluster, "the new CA alone", |text| text.trim() == ca.trim()).await?;
    let took = begun.elapsed();

    cluster.settled(3).await?;
    let after: i64 = cluster.superuser(1).await?.value("select pgraft_get_term()", &[]).await?;
    ensure!(
        (cluster.leader(1).await?, after) == (leader, term),
        "the leader changed: term {term}, then {after}"
    );
    ensure!(lives(&cluster).await? == pods, "a pod was made or started again");
    applications(&cluster).await?;
    data::write(&cluster, 1, 100).await?;
    data::same_on(&cluster, 1, &NODES).await?;
    Ok(vec![ReportedFigure {
        what: "another CA, until every member shows a certificate of it; until the old one is forgotten".into(),
        value: format!("{:.1} min, {:.1} min", served.as_secs_f64() / 60.0, took.as_secs_f64() / 60.0),
    }])
}

/// Waits until `ca.crt` reads so in every member's Secret and in the application's.
async fn trusted(
    cluster: &KindCluster,
    what: &str,
    as_wanted: impl Fn(&str) -> bool,
) -> Result<(), E2eFailure> {
    let names: Vec<String> = NODES
        .iter()
        .map(|node| format!("{}-tls", pod_name(*node)))
        .chain([format!("{NAME}-app")])
        .collect();
    until(&format!("{}: {what} in every Secret", cluster.namespace), STEP, || async {
        let mut others = BTreeMap::new();
        for name in &names {
            let data = cluster.secrets().get(name).await?.data.unwrap_or_default();
            let text = data
                .get("ca.crt")
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
                .unwrap_or_default();
            if !as_wanted(&text) {
                others.insert(name, text.matches("BEGIN CERTIFICATE").count());
            }
        }
        Ok(if others.is_empty() {
            Look::Yes(())
        } else {
            Look::NotYet(format!("certificates in the others: {others:?}"))
        })
    })
    .await
}

/// On both ports of every member.
async fn served_by_the_new_one(cluster: &KindCluster) -> Result<(), E2eFailure> {
    for node in NODES {
        for port in [POSTGRES, RAFT] {
            until(
                &format!(
                    "{}: a certificate of the new CA on port {port} of node {node}",
                    cluster.namespace
                ),
                STEP,
                || async {
                    let shown =
                        served::certificate(&cluster.pod_api(), &pod_name(node), port).await?;
                    // The issuer's name stands in a certificate as it is.
                    let of_ours = shown.windows(OWN_CA.len()).any(|part| part == OWN_CA.as_bytes());
                    Ok(if of_ours { Look::Yes(()) } else { Look::NotYet("of the old one".into()) })
                },
            )
            .await?;
        }
    }
    Ok(())
}
