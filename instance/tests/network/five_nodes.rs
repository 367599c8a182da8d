//! Partitions of which one side keeps a majority, and single broken links.

use crate::{LEASE, assert_same_primary, refuses_reads, settled, shared};
use pgraft_testkit::cluster::{leader, more_rows, more_rows_for, primary_after};
use pgraft_testkit::until;

#[tokio::test]
async fn the_majority_replaces_a_primary_in_the_minority() {
    shared::run(5, async |network, nodes, ledger| {
        let (old, before) = settled(nodes, ledger).await;
        let with = (old + 1) % 5;
        network.split(&[old, with]);
        primary_after(nodes, before, &[old, with]).await;
        refuses_reads(nodes, old).await;
        more_rows(ledger, 10).await;
        network.heal();
    })
    .await;
}

/// All other members still receive messages from both.
#[tokio::test]
async fn a_broken_link_between_primary_and_leader_keeps_both() {
    shared::run(5, async |network, nodes, ledger| {
        let before = settled(nodes, ledger).await;
        let leads = until("a leader that is not the primary", async || {
            leader(nodes).filter(|leads| *leads != before.0)
        })
        .await;
        network.drop_one_way(before.0, leads);
        network.drop_one_way(leads, before.0);
        more_rows_for(ledger, LEASE * 3).await;
        assert_same_primary(nodes, before).await;
        network.heal_one_way(before.0, leads);
        network.heal_one_way(leads, before.0);
    })
    .await;
}

#[tokio::test]
async fn commits_continue_while_two_standbys_are_cut_off() {
    shared::run(5, async |network, nodes, ledger| {
        let before = settled(nodes, ledger).await;
        network.split(&[(before.0 + 1) % 5, (before.0 + 2) % 5]);
        more_rows(ledger, 50).await;
        more_rows_for(ledger, LEASE * 2).await;
        assert_same_primary(nodes, before).await;
        network.heal();
    })
    .await;
}
