//! What goes wrong, and when: chosen by the seed. Never more than a majority can bear for good (a
//! bootstrap node's disk, the disks of two members at a time), but any number of machines may be
//! away for a while.

use std::collections::BTreeSet;
use std::time::Duration;

use pgraft_core::NodeId;
use pgraft_core::control::Request;
use pgraft_core::failover::PrimaryTerm;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::clients::SimClient;
use crate::clock::Time;
use crate::net::{SimLink, millis};
use crate::numbers::{mix, node};
use crate::story::ids;
use crate::world::World;

/// The most members that clients ask for.
const MAX_NODES: usize = 7;
/// The fewest that they leave.
const FEWEST: usize = 3;
/// A call for a removal may still come to something for so long.
const REMOVAL_LINGERS: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy)]
enum Undo {
    Start(u32),
    Thaw(u32),
    Mend,
    FastDisk(u32),
    ThawDisk(u32),
}

/// The faults of one run, and its clients.
pub struct Chaos {
    rng: SmallRng,
    next: Time,
    undo: Vec<(Time, Undo)>,
    clients: [SimClient; 2],
    /// Members that have lost their disk.
    pub lost: BTreeSet<u32>,
    /// The number of the next new machine.
    pub next_machine: u32,
    /// Who was to be taken out, and since when.
    removals: Vec<(u32, Time)>,
    /// Whether removed ids are asked back in: what a positive control needs.
    pub reuse_ids: bool,
}

