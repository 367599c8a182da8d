//! An adversary of the failover protocol: it looks for an order of events in which an acknowledged
//! write is lost, two gates are open, a timeline is used twice, or something shown is taken back.
//! The decisions are those of `pgraft_core::failover`, the very functions.
//!
//! The tests look a little; `just model` looks as deep as it is told. Each rule that `mutation.rs`
//! takes out has a control that fails without it: walks come across what it prevents (`controls`),
//! or `traces` tells how that comes about.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test, which may end anywhere"
)]

mod explore;
mod mutation;
mod traces;
mod world;

use std::time::Duration;

use explore::{Found, search, story, walk};
use mutation::Mutation;
use world::{Budget, ModelViolation, ModelWorld};

const ALL: u8 = 0b111;
/// For a search that finds nothing: it fails then.
const TIMEOUT: Duration = Duration::from_mins(5);

fn three(left: Budget) -> ModelWorld {
    ModelWorld::new(3, ALL, 0b110, left)
}

#[test]
fn one_failover_of_three_nodes() {
    let start = three(Budget { writes: 1, crashes: 1, epochs: 1, changes: 0, voters: 0 });
    let found = search(&start, None, 60_000);
    println!("{found}");
    assert!(!matches!(found, Found::Violation { .. }), "{found}");
}

/// A rule is taken out, and the walks must come across what it prevents.
struct Control {
    mutation: Mutation,
    /// Any of these is what it prevents.
    violations: &'static [ModelViolation],
    world: ModelWorld,
    steps: usize,
}

fn controls() -> Vec<Control> {
    use ModelViolation::{
        AcknowledgedWriteMissing, ConfirmsWhatItHasNot, ShownAndTakenBack, TimelineUsedTwice,
        TwoOpenGates,
    };
    let lost: &[ModelViolation] = &[AcknowledgedWriteMissing, ShownAndTakenBack];
    let all = Budget { writes: 3, crashes: 2, epochs: 2, changes: 1, voters: 0 };
    let quiet = Budget { writes: 0, crashes: 0, epochs: 1, changes: 0, voters: 0 };
    let change_of_mind = Budget { writes: 1, crashes: 0, epochs: 1, changes: 2, voters: 0 };
    let two_failovers = Budget { writes: 2, crashes: 0, epochs: 2, changes: 0, voters: 0 };
    let three_failovers = Budget { writes: 3, crashes: 1, epochs: 3, changes: 0, voters: 0 };
    let control =
        |mutation, violations, world, steps| Control { mutation, violations, world, steps };
    vec![
        control(Mutation::TimelineByPostgres, &[TimelineUsedTwice], three(all), 150),
        control(Mutation::AppointReplacesConfigs, lost, three(all), 150),
        control(Mutation::OneConfirmationLess, lost, three(all), 150),
        control(Mutation::NoBarrier, lost, three(all), 150),
        control(Mutation::NamesBeforeTheyAreCommitted, lost, three(all), 150),
        control(Mutation::PromiseForgotten, &[TwoOpenGates], three(quiet), 150),
        control(
            Mutation::ChangeOfMindWithoutBarrier,
            lost,
            ModelWorld::new(3, ALL, 0b10, change_of_mind),
            150,
        ),
        control(Mutation::LateReportsCount, lost, three(two_failovers), 200),
        control(Mutation::FollowsUncompared, &[ConfirmsWhatItHasNot], three(three_failovers), 200),
    ]
}

/// The positive controls: what the model can't see it can't vouch for.
#[test]
fn each_of_these_rules_taken_out_gives_a_trace() {
    for Control { mutation, violations, world, steps } in controls() {
        let walks = walk(&world, Some(mutation), 1, steps, TIMEOUT, u64::MAX);
        let Some((what, trace)) = walks.violation else {
            panic!("{mutation:?}: nothing in {} walks", walks.count)
        };
        println!(
            "{mutation:?}: {what:?} after {} walks, in {} steps: {}",
            walks.count,
            trace.len(),
            story(&trace)
        );
        assert!(violations.contains(&what), "{mutation:?}: {what:?}: {}", story(&trace));
    }
}

