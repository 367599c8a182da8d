//! TLS for users: their own CA, `verify-full` through the Service, no unencrypted connections, and
//! a renewal without interruption.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;
use std::collections::BTreeMap;

use crate::cluster::{KindCluster, TIMEOUT, pod_name};
use crate::command::run_with_input;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::served::{self, POSTGRES, RAFT};
use crate::wait::{Polled, until};

const NODES: [i32; 3] = [1, 2, 3];

/// The name of the user's CA.
pub(super) const OWN_CA: &str = "a CA of our own";

/// The connections of replication and of the operator, and how many of them are not encrypted.
const INTERNAL_CONNECTIONS: &str = "select count(*) filter (where not s.ssl) || ' unencrypted, ' || string_agg(distinct a.usename || ' ' || s.client_dn, ', ' order by a.usename || ' ' || s.client_dn) \
     from pg_stat_ssl s join pg_stat_activity a using (pid) where a.usename in ('pgraft_replication', 'pgraft_operator')";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    own_ca(&cluster).await?;
    cluster.create(3, &json!({"tls": {"caSecret": "our-ca"}})).await?;
    applications(&cluster).await?;
    let expected = "0 unencrypted, pgraft_operator /CN=pgraft_operator, pgraft_replication /CN=node-2.pgraft, pgraft_replication /CN=node-3.pgraft";
    until("the operator and both standbys use TLS", TIMEOUT, || async {
        let seen: String = cluster.superuser(1).await?.value(INTERNAL_CONNECTIONS, &[]).await?;
        Ok(if seen == expected { Polled::Ready(()) } else { Polled::Pending(seen) })
    })
    .await?;
    renewal(&cluster).await
}

/// Creates a Secret `our-ca` like cert-manager does for a Certificate with `isCA: true`. Returns
/// the certificate.
pub(super) async fn own_ca(cluster: &KindCluster) -> Result<String, E2eFailure> {
    let wrong = |e: rcgen::Error| E2eFailure::Wrong(e.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, OWN_CA);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(wrong)?;
    let pem = key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(params, key).map_err(wrong)?.pem();
    let data = json!({"ca.crt": &ca, "tls.crt": &ca, "tls.key": pem});
    let secret =
        json!({"metadata": {"name": "our-ca"}, "type": "kubernetes.io/tls", "stringData": data});
    let secret = serde_json::from_value(secret).map_err(kube::Error::SerdeError)?;
    cluster.secrets().create(&PostParams::default(), &secret).await?;
    Ok(ca)
}

/// Connects from another pod with every URI of the Secret `-app`, and without TLS.
pub(super) async fn applications(cluster: &KindCluster) -> Result<(), E2eFailure> {
    let data = cluster.secrets().get("demo-app").await?.data.unwrap_or_default();
    let field = |key: &str| {
        data.get(key)
            .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
            .unwrap_or_default()
    };
    let (uri, ca) = (field("uri"), field("ca.crt"));
    ensure!(
        uri.ends_with("?sslmode=require"),
        "the URI does not require TLS: {}",
        uri.rsplit('@').next().unwrap_or_default()
    );
    let in_pod = |script: String, input: String| async move {
        let arguments = [
            "exec",
            "--stdin",
            "demo-2",
            "--container=postgres",
            "--namespace",
            &cluster.namespace,
            "--",
            "sh",
            "-c",
            &script,
        ];
        run_with_input("kubectl", &arguments, &input).await
    };
    in_pod("cat > /tmp/app-ca.crt".into(), ca).await?;
    let psql = |uri: String| {
        format!(
            "psql -At '{uri}' -c 'select version from pg_stat_ssl where ssl and pid = pg_backend_pid()'"
        )
    };
    for key in [
        "uri",
        "ro-uri",
        "r-uri",
        "multi-host-uri",
        "verify-full-uri",
        "verify-full-ro-uri",
        "verify-full-r-uri",
    ] {
        let uri = field(key).replace("/etc/demo-app/ca.crt", "/tmp/app-ca.crt");
        ensure!(
            uri.contains("/tmp/app-ca.crt") == key.starts_with("verify-full"),
            "{key} must name the CA if it has verify-full"
        );
        let seen = in_pod(psql(uri), String::new()).await?;
        ensure!(seen.trim() == "TLSv1.3", "with {key} the application uses {seen:?}");
    }
    let plain =
        in_pod(psql(uri.replace("sslmode=require", "sslmode=disable")), String::new()).await;
    let said = plain.map_or_else(|failure| failure.to_string(), |text| format!("accepted: {text}"));
    ensure!(said.contains("no encryption"), "a client without TLS: {said}");
    Ok(())
}

/// Deletes the members' certificates, which requests a renewal, and waits until both ports present
/// new ones.
async fn renewal(cluster: &KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let begun = std::time::Instant::now();
    let (pods, leader) = (restarts(cluster).await?, cluster.leader(1).await?);
    let term: i64 = cluster.superuser(1).await?.value("select pgraft_get_term()", &[]).await?;
    let mut old = BTreeMap::new();
    for node in NODES {
        for port in [POSTGRES, RAFT] {
            old.insert(
                (node, port),
                served::certificate(&cluster.pod_api(), &pod_name(node), port).await?,
            );
        }
    }
    for node in NODES {
        ensure!(
            old[&(node, POSTGRES)] == old[&(node, RAFT)],
            "node {node} presents different certificates on its two ports"
        );
        cluster.secrets().delete(&format!("demo-{node}-tls"), &DeleteParams::default()).await?;
    }
    for (&(node, port), before) in &old {
        until(
            &format!(
                "node {node} in {} presents a new certificate on port {port}",
                cluster.namespace
            ),
            TIMEOUT,
            || async {
                let now = served::certificate(&cluster.pod_api(), &pod_name(node), port).await?;
                Ok(if now == *before {
                    Polled::Pending("the old one".into())
                } else {
                    Polled::Ready(())
                })
            },
        )
        .await?;
    }
    let took = begun.elapsed();
    cluster.settled(3).await?;
    ensure!(restarts(cluster).await? == pods, "a pod or a container was restarted");
    let after: i64 = cluster.superuser(1).await?.value("select pgraft_get_term()", &[]).await?;
    ensure!(
        (cluster.leader(1).await?, after) == (leader, term),
        "the leader changed: the term was {term} and is {after}"
    );
    Ok(vec![ReportedFigure {
        what: "renewal of three members' certificates, until all are presented on 5432 and 7001"
            .into(),
        value: format!("{:.0} s", took.as_secs_f64()),
    }])
}

/// The uid of each pod, and the restarts of its container.
pub(super) async fn restarts(
    cluster: &KindCluster,
) -> Result<BTreeMap<i32, (Option<String>, i32)>, E2eFailure> {
    let count = |pod: &Pod| {
        pod.status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .map(|c| c.restart_count)
            .sum()
    };
    Ok(cluster
        .pods()
        .await?
        .into_iter()
        .map(|(node, pod)| (node, (pod.metadata.uid.clone(), count(&pod))))
        .collect())
}
