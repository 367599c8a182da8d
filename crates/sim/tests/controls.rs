//! Positive controls: with one rule taken out, the invariants must see it. A suite that can't fail
//! proves nothing.

#![allow(missing_docs, clippy::panic, reason = "a test, which may end anywhere")]

use pgraft_raft::sim::Rules;
use pgraft_sim::run::{RunPlan, run};

/// Within so many seeds.
const SEEDS: u64 = 60;

/// The first violation, which must be of one of these invariants.
fn must_break(plan: RunPlan, invariants: &[&str]) {
    must_break_or_follow(plan, invariants, &[]);
}

/// The same, where another invariant may see first what follows from the broken rule: that does not
/// count, and other seeds are run.
fn must_break_or_follow(plan: RunPlan, invariants: &[&str], follows: &[&str]) {
    for seed in 1..=SEEDS {
        let outcome = run(RunPlan { seed, ..plan });
        let Some(violation) = &outcome.violation else { continue };
        println!("seed {seed}: {}: {}", violation.invariant, violation.what);
        if invariants.contains(&violation.invariant) {
            return;
        }
        assert!(
            follows.contains(&violation.invariant),
            "seed {seed} broke something else:\n{}",
            outcome.report()
        );
    }
    panic!("{SEEDS} seeds with {plan:?}, and nothing was seen");
}

fn members(rules: Rules) -> RunPlan {
    RunPlan { rules, ..RunPlan::default() }
}

fn servers(rules: Rules) -> RunPlan {
    RunPlan { rules, failover: true, ..RunPlan::default() }
}

/// What is seen when a write that was acknowledged, or shown, is lost.
const LOST: [&str; 3] =
    ["acknowledged rows are kept", "reads are in time", "one confirms in an epoch"];

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
    must_break(members(Rules { fsync: false, ..Rules::default() }), &invariants);
}

#[test]
fn an_id_used_again_is_seen() {
    must_break(
        members(Rules { retired_ids: false, ..Rules::default() }),
        &["spent ids stay spent", "one leader a term"],
    );
}

#[test]
fn two_changes_at_once_are_seen() {
    must_break(members(Rules { one_change: false, ..Rules::default() }), &["one change at a time"]);
}

#[test]
fn a_stopped_server_that_nobody_looks_after_is_seen() {
    // Whatever else it keeps from happening is seen first, now and then.
    let plan = servers(Rules { liveness: false, ..Rules::default() });
    let follows = [
        "all follow one primary",
        "everything heals",
        "a fresh add succeeds",
        "a lost node can be removed",
    ];
    must_break_or_follow(plan, &["writes are acknowledged"], &follows);
}

#[test]
fn commits_that_wait_for_nobody_are_seen() {
    must_break(servers(Rules { sync_waits: false, ..Rules::default() }), &LOST);
}

#[test]
fn backends_that_do_not_ask_the_gate_are_seen() {
    must_break(servers(Rules { fence: false, ..Rules::default() }), &LOST);
}

#[test]
fn a_gate_that_waits_for_nobody_is_seen() {
    must_break(
        servers(Rules { barrier: false, ..Rules::default() }),
        &["a gate waits for its standbys"],
    );
}

#[test]
fn a_standby_that_follows_uncompared_is_seen() {
    must_break(
        servers(Rules { compares: false, ..Rules::default() }),
        &["who follows has the same history"],
    );
}

#[test]
fn timelines_left_to_postgres_are_seen() {
    // By a number that was used twice a WAL that has diverged looks like a beginning of the
    // primary's.
    let plan = servers(Rules { timelines: false, ..Rules::default() });
    must_break_or_follow(plan, &["timelines are used once"], &["who follows has the same history"]);
}

#[test]
fn a_recruit_that_reports_too_early_is_seen() {
    // Its receiver goes on: what it takes is missing from its report, and what it confirms may be
    // lost. Mostly it is not, and its WAL has diverged.
    let plan = servers(Rules { intake: false, ..Rules::default() });
    must_break_or_follow(plan, &LOST, &["who follows has the same history"]);
}

#[test]
fn two_phase_files_that_recovery_stumbles_over_are_seen() {
    must_break(servers(Rules { two_phase_files: false, ..Rules::default() }), &LOST);
}
