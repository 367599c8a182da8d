//! Network faults: three and five nodes, each in its own network namespace, while a client writes
//! to every node. Clients use other links than the members, so that they still reach a primary that
//! is cut off from the members.
//!
//! The tests of one size share a cluster as long as another test waits for it. They run one at a
//! time: a test that expects the primary to stay needs a machine that has time for its heartbeats.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "used by tests only"
)]

mod five_nodes;
mod shared;
mod three_nodes;

use pgraft_testkit::cluster::{complete, epoch, more_rows, primary};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Nodes, until};
use std::time::Duration;

/// The default of `pgraft.lease_timeout`.
const LEASE: Duration = Duration::from_secs(2);

/// Waits until the cluster is complete and rows are acknowledged. Returns the primary and its
/// epoch.
async fn settled(nodes: &Nodes, ledger: &Ledger) -> (usize, u64) {
    complete(nodes).await;
    more_rows(ledger, 10).await;
    let primary = primary(nodes).await;
    (primary, epoch(nodes, primary))
}

/// Waits until a primary that is cut off refuses reads, because its lease has expired.
async fn refuses_reads(nodes: &Nodes, node: usize) {
    until("a primary that is cut off to refuse reads", async || {
        let client = nodes.nodes[node].connect("postgres", "superuser-1", "app").await.ok()?;
        let error = client.query("SELECT count(*) FROM ledger", &[]).await.err()?;
        (error.code()?.code() == "57P03").then_some(())
    })
    .await;
}

/// Asserts that the primary is the same, in the same epoch.
async fn assert_same_primary(nodes: &Nodes, (node, in_epoch): (usize, u64)) {
    assert_eq!((primary(nodes).await, epoch(nodes, node)), (node, in_epoch));
}
