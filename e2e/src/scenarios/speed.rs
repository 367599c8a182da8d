//! The two figures that everybody asks for. Nothing is asserted about time: it is measured and
//! printed.

use futures::future::try_join_all;
use serde_json::json;
use std::time::{Duration, Instant, SystemTime};

use crate::cluster::{KindCluster, TIMEOUT};
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::until_true;

const ADDS: i32 = 20;

/// Returns the moment at which the row is first seen on that server, by its own clock, looking
/// every half millisecond or so.
const WATCH: &str = "create or replace function e2e_first_seen(wanted int) returns timestamptz language plpgsql as $$
begin
  for look in 1..20000 loop
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
            "from the call of pgraft_add_node to the row in pgraft_get_nodes() on all three members ({ADDS} calls; from the leader's clock before \
             the call to each member's own when a loop in it first sees the row; one host, so one clock)"
        ),
        value: format!(
            "median {:.1} ms, worst {:.1} ms",
            median.as_secs_f64() * 1e3,
            worst.as_secs_f64() * 1e3
        ),
    };
    let to_voter = ReportedFigure {
        what: "from `kubectl scale` to a streaming voter, 3 to 4 and 4 to 5 (pod, clone and membership; from the start of the command until the \
               leader shows the new node as a voter and the primary as streaming)"
            .into(),
        value: scales.join(", "),
    };
    Ok(vec![to_voter, to_rows])
}

/// Adds and removes servers that are none, and measures each add on every member.
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
            // After the watchers, which are a round trip ahead.
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
        until_true(&format!("node {newcomer} is out again"), TIMEOUT, || async {
            caller
                .value::<bool>(
                    "select not exists (select from pgraft_get_nodes() where node_id = $1)",
                    &[&newcomer],
                )
                .await
        })
        .await?;
    }
    ensure!(!times.is_empty(), "nothing was measured");
    Ok(times)
}

/// From the start of `kubectl scale` until the newcomer votes and streams.
async fn scale(cluster: &KindCluster, replicas: i32) -> Result<Duration, E2eFailure> {
    let leader = cluster.superuser(cluster.leader(1).await?).await?;
    let primary = cluster.superuser(1).await?;
    let begun = Instant::now();
    cluster.scale(replicas).await?;
    let wanted = i64::from(replicas);
    until_true("the newcomer votes", TIMEOUT, || async {
        leader
            .value::<bool>(
                "select count(*) = $1::bigint from pgraft_members where role = 'voter'",
                &[&wanted],
            )
            .await
    })
    .await?;
    until_true("the newcomer streams", TIMEOUT, || async {
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
