//! Many seeds, and that a seed is one run. `just sim` runs more.

#![allow(missing_docs, clippy::panic, reason = "a test, which may end anywhere")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pgraft_sim::run::{RunPlan, run};

/// Runs the plan with so many seeds.
fn all_hold(plan: RunPlan, seeds: u64) {
    let next = AtomicU64::new(1);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        return;
                    }
                    let outcome = run(RunPlan { seed, ..plan });
                    assert!(outcome.violation.is_none(), "\n{}", outcome.report());
                }
            });
        }
    });
}

#[test]
fn members_alone_break_nothing_and_everything_heals() {
    all_hold(RunPlan::default(), 200);
}

#[test]
fn members_with_servers_lose_nothing_and_everything_heals() {
    all_hold(RunPlan { failover: true, ..RunPlan::default() }, 500);
}

#[test]
fn one_seed_is_one_run() {
    for seed in 3..9 {
        for failover in [false, true] {
            let plan = RunPlan { seed, failover, ..RunPlan::default() };
            let (first, second) = (run(plan), run(plan));
            assert_eq!(first.story.text(), second.story.text());
            assert_eq!(first.fingerprint, second.fingerprint, "other bytes, or at other times");
        }
    }
}
