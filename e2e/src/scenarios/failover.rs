//! The primary's server is killed, its pod is deleted, and somebody asks for another one: each time another member takes writes, the old one
//! comes back as a standby by itself, and nothing that was acknowledged is gone. Once with the operator away.

use serde_json::json;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE, pod_name};
use crate::command::run as command;
use crate::data;
use crate::ensure;
use crate::failure::Failure;
use crate::scenario::Figure;
use crate::wait::{Look, until};

const MEMBERS: [i32; 3] = [1, 2, 3];
const INSERT: &str = "insert into ledger (entry) values ('after a failover')";
const OPERATOR: &str = "deployment/pgraft-operator";

pub async fn run(cluster: Cluster) -> Result<Vec<Figure>, Failure> {
    cluster.create(3, &json!({ "failover": { "enabled": true } })).await?;
    data::write(&cluster, 1, 1000).await?;
    let mut figures = Vec::new();

    let kill_server = "kill -9 $(head -1 /var/lib/pgraft/pgdata/postmaster.pid)";
    let second = lost(&cluster, 1, async || in_pod(&cluster, 1, kill_server).await).await?;
    figures.push(second.figure("kill -9 of the primary's postmaster"));
    all_back(&cluster, second.primary).await?;

    let third = lost(&cluster, second.primary, async || cluster.delete_pod(second.primary).await).await?;
    figures.push(third.figure("the primary's pod deleted"));
    all_back(&cluster, third.primary).await?;

    // The members need nobody for it.
    scale_operator(0).await?;
    let without_operator = async {
        let fourth = lost(&cluster, third.primary, async || in_pod(&cluster, third.primary, kill_server).await).await?;
        all_back(&cluster, fourth.primary).await?;
        let target = MEMBERS.into_iter().find(|id| *id != fourth.primary).unwrap_or(1);
        cluster.superuser(target).await?.run(&format!("select pgraft_switchover({target})")).await?;
        all_back(&cluster, target).await?;
        Ok::<_, Failure>((fourth, target))
    }
    .await;
    scale_operator(1).await?;
    let (fourth, target) = without_operator?;
    figures.push(fourth.figure("kill -9 of the primary's postmaster, no operator"));

    // When it is back it shows what has happened.
    cluster.settled(3).await?;
    let shown = pod_name(target);
    until("the status names the new primary", PATIENCE, || async {
        let primary = cluster.resources().get("demo").await?.status.and_then(|s| s.primary);
        Ok(if primary.as_ref() == Some(&shown) { Look::Yes(()) } else { Look::NotYet(format!("{primary:?}")) })
    })
    .await?;
    cluster.same_everywhere(&MEMBERS).await?;
    Ok(figures)
}

/// Who takes writes after a loss, and how long it took.
struct Successor {
    primary: i32,
    took: Duration,
}

impl Successor {
    fn figure(&self, what: &str) -> Figure {
        Figure {
            what: format!("{what}, until an insert is acknowledged in another reign (asked by port-forward, one pod after the other)"),
            value: format!("{:.1} s", self.took.as_secs_f64()),
        }
    }
}

/// Loses the primary, and waits until a member has acknowledged an insert in another reign: another member, as a rule, or the same one where its
/// server was back in time to be chosen.
async fn lost(cluster: &Cluster, primary: i32, lose: impl AsyncFnOnce() -> Result<(), Failure>) -> Result<Successor, Failure> {
    const EPOCH: &str = "select epoch from pgraft_status()";
    let before: i64 = cluster.superuser(primary).await?.value(EPOCH, &[]).await?;
    let since = Instant::now();
    lose().await?;
    let primary = until("a member takes writes in another reign", PATIENCE, || async {
        let mut why = String::new();
        for node in MEMBERS {
            let inserted = async {
                let epoch: i64 = cluster.superuser(node).await?.value(EPOCH, &[]).await?;
                ensure!(epoch > before, "node {node} knows of no other reign");
                cluster.app(node).await?.run(INSERT).await
            };
            match tokio::time::timeout(Duration::from_secs(5), inserted).await {
                Ok(Ok(())) => return Ok(Look::Yes(node)),
                Ok(Err(failure)) => why = failure.to_string(),
                Err(_) => why = "no answer in 5 s".into(),
            }
        }
        Ok(Look::NotYet(why))
    })
    .await?;
    Ok(Successor { primary, took: since.elapsed() })
}

/// Waits until all three have the same rows, on one timeline, and just one of them is no standby.
pub(super) async fn all_back(cluster: &Cluster, primary: i32) -> Result<(), Failure> {
    for node in MEMBERS {
        cluster.pod_ready(node).await?;
    }
    let on = "the new primary has two standbys";
    until(on, PATIENCE, || async {
        let session = cluster.superuser(primary).await?;
        let streaming: i64 = session.value("select count(*) from pg_stat_replication where state = 'streaming'", &[]).await?;
        Ok(if streaming == 2 { Look::Yes(()) } else { Look::NotYet(format!("{streaming}")) })
    })
    .await?;
    data::same_on(cluster, primary, &MEMBERS).await?;
    for node in MEMBERS {
        let standby: bool = cluster.superuser(node).await?.value("select pg_is_in_recovery()", &[]).await?;
        ensure!(standby == (node != primary), "node {node}: in recovery is {standby}, and the primary is {primary}");
    }
    Ok(())
}

async fn in_pod(cluster: &Cluster, node: i32, script: &str) -> Result<(), Failure> {
    command("kubectl", &["exec", &pod_name(node), "--namespace", &cluster.namespace, "--", "bash", "-c", script]).await.map(drop)
}

async fn scale_operator(replicas: i32) -> Result<(), Failure> {
    let replicas = format!("--replicas={replicas}");
    command("kubectl", &["scale", OPERATOR, &replicas, "--namespace", "pgraft-system"]).await.map(drop)
}