impl Chaos {
    /// Nothing has gone wrong yet; `next_machine` is the first number that no machine has.
    pub fn new(seed: u64, next_machine: u32) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(mix(seed, 1 << 32)),
            next: Time::ZERO,
            undo: Vec::new(),
            clients: [SimClient::new(seed, 'A'), SimClient::new(seed, 'B')],
            lost: BTreeSet::new(),
            next_machine,
            removals: Vec::new(),
            reuse_ids: false,
        }
    }

    /// Does what is due.
    pub fn go_on(&mut self, world: &mut World) {
        let now = world.now();
        for client in &mut self.clients {
            client.go_on(world);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.undo).into_iter().partition(|(at, _)| *at <= now);
        self.undo = later;
        for (_, undo) in due {
            self.undo_it(world, undo);
        }
        if now >= self.next && self.is_bearable(world) {
            // Servers take longer to come back to work: there must be some in between.
            let calm = world.databases.is_some() && self.rng.random_range(0..4) == 0;
            self.next = now + if calm { self.between(1500, 5000) } else { self.between(50, 900) };
            self.something(world);
        }
    }

    /// Whether those who are not lost for good are a majority.
    fn is_bearable(&self, world: &World) -> bool {
        let (voters, moved) = (world.voters(), world.moved());
        let is_there = |n: &&u32| !self.lost.contains(n) && !moved.contains(n);
        let left = voters.iter().filter(is_there).count();
        world.databases.is_none() || voters.is_empty() || left > voters.len() / 2
    }

    /// Takes every fault back, and lets the clients rest.
    pub fn end(&mut self, world: &mut World) {
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo_it(world, undo);
        }
        self.clients.iter_mut().for_each(SimClient::forget);
        world.heal();
    }

    fn undo_it(&mut self, world: &mut World, undo: Undo) {
        match undo {
            Undo::Start(number)
                if world.hosts.contains_key(&number)
                    && !world.is_on(number)
                    && !self.lost.contains(&number) =>
            {
                world.start(number);
            }
            Undo::Start(_) => {}
            Undo::Thaw(number) => world.thaw(number),
            Undo::Mend => world.heal(),
            Undo::ThawDisk(number) => world.freeze_disk(number, false),
            Undo::FastDisk(number) => world
                .machine(number)
                .machine
                .set_fsync(Duration::from_millis(1), Duration::from_millis(4)),
        }
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        millis(&mut self.rng, Duration::from_millis(least_ms), Duration::from_millis(most_ms))
    }

    fn pick(&mut self, from: &[u32]) -> Option<u32> {
        (!from.is_empty()).then(|| from[self.rng.random_range(0..from.len())])
    }

    /// One thing that the seed decides.
    fn something(&mut self, world: &mut World) {
        let up: Vec<u32> = world
            .hosts
            .iter()
            .filter(|(_, h)| h.is_up() && !h.is_frozen())
            .map(|(n, _)| *n)
            .collect();
        let Some(victim) = self.pick(&up) else { return };
        let later = world.now() + self.between(200, 4000);
        if world.databases.is_some() && self.rng.random_range(0..100) < 45 {
            return self.something_to_a_server(world, victim, &up, later);
        }
        match self.rng.random_range(0..100) {
            0..12 => {
                world.crash(victim);
                self.undo.push((later, Undo::Start(victim)));
            }
            12..18 => {
                world.kill(victim);
                self.undo.push((later, Undo::Start(victim)));
            }
            18..22 => self.crash_all(world, &up, later),
            22..30 => {
                world.freeze(victim);
                self.undo.push((later, Undo::Thaw(victim)));
            }
            30..40 => self.partition(world, later),
            40..48 => self.cut_one_way(world, victim, later),
            48..54 => self.slow_links(world, victim, later),
            54..60 => self.lose_messages(world, later),
            60..66 => {
                world
                    .machine(victim)
                    .machine
                    .set_fsync(Duration::from_millis(50), Duration::from_millis(400));
                world.tell(format!("node {victim} has a slow disk"));
                self.undo.push((later, Undo::FastDisk(victim)));
            }
            66..69 => {
                let off = i64::from(self.rng.random_range(-7200..7200)) * 1_000_000;
                let now = world.now();
                world.machine(victim).set_wall_clock(off, now);
                world.tell(format!(
                    "the wall clock of node {victim} jumps to {} s off",
                    off / 1_000_000
                ));
            }
            69..73 => self.lose_a_disk(world),
            73..75 => self.copy_a_disk(world, victim),
            75..79 => self.relocate(world, victim, later),
            _ => self.wish(world),
        }
    }

    /// One thing that happens to servers.
    fn something_to_a_server(&mut self, world: &mut World, victim: u32, up: &[u32], later: Time) {
        let primary = world.state().primary().map(NodeId::get).filter(|p| up.contains(p));
        // Mostly whoever matters.
        let whom = primary.filter(|_| self.rng.random_range(0..3) > 0).unwrap_or(victim);
        match self.rng.random_range(0..100) {
            0..18 => {
                let lingers = self.between(0, 400);
                world.kill_postmaster(whom, lingers);
            }
            18..24 => world.crash_server(whom),
            24..34 => self.stop_something(world, whom, later),
            34..41 => world.kill_worker(whom),
            41..50 => {
                world.freeze_worker(whom);
                self.undo.push((later, Undo::Thaw(whom)));
            }
            50..60 => {
                world.freeze(whom);
                self.undo.push((later, Undo::Thaw(whom)));
            }
            60..70 => {
                world.crash(whom);
                self.undo.push((later, Undo::Start(whom)));
            }
            70..78 => {
                world.partition(&[
                    vec![whom],
                    world.hosts.keys().copied().filter(|n| *n != whom).collect(),
                ]);
                self.undo.push((later, Undo::Mend));
            }
            _ => self.switch_over(world, up),
        }
    }

    /// A process of the server is stopped, for good; or its disk stands still.
    fn stop_something(&mut self, world: &mut World, whom: u32, later: Time) {
        match self.rng.random_range(0..10) {
            0..4 => world.stop_processes(whom, "postmaster", |stuck| stuck.postmaster = true),
            4..6 => world.stop_processes(whom, "checkpointer", |stuck| stuck.checkpointer = true),
            6 => world.stop_processes(whom, "WAL writer", |stuck| stuck.walwriter = true),
            // Before it takes writes nobody waits for them, and the barrier has no other witness.
            7..9 if world.server(whom).is_some_and(|s| s.is_open(world.now())) => {
                world.stop_processes(whom, "walsender", |stuck| stuck.senders = true);
            }
            _ => {
                world.freeze_disk(whom, true);
                let at = later + self.between(0, 4000);
                self.undo.push((at, Undo::ThawDisk(whom)));
            }
        }
    }

    fn switch_over(&mut self, world: &mut World, up: &[u32]) {
        let members: Vec<u32> = world.state().members.keys().map(|id| id.get()).collect();
        if let (Some(asked), Some(target)) = (self.pick(up), self.pick(&members)) {
            world.tell(format!("node {asked} is asked to have node {target} be the primary"));
            drop(world.ask(asked, Request::Switchover { target: i64::from(target) }));
        }
    }

    fn crash_all(&mut self, world: &mut World, up: &[u32], later: Time) {
        for number in up {
            world.crash(*number);
            let at = later + self.between(0, 1000);
            self.undo.push((at, Undo::Start(*number)));
        }
    }

    fn partition(&mut self, world: &mut World, later: Time) {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for number in world.hosts.keys() {
            if self.rng.random_range(0..2) == 0 { left.push(*number) } else { right.push(*number) }
        }
        if !left.is_empty() && !right.is_empty() {
            world.partition(&[left, right]);
            self.undo.push((later, Undo::Mend));
        }
    }

    fn cut_one_way(&mut self, world: &mut World, victim: u32, later: Time) {
        let inwards = self.rng.random_range(0..2) == 0;
        let others: Vec<u32> = world.hosts.keys().copied().filter(|n| *n != victim).collect();
        let all = self.rng.random_range(0..2) == 0;
        let whom = if all { others } else { self.pick(&others).into_iter().collect() };
        for other in &whom {
            let (from, to) = if inwards { (*other, victim) } else { (victim, *other) };
            world.net.set(from, to, world.now(), |link| link.cut = true);
        }
        let words = if inwards { "hears nothing from" } else { "is not heard by" };
        world.tell(format!("node {victim} {words} {}", ids(&whom)));
        self.undo.push((later, Undo::Mend));
    }

    fn slow_links(&mut self, world: &mut World, victim: u32, later: Time) {
        let slow = self.between(100, 900);
        let others: Vec<u32> = world.hosts.keys().copied().filter(|n| *n != victim).collect();
        for other in others {
            let change = |link: &mut SimLink| link.latency = (slow / 4, slow);
            world.net.set(victim, other, world.now(), change);
            world.net.set(other, victim, world.now(), change);
        }
        world.tell(format!("node {victim} is far away: up to {} ms", slow.as_millis()));
        self.undo.push((later, Undo::Mend));
    }

    fn lose_messages(&mut self, world: &mut World, later: Time) {
        let loss = self.rng.random_range(5..50);
        let all: Vec<u32> = world.hosts.keys().copied().collect();
        for from in &all {
            for to in all.iter().filter(|to| *to != from) {
                world.net.set(*from, *to, world.now(), |link| link.loss = loss);
            }
        }
        world.tell(format!("the network loses {loss} of 100 messages"));
        self.undo.push((later, Undo::Mend));
    }

    /// Nobody takes anybody out, nor does an earlier call that may still come to something.
    fn is_quiet(&self, world: &World) -> bool {
        let retired = &world.state().retired;
        let lingers = |(who, at): &(u32, Time)| {
            world.now().saturating_sub(*at) <= REMOVAL_LINGERS && !retired.contains(&node(*who))
        };
        !self.removals.iter().any(lingers) && self.clients.iter().all(SimClient::is_idle)
    }

    /// A member loses its disk for good, when the others can bear it. It may come back under its
    /// old id, which is of no use to it.
    fn lose_a_disk(&mut self, world: &mut World) {
        let state = world.state();
        let voters = world.voters();
        // What it had confirmed to an earlier primary, another one may have broken off rewinding to
        // this one: together that is two disks.
        let repaired = world.hosts.keys().any(|n| world.is_under_repair(*n))
            && !state.primary_term.as_ref().is_some_and(PrimaryTerm::is_settled);
        let bearable = voters.len() >= FEWEST
            && state.change_under_way().is_none()
            && world.moved().is_empty();
        if !self.is_quiet(world)
            || !bearable
            || repaired
            || self.lost.iter().any(|n| voters.contains(n))
        {
            return;
        }
        let Some(victim) = self.pick(&voters[1..]) else { return };
        world.crash(victim);
        world.wipe(victim);
        self.lost.insert(victim);
        if self.rng.random_range(0..3) > 0 {
            world.start(victim);
        }
    }

    /// Somebody starts a new node on a copy of a member's directory.
    fn copy_a_disk(&mut self, world: &mut World, from: u32) {
        let to = self.next_machine;
        self.next_machine += 1;
        world.machine(to);
        world.copy(from, to);
        world.start(to);
    }

    /// A member comes back on another port, and a client tells the group; but for that it would not
    /// be found.
    fn relocate(&mut self, world: &mut World, victim: u32, later: Time) {
        let Some(idle) = self.clients.iter().position(SimClient::is_idle) else { return };
        let members = &world.state().members;
        // A second member that nobody finds could be one too many.
        let found = world.moved().is_empty()
            && world.state().voters() >= FEWEST
            && self.is_quiet(world)
            && !self.lost.iter().any(|n| members.contains_key(&node(*n)));
        if !found || !members.contains_key(&node(victim)) || self.lost.contains(&victim) {
            return;
        }
        world.kill(victim);
        world.relocate(victim);
        self.undo.push((later, Undo::Start(victim)));
        self.clients[idle].relocate(world, victim);
    }

    /// A client that has nothing to do wants something.
    fn wish(&mut self, world: &mut World) {
        let Some(idle) = self.clients.iter().position(SimClient::is_idle) else { return };
        let members: Vec<u32> = world.state().members.keys().map(|id| id.get()).collect();
        let retired: Vec<u32> = world.state().retired.iter().map(|id| id.get()).collect();
        let lost: Vec<u32> = self.lost.iter().copied().filter(|n| members.contains(n)).collect();
        let more = members.len() < MAX_NODES
            && (members.len() <= FEWEST || self.rng.random_range(0..2) == 0);
        if let Some(gone) = self.pick(&lost) {
            self.removals.push((gone, world.now()));
            self.clients[idle].remove(world, gone);
        } else if more {
            let again = self.pick(&retired).filter(|_| self.reuse_ids);
            let newcomer = again.unwrap_or_else(|| {
                self.next_machine += 1;
                self.next_machine - 1
            });
            if let Some(again) = again {
                world.crash(again);
                world.wipe(again);
            }
            self.bring(world, newcomer);
            self.clients[idle].add(world, newcomer);
        } else if world.moved().is_empty() {
            let leaders = world.leaders();
            let stays = world.state().primary().map_or(1, NodeId::get);
            let leads: Vec<u32> =
                leaders.into_iter().filter(|n| *n != stays && members.contains(n)).collect();
            let others: Vec<u32> = members.into_iter().filter(|n| *n != stays).collect();
            // Now and then the leader is the one to go.
            let whom = if self.rng.random_range(0..3) == 0 { self.pick(&leads) } else { None };
            if let Some(whom) = whom.or_else(|| self.pick(&others)) {
                self.removals.push((whom, world.now()));
                self.clients[idle].remove(world, whom);
            }
        }
    }

    /// The newcomer's machine is started: before the call as a rule, or some time after it.
    fn bring(&mut self, world: &mut World, newcomer: u32) {
        world.machine(newcomer);
        if self.rng.random_range(0..4) > 0 {
            world.start(newcomer);
        } else {
            let later = world.now() + self.between(200, 8000);
            self.undo.push((later, Undo::Start(newcomer)));
        }
    }
}