/// Where a story leads to, as far as each of its actions can happen, and those that can't.
fn replay(
    mut world: ModelWorld,
    words: &str,
    mutation: Option<Mutation>,
) -> (ModelWorld, Vec<&str>) {
    let mut impossible = Vec::new();
    for word in words.split_whitespace() {
        match world.successors(mutation).into_iter().find(|(action, _)| story(&[*action]) == word) {
            Some((_, after)) => world = after,
            None => impossible.push(word),
        }
    }
    (world, impossible)
}

#[test]
fn a_trace_leads_to_a_violation_without_its_rule_and_nowhere_with_it() {
    for traces::Trace { mutation, violation, world, story } in traces::traces() {
        let (without, impossible) = replay(world.clone(), story, Some(mutation));
        assert!(impossible.is_empty(), "{mutation:?}: {impossible:?}");
        assert_eq!(without.violation, Some(violation), "{mutation:?}");
        assert_eq!(replay(world, story, None).0.violation, None, "{mutation:?}");
    }
}

#[test]
fn each_rule_has_a_control() {
    let walks = controls().into_iter().map(|c| c.mutation);
    let all: Vec<Mutation> =
        walks.chain(traces::traces().into_iter().map(|t| t.mutation)).collect();
    for mutation in Mutation::ALL {
        assert!(all.contains(&mutation), "{mutation:?}");
    }
}

#[test]
fn walks_of_three_nodes_find_nothing() {
    let start = three(Budget { writes: 3, crashes: 3, epochs: 3, changes: 1, voters: 0 });
    let walks = walk(&start, None, 1, 150, TIMEOUT, 1000);
    println!("{} walks, {} steps, {} with a failover", walks.count, walks.steps, walks.failovers);
    assert!(walks.violation.is_none(), "{:?}", walks.violation);
    assert!(walks.failovers > 0, "nothing happened");
}

/// Three of five vote, and who they are changes twice.
#[test]
fn walks_with_changes_of_the_voters_find_nothing() {
    let start = ModelWorld::new(
        5,
        0b111,
        0b110,
        Budget { writes: 2, crashes: 1, epochs: 2, changes: 1, voters: 2 },
    );
    let walks = walk(&start, None, 1, 200, TIMEOUT, 300);
    println!("{} walks, {} steps, {} with a failover", walks.count, walks.steps, walks.failovers);
    assert!(walks.violation.is_none(), "{:?}", walks.violation);
    assert!(walks.failovers > 0, "nothing happened");
}

/// `MODEL="walk MUTATION size voters standbys writes crashes epochs changes voter-changes steps
/// seconds seed"`, or `search …` with the number of states in place of the steps; MUTATION is
/// `None` or a name of `mutation.rs`. `BEGIN` may tell what has happened before, as a story of
/// `traces.rs`: the walks and the search go on from there.
#[test]
#[ignore = "by hand: `just model …`"]
fn by_hand() {
    let line = std::env::var("MODEL").unwrap();
    let mut words = line.split_whitespace();
    let how = words.next().unwrap();
    let name = words.next().unwrap();
    let mutation = Mutation::ALL.into_iter().find(|m| format!("{m:?}") == name);
    let n: Vec<u64> = words.map(|w| w.parse().unwrap()).collect();
    let b = |k: usize| u8::try_from(n[k]).unwrap();
    let left = Budget { writes: b(3), crashes: b(4), epochs: b(5), changes: b(6), voters: b(7) };
    let begin = std::env::var("BEGIN").unwrap_or_default();
    let (start, impossible) =
        replay(ModelWorld::new(usize::try_from(n[0]).unwrap(), b(1), b(2), left), &begin, mutation);
    println!("begins with {:?}; could not happen: {impossible:?}", start.violation);
    if how == "walk" {
        let walks = walk(
            &start,
            mutation,
            n[10],
            usize::try_from(n[8]).unwrap(),
            Duration::from_secs(n[9]),
            u64::MAX,
        );
        println!(
            "{name}: {} walks, {} steps, {} with a failover",
            walks.count, walks.steps, walks.failovers
        );
        if let Some((what, trace)) = walks.violation {
            println!("{what:?} in {}: {}", trace.len(), story(&trace));
        }
    } else {
        let found = search(&start, mutation, usize::try_from(n[8]).unwrap());
        println!("{name}: {found}");
    }
}
