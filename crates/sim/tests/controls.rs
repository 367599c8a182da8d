//! Positive controls: with one rule taken out, the invariants must see it. A suite that can't fail proves nothing.

#![allow(missing_docs, clippy::panic, reason = "a test, which may end anywhere")]

use pgraft_raft::sim::Rules;
use pgraft_sim::run::{Plan, run};

/// Within so many seeds.
const SEEDS: u64 = 60;

/// The first violation, which must be of one of these invariants.
fn must_break(rules: Rules, invariants: &[&str]) {
    for seed in 1..=SEEDS {
        let outcome = run(Plan { seed, rules });
        if let Some(violation) = &outcome.violation {
            assert!(invariants.contains(&violation.invariant), "seed {seed} broke something else:\n{}", outcome.report());
            println!("seed {seed}: {}: {}", violation.invariant, violation.what);
            return;
        }
    }
    panic!("{SEEDS} seeds with {rules:?}, and nothing was seen");
}

#[test]
fn an_fsync_left_out_is_seen() {
    // Openraft's leader panics when a follower has lost what it had acknowledged.
    let invariants = [
        "no member dies of itself",
        "one leader a term",
        "committed entries stay",
        "the same in the same order",
        "an acknowledged add is kept",
    ];
    must_break(Rules { fsync: false, ..Rules::default() }, &invariants);
}

#[test]
fn an_id_used_again_is_seen() {
    must_break(Rules { retired_ids: false, ..Rules::default() }, &["spent ids stay spent", "one leader a term"]);
}

#[test]
fn two_changes_at_once_are_seen() {
    must_break(Rules { one_change: false, ..Rules::default() }, &["one change at a time"]);
}
