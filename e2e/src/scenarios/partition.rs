//! The minority of a partition can change nothing: five members, split 2 and 3, with the leader on
//! either side. Meanwhile the majority is scaled, and afterwards all members have its changes.

use futures::future::try_join_all;
use serde_json::json;
use std::time::{Duration, Instant};

use crate::cluster::{KindCluster, NodeRow, TIMEOUT};
use crate::cut::NetworkCut;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::scenario::ReportedFigure;
use crate::wait::{Polled, until, until_true};

const MEMBERS: [i32; 5] = [1, 2, 3, 4, 5];

/// Unused addresses in the range of the test network, which only the minority tries to add.
const FOREIGN: &str = "198.18.112.";

/// On which side of the partition the leader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leader {
    InMinority,
    InMajority,
}

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(5, &json!({})).await?;
    data::write(&cluster, 1, 1000).await?;
    let first = split(&cluster, Leader::InMinority, &MEMBERS, &[1, 2, 3, 4, 5, 6]).await?;
    let second = split(&cluster, Leader::InMajority, &[1, 2, 3, 4, 5, 6], &MEMBERS).await?;
    cluster.settled(5).await?;
    cluster.same_everywhere(&MEMBERS).await?;
    let value = format!(
        "{:.1} s with the leader in the minority, {:.1} s without",
        first.as_secs_f64(),
        second.as_secs_f64()
    );
    Ok(vec![ReportedFigure {
        what:
            "the longest time until a change was refused in the minority of a partition (2 of 5 members)"
                .into(),
        value,
    }])
}

/// Cuts two of the first five off, tries to change something there, scales from `before` to `after`
/// by the majority, and heals. Returns how long the slowest refusal took.
async fn split(
    cluster: &KindCluster,
    leader_is: Leader,
    before: &[i32],
    after: &[i32],
) -> Result<Duration, E2eFailure> {
    let (rows, leader) = (cluster.same_rows(before).await?, cluster.leader(1).await?);
    let (among, elsewhere): (Vec<i32>, Vec<i32>) =
        MEMBERS.into_iter().rev().partition(|node| *node == leader);
    let minority: Vec<i32> = match leader_is {
        Leader::InMinority => among.into_iter().chain(elsewhere).take(2).collect(),
        Leader::InMajority => elsewhere.into_iter().take(2).collect(),
    };
    let majority: Vec<i32> =
        before.iter().copied().filter(|node| !minority.contains(node)).collect();
    println!("partition: {minority:?} | {majority:?}, the leader is {leader}");

    let cut = NetworkCut::between(cluster, &minority, &majority).await?;
    let steps = while_split(cluster, &minority, &majority, &rows, after.len()).await;
    cut.heal().await?;
    let longest = steps?;

    cluster.same_rows(after).await?;
    nothing_left_behind(cluster, after).await?;
    data::same_on(cluster, 1, after).await?;
    cluster.settled(i32::try_from(after.len()).unwrap_or_default()).await?;
    Ok(longest)
}

async fn while_split(
    cluster: &KindCluster,
    minority: &[i32],
    majority: &[i32],
    before: &[NodeRow],
    replicas: usize,
) -> Result<Duration, E2eFailure> {
    let victim = majority.iter().copied().find(|node| *node != 1).unwrap_or_default();
    let longest = try_join_all(minority.iter().map(|node| refuses(cluster, *node, victim)))
        .await?
        .into_iter()
        .max()
        .unwrap_or_default();

    let chosen = until("the majority has a leader", TIMEOUT, || async {
        let leader = cluster.leader(majority[0]).await?;
        Ok(if majority.contains(&leader) {
            Polled::Ready(leader)
        } else {
            Polled::Pending(leader.to_string())
        })
    })
    .await?;
    cluster.scale(i32::try_from(replicas).unwrap_or_default()).await?;
    until(&format!("node {chosen} has {replicas} voters"), TIMEOUT, || async {
        let count = "select count(*) from pgraft_members where role = 'voter'";
        let voters: i64 =
            cluster.superuser(cluster.leader(chosen).await?).await?.value(count, &[]).await?;
        Ok(if usize::try_from(voters) == Ok(replicas) {
            Polled::Ready(())
        } else {
            Polled::Pending(voters.to_string())
        })
    })
    .await?;
    data::write(cluster, 1, 100).await?;

    for &node in minority {
        let seen = cluster.rows(node).await?;
        ensure!(seen == before, "node {node} is cut off, and shows {seen:?} instead of {before:?}");
    }
    Ok(longest)
}

/// Runs several changes on a node at once. Each must be refused in time, with a documented error.
async fn refuses(cluster: &KindCluster, node: i32, victim: i32) -> Result<Duration, E2eFailure> {
    let calls = [
        format!("select pgraft_add_node({}, '{FOREIGN}{node}', 7001)", 100 + node),
        format!("select pgraft_remove_node({victim})"),
    ];
    let call = async |statement: String| {
        let session = cluster.superuser(node).await?;
        let begun = Instant::now();
        let Ok(result) = tokio::time::timeout(TIMEOUT, session.run(&statement)).await else {
            return Err(E2eFailure::Wrong(format!("node {node}: {statement} got no answer")));
        };
        let took = begun.elapsed();
        let error = match &result {
            Ok(()) => {
                return Err(E2eFailure::Wrong(format!(
                    "node {node} is cut off, but confirmed {statement}"
                )));
            }
            Err(failure) => failure
                .refusal()
                .ok_or_else(|| E2eFailure::Wrong(format!("node {node}: {statement}: {failure}")))?,
        };
        println!(
            "partition: node {node}: {statement}: {} {} after {:.1} s",
            error.0,
            error.1,
            took.as_secs_f64()
        );
        // Not the leader, no majority confirmed the change, or a change is in progress.
        let documented =
            ["PGR01", "PGR04", "55006"].contains(&error.0.as_str()) && !error.2.is_empty();
        ensure!(documented, "node {node}: {statement} failed with {error:?}");
        Ok(took)
    };
    try_join_all(calls.map(call)).await.map(|times| times.into_iter().max().unwrap_or_default())
}

/// Waits until no log has a change of the minority.
async fn nothing_left_behind(cluster: &KindCluster, members: &[i32]) -> Result<(), E2eFailure> {
    for &node in members {
        until_true(&format!("the log of node {node} has no change of the minority"), TIMEOUT, || async {
            let clean = "select not exists (select from pgraft_log() where strpos(data::text, $1::text) > 0)";
            cluster.superuser(node).await?.value::<bool>(clean, &[&FOREIGN]).await
        })
        .await?;
    }
    Ok(())
}
