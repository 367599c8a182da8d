//! `pgraft_force_primary`.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{epoch, more_rows, nothing_is_lost, primary, three_nodes};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{child_of, until};

/// One of two standbys cannot report the end of its WAL. So no primary is chosen, except by force.
#[tokio::test]
async fn a_primary_is_forced_when_a_report_is_missing() {
    let Some(mut nodes) = three_nodes(|_| ()).await else { return };
    let ledger = Ledger::start(nodes.servers());
    more_rows(&ledger, 10).await;
    let old = primary(&nodes).await;
    let before = epoch(&nodes, old);
    let (silent, successor) = ((old + 1) % 3, (old + 2) % 3);
    let postmaster = nodes.nodes[silent].postmaster().unwrap();
    let receiver = until("a walreceiver", async || child_of(postmaster, "walreceiver")).await;
    kill(Pid::from_raw(receiver), Signal::SIGSTOP).unwrap();
    more_rows(&ledger, 10).await;
    nodes.nodes[old].kill_all();

    let force = |accept: &str| format!("SELECT pgraft_force_primary({}{accept})", successor + 1);
    let leader = until("a leader that waits for a report", async || {
        for n in [silent, successor] {
            let waits =
                nodes.nodes[n].sql("SELECT pgraft_is_leader() AND phase = 'recruiting' AND waits_for <> '{}' FROM pgraft_failover()");
            if waits.await.ok().flatten().as_deref() == Some("t") {
                return Some(n);
            }
        }
        None
    })
    .await;
    let refused = nodes.nodes[leader].sql(&force("")).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "PGR08", "{refused}");
    assert!(refused.hint().unwrap().contains("accept_data_loss => true"), "{refused}");
    assert_eq!(epoch(&nodes, successor), before + 1, "the group is still recruiting");
    until("a forced primary", async || {
        for n in [leader, silent, successor] {
            if nodes.nodes[n].sql(&force(", accept_data_loss => true")).await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
    nodes.nodes[successor].wait_for("SELECT pg_is_in_recovery()", "f").await;
    kill(Pid::from_raw(receiver), Signal::SIGCONT).unwrap();
    more_rows(&ledger, 10).await;
    assert_eq!(primary(&nodes).await, successor);
    nodes.nodes[successor].wait_for("SELECT last_reason FROM pgraft_failover()", "forced").await;
    nodes.nodes[successor]
        .wait_for("SELECT count(*) > 0 FROM pgraft_log() WHERE kind = 'force'", "t")
        .await;
    nodes.nodes[old].start();
    nodes.nodes[old].streaming().await;
    // The forced server had every acknowledged row, since the other one could confirm nothing.
    nothing_is_lost(&nodes, ledger).await;
}
