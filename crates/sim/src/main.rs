//! `just sim`: runs many seeds, one of them with its whole story, or a script
//! (`RUST_LOG=pgraft_raft=debug just sim seed 4711`: with the members' own log).

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use pgraft_raft::sim::Rules;
use pgraft_sim::clock;
use pgraft_sim::run::{RunOutcome, RunPlan, run};
use pgraft_sim::script::play;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().ok();
    match words[..] {
        ["seed", seed] => match number(seed) {
            Some(seed) => one(RunPlan { seed, ..RunPlan::default() }),
            None => usage(),
        },
        ["failover", "seed", seed] => match number(seed) {
            Some(seed) => one(RunPlan { seed, failover: true, ..RunPlan::default() }),
            None => usage(),
        },
        ["failover", "seed", seed, "without", rule] => match (number(seed), without(rule)) {
            (Some(seed), Some(rules)) => one(RunPlan { seed, failover: true, rules }),
            _ => usage(),
        },
        ["script", script] => tell(&play(1, script)),
        ["failover", ref words @ ..] => several(words, true),
        ref words => several(words, false),
    }
}

/// The rules of the failover but for one of them: to see what it is good for.
fn without(rule: &str) -> Option<Rules> {
    let all = Rules::default();
    Some(match rule {
        "barrier" => Rules { barrier: false, ..all },
        "fence" => Rules { fence: false, ..all },
        "liveness" => Rules { liveness: false, ..all },
        "comparing" => Rules { compares: false, ..all },
        "intake" => Rules { intake: false, ..all },
        "sync" => Rules { sync_waits: false, ..all },
        "timelines" => Rules { timelines: false, ..all },
        "two-phase" => Rules { two_phase_files: false, ..all },
        _ => return None,
    })
}

fn several(words: &[&str], failover: bool) -> ExitCode {
    let number = |word: &str| word.parse::<u64>().ok();
    match words {
        [count] => match number(count) {
            Some(count) => many(random(), count, failover),
            None => usage(),
        },
        [count, "from", first] => match (number(count), number(first)) {
            (Some(count), Some(first)) => many(first, count, failover),
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: just sim [failover] 1000 | just sim [failover] 1000 from 4711 | just sim [failover] seed 4711 | just sim failover seed 4711 without barrier|comparing|fence|intake|liveness|sync|timelines|two-phase | just sim script 'start 3 · crash 1 · …'"
    );
    ExitCode::from(2)
}

/// With the members' own log on standard error, where RUST_LOG asks for it.
fn one(plan: RunPlan) -> ExitCode {
    let wanted = tracing_subscriber::EnvFilter::try_from_default_env();
    if let Ok(wanted) = wanted {
        tracing_subscriber::fmt()
            .with_env_filter(wanted)
            .with_timer(VirtualTime)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    tell(&run(plan))
}

fn tell(outcome: &RunOutcome) -> ExitCode {
    print!("{}", outcome.story.text());
    println!("fingerprint {:016x}", outcome.fingerprint);
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What time it is in the simulation.
struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        w.write_str(&clock::here().map_or_else(String::new, clock::show))
    }
}

fn many(first: u64, count: u64, failover: bool) -> ExitCode {
    let (next, failed, start) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    println!("seeds {first} to {}", first + count - 1);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let outcome = run(RunPlan { seed: first + n, failover, ..RunPlan::default() });
                    if outcome.violation.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("{}", outcome.report());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{count} seeds, {failed} of them failed, {:.1} s", start.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A start that nobody has tried.
fn random() -> u64 {
    rand::random::<u64>() % 1_000_000_000
}
