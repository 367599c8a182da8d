//! Standbys that are behind with their replay.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{
    complete, epoch, more_rows, nothing_is_lost, primary, primary_after, three_nodes,
};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{child_of, until};
use std::time::Duration;

/// Several lease timeouts.
const REPLAY_HELD: Duration = Duration::from_secs(10);

/// One standby has all WAL but cannot replay it, the other one has little WAL. The first becomes
/// the primary, as soon as it has replayed.
#[tokio::test]
async fn the_most_advanced_standby_becomes_the_primary_after_its_replay() {
    let unlimited = ("max_standby_streaming_delay".to_owned(), "-1".to_owned());
    let Some(mut nodes) = three_nodes(|node| node.parameters.extend([unlimited.clone()])).await
    else {
        return;
    };
    let ledger = Ledger::start(nodes.servers());
    let old = primary(&nodes).await;
    let (lagging, successor) = ((old + 1) % 3, (old + 2) % 3);
    nodes.nodes[old].sql("CREATE TABLE held ()").await.unwrap();
    nodes.nodes[successor].wait_for("SELECT count(*) FROM held", "0").await;
    let holds =
        nodes.nodes[successor].connect("postgres", "superuser-1", "postgres").await.unwrap();
    holds.batch_execute("BEGIN; SELECT count(*) FROM held").await.unwrap();
    let lags = nodes.nodes[lagging].postmaster().unwrap();
    let receiver =
        Pid::from_raw(until("a walreceiver", async || child_of(lags, "walreceiver")).await);
    kill(receiver, Signal::SIGSTOP).unwrap();
    // From here on only the successor confirms, and it replays nothing.
    nodes.nodes[old].sql("DROP TABLE held").await.unwrap();
    nodes.nodes[old].sql("CREATE TABLE backlog AS SELECT n, repeat('x', 200) FROM generate_series(1, 200000) AS n").await.unwrap();
    more_rows(&ledger, 10).await;
    let before = epoch(&nodes, old);
    nodes.nodes[old].kill_all();
    kill(receiver, Signal::SIGCONT).unwrap();

    let appointed = async || {
        let appointed = nodes.nodes[lagging]
            .sql("SELECT primary_node FROM pgraft_failover() WHERE phase = 'steady'")
            .await
            .ok()??;
        (appointed == (successor + 1).to_string()).then_some(())
    };
    until("the most advanced standby to be appointed", appointed).await;
    tokio::time::sleep(REPLAY_HELD).await; // the duration of the fault
    holds.batch_execute("COMMIT").await.unwrap();
    let new = primary_after(&nodes, before, &[old]).await;
    assert_eq!(new, successor, "the other one has less WAL");
    more_rows(&ledger, 10).await;
    nodes.nodes[old].start();
    complete(&nodes).await;
    nodes.nodes[new].wait_for("SELECT count(*) FROM backlog", "200000").await;
    nothing_is_lost(&nodes, ledger).await;
}
