//! Measures how long `pgraft_add_node` and `kubectl scale` take. Asserts no times.

use futures::future::try_join_all;
use serde_json::json;
use std::time::{Duration, Instant, SystemTime};

use crate::cluster::{KindCluster, TIMEOUT};
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::until_true;

const ADDS: i32 = 20;

/// Returns the time at which the row appears on a server, by its own clock. Checks about every half
/// millisecond.
const WATCH: &str = "create or replace function e2e_first_seen(wanted int) returns timestamptz language plpgsql as $$
begin
  for attempt in 1..20000 loop
    if exists (select from pgraft_get_nodes() where node_id = wanted) then return clock_timestamp(); end if;
    perform pg_sleep(0.0005);
  end loop;
  raise exception 'node % did not appear within 10 seconds', wanted;
end $$";

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({})).await?;
    let mut adds = adds(&cluster).await?;
    adds.sort_unstable();
    let (median, worst) = (adds[adds.len() / 2], adds[adds.len() - 1]);
    let mut scales = Vec::new();
    for replicas in 4..=5 {
        scales.push(format!("{:.1} s", scale(&cluster, replicas).await?.as_secs_f64()));
    }
    let to_rows = ReportedFigure {
        what: format!(
            "from the call of pgraft_add_node until pgraft_get_nodes() has the row on all three members ({ADDS} calls; all members share one clock)"
        ),
        value: format!(
            "median {:.1} ms, worst {:.1} ms",
            median.as_secs_f64() * 1e3,
            worst.as_secs_f64() * 1e3
        ),
    };
    let to_voter = ReportedFigure {
        what: "from the start of `kubectl scale` until the new node is a voter and streams, 3 to 4 and 4 to 5"
            .into(),
        value: scales.join(", "),
    };
    Ok(vec![to_voter, to_rows])
}

/// Adds and removes addresses without a server, and measures each add on every member.
async fn adds(cluster: &KindCluster) -> Result<Vec<Duration>, E2eFailure> {
    cluster.superuser(1).await?.run(WATCH).await?;
    let leader = cluster.leader(1).await?;
    let caller = cluster.superuser(leader).await?;
    let mut members = Vec::new();
    for node in 1..=3 {
        members.push(cluster.superuser(node).await?);
        let installed = "select count(*) > 0 from pg_proc where proname = 'e2e_first_seen'";
        let member = &members[members.len() - 1];
        until_true(&format!("node {node} has the measuring function"), TIMEOUT, || {
            member.value(installed, &[])
        })
        .await?;
    }
    let mut times = Vec::new();
    for newcomer in 101..101 + ADDS {
        let address = format!("198.18.127.{newcomer}");
        let watch = try_join_all(members.iter().map(|m| async {
            m.value::<SystemTime>("select e2e_first_seen($1)", &[&newcomer]).await
        }));
        let call = async {
            // The other members must have started checking before.
            caller.value::<bool>("select pg_sleep(0.05) is not null", &[]).await?;
            let rows = caller
                .rows(
                    "select clock_timestamp(), pgraft_add_node($1, $2, 7001)",
                    &[&newcomer, &address],
                )
                .await?;
            ensure!(rows.len() == 1 && rows[0].get::<_, bool>(1), "node {newcomer} was not added");
            Ok::<SystemTime, E2eFailure>(rows[0].get(0))
        };
        let (seen, called) = futures::try_join!(watch, call)?;
        times.extend(
            seen.into_iter().max().map(|last| last.duration_since(called).unwrap_or_default()),
        );
        caller.run(&format!("select pgraft_remove_node({newcomer})")).await?;
        until_true(&format!("node {newcomer} is removed"), TIMEOUT, || async {
            caller
                .value::<bool>(
                    "select not exists (select from pgraft_get_nodes() where node_id = $1)",
                    &[&newcomer],
                )
                .await
        })
        .await?;
    }
    ensure!(!times.is_empty(), "there are no measurements");
    Ok(times)
}

/// The time from the start of `kubectl scale` until the new node votes and streams.
async fn scale(cluster: &KindCluster, replicas: i32) -> Result<Duration, E2eFailure> {
    let leader = cluster.superuser(cluster.leader(1).await?).await?;
    let primary = cluster.superuser(1).await?;
    let begun = Instant::now();
    cluster.scale(replicas).await?;
    let wanted = i64::from(replicas);
    until_true("the new node is a voter", TIMEOUT, || async {
        leader
            .value::<bool>(
                "select count(*) = $1::bigint from pgraft_members where role = 'voter'",
                &[&wanted],
            )
            .await
    })
    .await?;
    until_true("the new node streams", TIMEOUT, || async {
        primary
            .value::<bool>(
                "select count(*) = $1::bigint - 1 from pg_stat_replication where state = 'streaming' and application_name like 'pgraft%'",
                &[&wanted],
            )
            .await
    })
    .await?;
    let took = begun.elapsed();
    cluster.settled(replicas).await?;
    Ok(took)
}
