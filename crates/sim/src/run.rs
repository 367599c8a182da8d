//! One run: a cluster is bootstrapped, everything goes wrong for a while, then everything must
//! heal.

use std::time::Duration;

use pgraft_core::control::{Request, Response};
use pgraft_core::{ClusterState, MAX_VOTERS, Role};
use pgraft_raft::sim::Rules;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::chaos::Chaos;
use crate::invariants::Observation;
use crate::numbers::{mix, node};
use crate::story::Story;
use crate::world::{Violation, World};

/// How long things go wrong.
const FAULTS: Duration = Duration::from_secs(30);
/// How long the rest may take, each.
const TIMEOUT: Duration = Duration::from_mins(1);

/// What a run is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunPlan {
    /// Decides everything.
    pub seed: u64,
    /// What is in force.
    pub rules: Rules,
    /// The members have servers, and choose their primary.
    pub failover: bool,
}

/// What has come of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// Its seed.
    pub seed: u64,
    /// Whether there were servers.
    pub failover: bool,
    /// What happened.
    pub story: Story,
    /// What was wrong.
    pub violation: Option<Violation>,
    /// Stands for every byte that was sent, and when.
    pub fingerprint: u64,
}

impl RunOutcome {
    /// The end of the story and how to see it again.
    pub fn report(&self) -> String {
        let what = if self.failover { "failover seed" } else { "seed" };
        format!("{}repeat with: just sim {what} {}\n", self.story.tail(60), self.seed)
    }
}

/// Runs a plan.
pub fn run(plan: RunPlan) -> RunOutcome {
    let mut world = World::new(plan.seed, plan.rules);
    let size = SmallRng::seed_from_u64(mix(plan.seed, 2 << 32)).random_range(3..=5);
    world.tell(format!("seed {}: a cluster of {size}", plan.seed));
    if plan.failover {
        world.bring_databases();
    }
    if found(&mut world, size) {
        let mut chaos = Chaos::new(plan.seed, size + 1);
        chaos.reuse_ids = !plan.rules.retired_ids;
        let end = world.now() + FAULTS;
        world.run_until(FAULTS * 2, |world| {
            chaos.go_on(world);
            world.now() >= end
        });
        if world.violation().is_none() {
            chaos.end(&mut world);
            heal(&mut world, &mut chaos);
        }
    }
    RunOutcome {
        seed: plan.seed,
        failover: plan.failover,
        violation: world.violation().cloned(),
        fingerprint: world.net.fingerprint(),
        story: world.story,
    }
}

/// Founds a cluster of nodes 1 to `size`, all of them voters.
pub fn found(world: &mut World, size: u32) -> bool {
    for number in 1..=size {
        world.start(number);
    }
    world.run_until(TIMEOUT, |world| world.hosts[&1].is_up());
    if !matches!(world.call(1, &Request::Init, TIMEOUT), Some(Response::Done { .. })) {
        world.fail("a cluster can be bootstrapped", "init has failed".into());
        return false;
    }
    for number in 2..=size {
        if !join(world, number) {
            return false;
        }
    }
    let voters = |world: &mut World| world.state().voters() == size as usize;
    let all = world.run_until(TIMEOUT, voters);
    if !all {
        world.fail("a cluster can be bootstrapped", "not all nodes have become voters".into());
        return false;
    }
    all_follow(world)
}

/// Where the members have servers: one takes writes, and all others have what it has. Then clients
/// come.
fn all_follow(world: &mut World) -> bool {
    let all = world.run_until(TIMEOUT, |world| world.why_not_one_database().is_none());
    if let Some(why) = world.why_not_one_database().filter(|_| !all && world.violation().is_none())
    {
        world.fail("all follow one primary", why);
    }
    if let Some(databases) = &mut world.databases {
        databases.busy = true;
    }
    all
}

/// Adds a node that is there, on whoever leads, and waits for the acknowledgement.
pub fn join(world: &mut World, number: u32) -> bool {
    world.see(&Observation::AddCalled(node(number)));
    let done = insist(world, &world.add_request(number));
    if done {
        world.see(&Observation::AddAcknowledged(node(number)));
    } else {
        world.fail(
            "a fresh add succeeds",
            format!("node {number} was not added within {} s", TIMEOUT.as_secs()),
        );
    }
    done
}

/// Asks whoever leads until it is done.
fn insist(world: &mut World, request: &Request) -> bool {
    let deadline = world.now() + TIMEOUT;
    while world.now() < deadline && world.violation().is_none() {
        if let Some(leader) = world.leaders().first().copied() {
            match world.call(leader, request, Duration::from_secs(15)) {
                Some(Response::Done { .. }) => return true,
                Some(Response::Refused { message, .. }) => {
                    world.tell(format!("refused: {message}"));
                }
                _ => {}
            }
        }
        world.run_for(Duration::from_millis(200));
    }
    false
}

