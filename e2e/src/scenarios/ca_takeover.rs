//! A cluster with the operator's CA gets a CA of the user. In three steps, five minutes apart,
//! every member trusts the new CA, gets a certificate from it, and no longer trusts the old one. No
//! server is restarted, and the leader stays the same.

use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tls::{OWN_CA, applications, own_ca, restarts};
use crate::cluster::{KindCluster, NAME, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::served::{self, POSTGRES, RAFT};
use crate::wait::{Polled, until};

const NODES: [i32; 3] = [1, 2, 3];

/// The time limit of a step: five minutes, and the time in which a kubelet updates the files.
const STEP: Duration = Duration::from_mins(9);

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    // A long election timeout, so that the leader does not change because the machine is busy.
    cluster
        .create(3, &json!({"raft": {"heartbeatInterval": "1s", "electionTimeout": "15s"}}))
        .await?;
    data::write(&cluster, 1, 100).await?;
    let (pods, leader) = (restarts(&cluster).await?, cluster.leader(1).await?);
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
    served_by_the_new_ca(&cluster).await?;
    let served = begun.elapsed();
    trusted(&cluster, "the new CA alone", |text| text.trim() == ca.trim()).await?;
    let took = begun.elapsed();

    cluster.settled(3).await?;
    let after: i64 = cluster.superuser(1).await?.value("select pgraft_get_term()", &[]).await?;
    ensure!(
        (cluster.leader(1).await?, after) == (leader, term),
        "the leader changed: the term was {term} and is {after}"
    );
    ensure!(restarts(&cluster).await? == pods, "a pod or a container was restarted");
    applications(&cluster).await?;
    data::write(&cluster, 1, 100).await?;
    data::same_on(&cluster, 1, &NODES).await?;
    Ok(vec![ReportedFigure {
        what: "another CA, until every member presents a certificate from it; until the old CA is no longer trusted".into(),
        value: format!("{:.1} min, {:.1} min", served.as_secs_f64() / 60.0, took.as_secs_f64() / 60.0),
    }])
}

/// Waits until `ca.crt` is as expected in every member's Secret and in the application's.
async fn trusted(
    cluster: &KindCluster,
    what: &str,
    as_expected: impl Fn(&str) -> bool,
) -> Result<(), E2eFailure> {
    let names: Vec<String> = NODES
        .iter()
        .map(|node| format!("{}-tls", pod_name(*node)))
        .chain([format!("{NAME}-app")])
        .collect();
    until(&format!("every Secret in {} has {what}", cluster.namespace), STEP, || async {
        let mut others = BTreeMap::new();
        for name in &names {
            let data = cluster.secrets().get(name).await?.data.unwrap_or_default();
            let text = data
                .get("ca.crt")
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
                .unwrap_or_default();
            if !as_expected(&text) {
                others.insert(name, text.matches("BEGIN CERTIFICATE").count());
            }
        }
        Ok(if others.is_empty() {
            Polled::Ready(())
        } else {
            Polled::Pending(format!("number of certificates in the others: {others:?}"))
        })
    })
    .await
}

/// Waits until both ports of every member present a certificate from the new CA.
async fn served_by_the_new_ca(cluster: &KindCluster) -> Result<(), E2eFailure> {
    for node in NODES {
        for port in [POSTGRES, RAFT] {
            until(
                &format!(
                    "port {port} of node {node} in {} presents a certificate from the new CA",
                    cluster.namespace
                ),
                STEP,
                || async {
                    let presented =
                        served::certificate(&cluster.pod_api(), &pod_name(node), port).await?;
                    // A certificate contains the issuer's name in plain text.
                    let of_new_ca =
                        presented.windows(OWN_CA.len()).any(|part| part == OWN_CA.as_bytes());
                    Ok(if of_new_ca {
                        Polled::Ready(())
                    } else {
                        Polled::Pending("one from the old CA".into())
                    })
                },
            )
            .await?;
        }
    }
    Ok(())
}
