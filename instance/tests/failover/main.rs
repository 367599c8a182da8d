//! Three nodes with instance managers that choose their primary: killed servers come back, and
//! every acknowledged row is on all nodes, on one timeline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "used by tests only"
)]

mod disks;
mod diverged;
mod forced;
mod kills;
mod replay;
mod slots;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::cluster::{epoch, more_rows, primary};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Nodes, TestNode, until};

/// Kills the postmaster of a node.
fn kill_postmaster(node: &TestNode) {
    kill(Pid::from_raw(node.postmaster().unwrap()), Signal::SIGKILL).unwrap();
}

/// Kills the primary's postmaster, and waits until there is a new primary and all standbys stream.
async fn kill_the_primary(nodes: &Nodes, ledger: &Ledger) {
    let old = primary(nodes).await;
    let before = epoch(nodes, old);
    more_rows(ledger, 10).await;
    kill_postmaster(&nodes.nodes[old]);
    until("another primary term", async || {
        let new = primary(nodes).await;
        (epoch(nodes, new) > before).then_some(new)
    })
    .await;
    more_rows(ledger, 10).await;
    for (n, node) in nodes.nodes.iter().enumerate() {
        if n != primary(nodes).await {
            node.streaming().await;
        }
    }
}