/// Nothing goes wrong any more: everything must become well.
fn heal(world: &mut World, chaos: &mut Chaos) {
    world.tell("all faults are over");
    for lost in &chaos.lost {
        world.kill(*lost);
    }
    // Who is a member by an entry that not everybody has yet is started as well: all machines are.
    let off: Vec<u32> = world
        .hosts
        .keys()
        .filter(|n| !world.is_on(**n) && !chaos.lost.contains(n))
        .copied()
        .collect();
    for number in off {
        world.start(number);
    }
    if !world.run_until(TIMEOUT, |world| world.leaders().len() == 1) {
        return world.fail(
            "one leader",
            format!("{} lead after {} s without faults", world.leaders().len(), TIMEOUT.as_secs()),
        );
    }
    for lost in chaos.lost.clone() {
        if world.state().members.contains_key(&node(lost)) {
            world.see(&Observation::RemoveCalled(node(lost)));
            if !insist(world, &Request::RemoveNode { node_id: i64::from(lost) })
                && world.violation().is_none()
            {
                return world.fail("a lost node can be removed", format!("node {lost} was not"));
            }
        }
    }
    for number in world.moved() {
        let request = world.move_request(number);
        if world.state().members.contains_key(&node(number))
            && !insist(world, &request)
            && world.violation().is_none()
        {
            return world.fail(
                "a member can move",
                format!("the group does not know where node {number} is"),
            );
        }
    }
    let settled = |world: &mut World| agreed(world).is_some_and(|state| is_at_rest(&state));
    if !world.run_until(TIMEOUT, settled) {
        return not_agreed(world);
    }
    let newcomer = chaos.next_machine;
    world.start(newcomer);
    if join(world, newcomer) && !world.run_until(TIMEOUT, settled) {
        return not_agreed(world);
    }
    if world.violation().is_none() && serves(world) {
        world.tell("all is well");
    }
}

/// A write is acknowledged, and then all servers have the same.
fn serves(world: &mut World) -> bool {
    let acknowledged = |world: &World| world.databases.as_ref().map(|d| d.acknowledged);
    let before = acknowledged(world);
    let more = world.run_until(TIMEOUT, |world| before.is_none() || acknowledged(world) > before);
    if !more && world.violation().is_none() {
        world.fail(
            "writes are acknowledged",
            format!("none is after {} s without faults", TIMEOUT.as_secs()),
        );
    }
    if let Some(databases) = &mut world.databases {
        databases.busy = false;
    }
    more && all_follow(world)
}

fn not_agreed(world: &mut World) {
    if world.violation().is_some() {
        return;
    }
    let all: Vec<u32> = world.hosts.keys().copied().collect();
    for number in all {
        if let Some(s) = world.status(number) {
            let members: Vec<String> =
                s.members.iter().map(|m| format!("{} {}", m.node_id, m.role)).collect();
            let leader = s.leader.map_or("nobody".to_owned(), |l| format!("node {l}"));
            world.tell(format!(
                "node {number}: {} in term {}, led by {leader}, applied {} of {}: {}",
                s.state,
                s.term,
                s.applied_index,
                s.commit_index,
                members.join(", ")
            ));
        }
    }
    world.fail(
        "everything heals",
        format!("the members do not agree after {} s without faults", TIMEOUT.as_secs()),
    );
}

/// Nothing is under way: whoever is to vote votes.
fn is_at_rest(state: &ClusterState) -> bool {
    let learners = state.members.values().filter(|m| m.role == Role::Learner).count();
    let leaving = state.members.values().any(|m| m.role == Role::Leaving);
    !leaving && (learners == 0 || state.voters() >= MAX_VOTERS)
}

/// What all members show alike, with one leader; None when they don't.
fn agreed(world: &mut World) -> Option<ClusterState> {
    let state = world.state().clone();
    let [leader] = world.leaders()[..] else { return None };
    let shown: Option<Vec<_>> = state.members.keys().map(|id| world.status(id.get())).collect();
    let shown = shown?;
    let rows = |s: &pgraft_core::NodeStatus| -> Vec<_> {
        s.members.iter().map(|m| (m.node_id, m.address.clone(), m.role)).collect()
    };
    let first = shown.first()?;
    let alike = shown.iter().all(|s| {
        s.leader == Some(node(leader))
            && s.applied_index == first.applied_index
            && rows(s) == rows(first)
    });
    let as_applied = first.members.len() == state.members.len();
    (alike && as_applied).then_some(state)
}
