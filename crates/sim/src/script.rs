//! Scenarios as a person writes them: `start 3 · partition 1 | 2 3 · expect leader in {2,3} · heal
//! · expect agreement`.
//!
//! | step | what it does |
//! |---|---|
//! | `start 3` | founds a cluster of nodes 1 to 3 |
//! | `add 4`, `add 4 fails` | adds a node by whoever leads, waits for the answer; a new node is started first |
//! | `add 4 on 2 refused PGR01` | the same on one node, with the answer that it must give |
//! | `remove 2`, `remove leader` | takes it out, waits for the answer |
//! | `partition 1 \| 2 3` | cuts the links between the groups |
//! | `cut 1 > 2` | cuts one direction |
//! | `crash 1`, `kill 1`, `restart 1`, `pause 1`, `resume 1` | `leader` and `follower` name a node as well; `it` names it again |
//! | `slow 3` | an fsync takes 20 s on it from now on |
//! | `move 2` | it starts again on another port, and the group is told |
//! | `wipe 2` | its disk is empty; it must be down |
//! | `copy 2 to 5`, `copy 2 to 5 as 2` | machine 5 gets node 2's directory, and its own id or the old one |
//! | `wait 5s` | lets time pass |
//! | `heal` | all links are healthy |
//! | `expect leader in {2,3}`, `expect no leader in {1}` | within 30 s |
//! | `expect members 1 2 3`, `expect voters 1 2 3` | on all of them that run, with one leader, within 60 s |
//! | `expect 2 down`, `expect 2 alone` | the member did not start; it is in no cluster |

use std::time::Duration;

use pgraft_core::control::{Request, Response};
use pgraft_core::{NodeState, Role, SqlState};
use pgraft_raft::sim::Rules;

use crate::invariants::Observation;
use crate::numbers::node;
use crate::run::{RunOutcome, found};
use crate::story::ids;
use crate::world::World;

const SHORT_TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_mins(1);
const SLOW_FSYNC: Duration = Duration::from_secs(20);

/// Plays a script. What is not as expected is a violation, and so is what the invariants see.
pub fn play(seed: u64, script: &str) -> RunOutcome {
    let mut world = World::new(seed, Rules::default());
    let mut it = 1;
    for step in script.split('·').map(str::trim).filter(|step| !step.is_empty()) {
        world.tell(format!("» {step}"));
        if let Err(why) = carry_out(&mut world, &mut it, step) {
            world.fail("the script", format!("{step}: {why}"));
        }
        if world.violation().is_some() {
            break;
        }
    }
    RunOutcome {
        seed,
        failover: world.databases.is_some(),
        violation: world.violation().cloned(),
        fingerprint: world.net.fingerprint(),
        story: world.story,
    }
}

fn carry_out(world: &mut World, it: &mut u32, step: &str) -> Result<(), String> {
    let words: Vec<&str> = step.split_whitespace().collect();
    match words[..] {
        ["start", size] => {
            found(world, number(size)?);
            Ok(())
        }
        ["heal"] => {
            world.heal();
            Ok(())
        }
        ["wait", time] => {
            let seconds =
                time.strip_suffix('s').and_then(|n| n.parse().ok()).ok_or("seconds, as in 5s")?;
            world.run_for(Duration::from_secs(seconds));
            Ok(())
        }
        ["partition", ..] => {
            let groups: Result<Vec<Vec<u32>>, String> = step["partition".len()..]
                .split('|')
                .map(|group| group.split_whitespace().map(|word| who(world, it, word)).collect())
                .collect();
            world.partition(&groups?);
            Ok(())
        }
        ["cut", from, ">", to] => {
            let (from, to) = (who(world, it, from)?, who(world, it, to)?);
            world.net.set(from, to, world.now(), |link| link.cut = true);
            Ok(())
        }
        ["add", newcomer, ..] => adding(world, number(newcomer)?, &words[2..]),
        ["remove", whom] => {
            let whom = who(world, it, whom)?;
            world.see(&Observation::RemoveCalled(node(whom)));
            by_the_leader(world, &Request::RemoveNode { node_id: i64::from(whom) })
        }
        ["move", whom] => {
            let whom = who(world, it, whom)?;
            world.relocate(whom);
            world.kill(whom);
            world.start(whom);
            let request = world.move_request(whom);
            by_the_leader(world, &request)
        }
        ["copy", from, "to", to] => copy(world, number(from)?, number(to)?, None),
        ["copy", from, "to", to, "as", id] => {
            copy(world, number(from)?, number(to)?, Some(number(id)?))
        }
        ["expect", ..] => expect(world, it, &words[1..]),
        [verb, whom] => {
            let whom = who(world, it, whom)?;
            do_to(world, verb, whom)
        }
        _ => Err("no such step".into()),
    }
}

fn do_to(world: &mut World, verb: &str, whom: u32) -> Result<(), String> {
    match verb {
        "crash" => world.crash(whom),
        "kill" => world.kill(whom),
        "restart" => world.start(whom),
        "pause" => world.freeze(whom),
        "resume" => world.thaw(whom),
        "slow" => world.machine(whom).machine.set_fsync(SLOW_FSYNC, SLOW_FSYNC),
        "wipe" => world.wipe(whom),
        _ => return Err("no such step".into()),
    }
    Ok(())
}

