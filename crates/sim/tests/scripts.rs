//! Scenarios that a person can read. Each runs with several seeds, all invariants on.

#![allow(missing_docs, clippy::panic, reason = "a test, which may end anywhere")]

use pgraft_sim::script::play;

fn holds(script: &str) {
    for seed in 1..=3 {
        let outcome = play(seed, script);
        assert!(
            outcome.violation.is_none(),
            "{script}\nwith seed {seed}:\n{}",
            outcome.story.text()
        );
    }
}

#[test]
fn the_majority_side_goes_on_and_the_minority_side_follows() {
    holds(
        "start 3 · partition 1 | 2 3 · expect leader in {2,3} · expect no leader in {1} · add 4 · heal · expect voters 1 2 3 4",
    );
}

#[test]
fn a_minority_changes_nothing() {
    holds(
        "start 5 · partition 1 2 6 | 3 4 5 · expect leader in {3,4,5} · expect no leader in {1,2} · add 6 on 1 refused PGR04 · add 6 on 2 refused PGR01 · heal \
         · expect members 1 2 3 4 5",
    );
}

#[test]
fn a_leader_cut_off_in_the_middle_of_an_add_adds_nobody_or_somebody_for_good() {
    holds(
        "start 3 · partition 1 | 2 3 · add 4 on 1 refused PGR04 · expect leader in {2,3} · heal · add 4 · expect voters 1 2 3 4",
    );
}

#[test]
fn whoever_hears_nobody_does_not_disturb() {
    holds(
        "start 3 · cut 1 > 3 · cut 2 > 3 · wait 20s · expect leader in {1,2} · heal · expect voters 1 2 3",
    );
}

#[test]
fn whoever_does_not_hear_the_leader_alone_does_not_bring_it_down() {
    holds(
        "start 5 · cut 1 > 3 · wait 20s · expect leader in {1} · add 6 · expect leader in {1} · heal · expect voters 1 2 3 4 5 6",
    );
}

#[test]
fn a_leader_takes_itself_out() {
    holds(
        "start 3 · pause 1 · expect leader in {2,3} · resume 1 · expect voters 1 2 3 · remove leader · wait 5s · expect leader in {1,2,3} · add 4",
    );
}

#[test]
fn everybody_crashes_again_and_again() {
    holds(
        "start 3 · crash 1 · crash 2 · crash 3 · restart 1 · restart 2 · restart 3 · expect voters 1 2 3 · crash leader · add 4 · restart it \
         · expect voters 1 2 3 4",
    );
}

/// A leader that counted on it panics when it is gone, and an entry may have been committed that no
/// majority had on disk.
#[test]
fn what_a_killed_member_had_not_synced_its_next_start_syncs() {
    holds(
        "start 3 · slow 3 · add 4 · expect voters 1 2 3 4 · kill 3 · restart 3 · wait 5s · crash 3 · restart 3 · expect voters 1 2 3 4",
    );
}

#[test]
fn a_node_that_lost_its_disk_comes_back_under_a_new_id_only() {
    holds(
        "start 3 · crash 2 · wipe 2 · restart 2 · expect 2 alone · remove 2 · add 2 on 1 refused PGR02 · add 4 · expect voters 1 3 4",
    );
}

#[test]
fn a_copied_directory_is_refused() {
    holds("start 3 · copy 2 to 5 · expect 5 down · expect voters 1 2 3");
}

#[test]
fn a_node_that_was_away_for_long_catches_up_by_snapshot() {
    holds(
        "start 3 · crash 3 · add 4 · add 5 · remove 4 · add 6 · remove 5 · add 7 · remove 6 · restart 3 · expect members 1 2 3 7",
    );
}

#[test]
fn a_member_that_moves_is_found_again() {
    holds(
        "start 3 · move follower · wait 3s · expect voters 1 2 3 · move leader · expect voters 1 2 3 · add 4 · expect voters 1 2 3 4",
    );
}

#[test]
fn a_newcomer_that_never_comes_is_given_up() {
    holds(
        "start 3 · partition 4 | 1 2 3 · add 4 · wait 15s · expect members 1 2 3 · heal · add 5 · expect voters 1 2 3 5",
    );
}

#[test]
fn a_paused_leader_wakes_up_as_a_follower() {
    holds(
        "start 3 · pause leader · wait 10s · resume it · expect leader in {2,3} · expect voters 1 2 3",
    );
}
