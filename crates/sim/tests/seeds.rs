//! Many seeds, and that a seed is one run. `just sim` runs more.

#![allow(missing_docs, clippy::panic, reason = "a test, which may end anywhere")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pgraft_sim::run::{Plan, run};

const SEEDS: u64 = 200;

#[test]
fn nothing_breaks_and_everything_heals() {
    let next = AtomicU64::new(1);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let outcome = run(Plan { seed, ..Plan::default() });
                    assert!(outcome.violation.is_none(), "\n{}", outcome.report());
                }
            });
        }
    });
}

#[test]
fn one_seed_is_one_run() {
    for seed in 3..9 {
        let (first, second) = (run(Plan { seed, ..Plan::default() }), run(Plan { seed, ..Plan::default() }));
        assert_eq!(first.story.text(), second.story.text());
        assert_eq!(first.fingerprint, second.fingerprint, "other bytes, or at other times");
    }
}