fn adding(world: &mut World, newcomer: u32, rest: &[&str]) -> Result<(), String> {
    if !world.machine(newcomer).is_up() {
        world.start(newcomer);
    }
    world.see(&Observation::AddCalled(node(newcomer)));
    let request = world.add_request(newcomer);
    match rest {
        [] => {
            by_the_leader(world, &request)?;
            world.see(&Observation::AddAcknowledged(node(newcomer)));
            Ok(())
        }
        ["on", whom, "refused", wanted] => match world.call(number(whom)?, &request, TIMEOUT) {
            Some(Response::Refused { sqlstate, message, .. }) if sqlstate.as_str() == *wanted => {
                world.tell(format!("refused: {message}"));
                world.see(&Observation::AddRefused {
                    node: node(newcomer),
                    certain: sqlstate != SqlState::NO_QUORUM,
                });
                Ok(())
            }
            other => Err(format!("{other:?}")),
        },
        _ => Err("add 4, or add 4 on 2 refused PGR01".into()),
    }
}

fn copy(world: &mut World, from: u32, to: u32, id: Option<u32>) -> Result<(), String> {
    if world.machine(to).is_up() {
        return Err(format!("machine {to} is up"));
    }
    world.machine(to).node = id.unwrap_or(to);
    world.copy(from, to);
    world.start(to);
    Ok(())
}

/// Asks whoever leads until it is done.
fn by_the_leader(world: &mut World, request: &Request) -> Result<(), String> {
    let deadline = world.now() + TIMEOUT;
    let mut heard = "nobody leads".to_owned();
    while world.now() < deadline && world.violation().is_none() {
        for leader in world.leaders() {
            match world.call(leader, request, Duration::from_secs(15)) {
                Some(Response::Done { .. }) => return Ok(()),
                Some(Response::Refused { message, .. }) => heard = message,
                _ => {}
            }
        }
        world.run_for(Duration::from_millis(100));
    }
    Err(heard)
}

fn expect(world: &mut World, it: &mut u32, words: &[&str]) -> Result<(), String> {
    match words {
        ["leader", "in", set] => {
            let set = numbers(set)?;
            let so = world
                .run_until(SHORT_TIMEOUT, |world| world.leaders().iter().any(|l| set.contains(l)));
            if so { Ok(()) } else { Err(format!("{} lead", ids(world.leaders()))) }
        }
        ["no", "leader", "in", set] => {
            let set = numbers(set)?;
            let so = world
                .run_until(SHORT_TIMEOUT, |world| !world.leaders().iter().any(|l| set.contains(l)));
            if so { Ok(()) } else { Err(format!("{} lead", ids(world.leaders()))) }
        }
        ["members", wanted @ ..] => all_show(world, wanted, |_| true),
        ["voters", wanted @ ..] => all_show(world, wanted, |role| role == Role::Voter),
        [whom, "down"] => {
            let whom = who(world, it, whom)?;
            if world.run_until(SHORT_TIMEOUT, |world| !world.machine(whom).is_up()) {
                Ok(())
            } else {
                Err("it runs".into())
            }
        }
        [whom, "alone"] => {
            let whom = who(world, it, whom)?;
            world.run_for(Duration::from_secs(10));
            match world.status(whom) {
                Some(status) if status.state == NodeState::Uninitialized => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
        _ => Err("no such expectation".into()),
    }
}

/// Waits until all wanted members that run show just those, with one leader.
fn all_show(
    world: &mut World,
    wanted: &[&str],
    counts: impl Fn(Role) -> bool,
) -> Result<(), String> {
    let wanted: Vec<u32> = wanted.iter().map(|word| number(word)).collect::<Result<_, _>>()?;
    let shows = |world: &World, number: u32| -> Option<Vec<u32>> {
        let status = world.status(number)?;
        status.leader?;
        Some(status.members.iter().filter(|m| counts(m.role)).map(|m| m.node_id.get()).collect())
    };
    let so = world.run_until(TIMEOUT, |world| {
        let up = |n: &&u32| world.hosts.get(n).is_some_and(|h| h.is_up() && !h.is_frozen());
        world.leaders().len() == 1
            && wanted.iter().filter(up).all(|n| shows(world, *n).as_ref() == Some(&wanted))
    });
    if so {
        return Ok(());
    }
    let seen: Vec<String> =
        wanted.iter().map(|n| format!("node {n} shows {:?}", shows(world, *n))).collect();
    Err(seen.join(", "))
}

/// A number, `leader`, `follower`, or `it`: who was named last.
fn who(world: &mut World, it: &mut u32, word: &str) -> Result<u32, String> {
    *it = match word {
        "it" => *it,
        "leader" => {
            world.run_until(SHORT_TIMEOUT, |world| world.leaders().len() == 1);
            *world.leaders().first().ok_or("nobody leads")?
        }
        "follower" => {
            let leaders = world.leaders();
            let follows = |n: &u32| {
                !leaders.contains(n)
                    && world.status(*n).is_some_and(|s| s.state == NodeState::Follower)
            };
            world.hosts.keys().copied().find(follows).ok_or("nobody follows")?
        }
        number_of => number(number_of)?,
    };
    Ok(*it)
}

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn numbers(set: &str) -> Result<Vec<u32>, String> {
    let inner = set
        .strip_prefix('{')
        .and_then(|s| s.strip_suffix('}'))
        .ok_or_else(|| format!("{set} is no set, as {{2,3}} is"))?;
    inner.split(',').map(number).collect()
}
