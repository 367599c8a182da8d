//! Clients that add and remove nodes all the while, as an operator would: they retry, and often
//! don't know what has become of a call.

use std::time::Duration;

use pgraft_core::control::{Request, Response};
use pgraft_core::{NodeId, SqlState};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::clock::Time;
use crate::host::PendingAnswer;
use crate::invariants::Observation;
use crate::numbers::{mix, node};
use crate::world::World;

/// A call without an answer is given up after this; it may still come to something.
const TIMEOUT: Duration = Duration::from_secs(12);
/// Between two tries.
const INTERVAL: Duration = Duration::from_millis(150);
/// A client tries for so long, and leaves it at that.
const STAYS_WITH_IT: Duration = Duration::from_secs(25);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientWish {
    Add(u32),
    Remove(u32),
    Move(u32),
}

/// One client, with one wish at a time.
pub struct SimClient {
    name: char,
    rng: SmallRng,
    wish: Option<ClientWish>,
    since: Time,
    /// The call that is out, and since when.
    call: Option<(PendingAnswer, Time)>,
    next: Time,
    /// The last words of a refusal, so that the story has each once.
    heard: String,
}

impl SimClient {
    /// A client with nothing to do.
    pub fn new(seed: u64, name: char) -> Self {
        Self {
            name,
            rng: SmallRng::seed_from_u64(mix(seed, u64::from(name))),
            wish: None,
            since: Time::ZERO,
            call: None,
            next: Time::ZERO,
            heard: String::new(),
        }
    }

    /// Whether it has nothing to do.
    pub const fn is_idle(&self) -> bool {
        self.wish.is_none()
    }

    /// Wants a node in.
    pub fn add(&mut self, world: &mut World, number: u32) {
        self.begin(
            world,
            ClientWish::Add(number),
            format!("client {} wants node {number} in", self.name),
        );
    }

    /// Wants a node out.
    pub fn remove(&mut self, world: &mut World, number: u32) {
        self.begin(
            world,
            ClientWish::Remove(number),
            format!("client {} wants node {number} out", self.name),
        );
    }

    /// Tells the group where a node listens now.
    pub fn relocate(&mut self, world: &mut World, number: u32) {
        self.begin(
            world,
            ClientWish::Move(number),
            format!("client {} tells where node {number} is", self.name),
        );
    }

    fn begin(&mut self, world: &mut World, wish: ClientWish, words: String) {
        world.tell(words);
        self.wish = Some(wish);
        self.since = world.now();
        self.next = world.now();
        self.heard.clear();
    }

    /// Gives up what it is at.
    pub fn forget(&mut self) {
        self.wish = None;
        self.call = None;
    }

    /// Goes on with its wish.
    pub fn go_on(&mut self, world: &mut World) {
        let (Some(wish), now) = (self.wish, world.now()) else { return };
        if let Some((answer, since)) = &self.call {
            let heard = answer.lock().ok().and_then(|mut a| a.take());
            if heard.is_none() && now.saturating_sub(*since) < TIMEOUT {
                return;
            }
            self.call = None;
            self.next = now + INTERVAL;
            self.hear(world, wish, heard);
            return;
        }
        if now.saturating_sub(self.since) > STAYS_WITH_IT {
            world.tell(format!("client {} leaves it at that", self.name));
            self.wish = None;
        } else if now >= self.next {
            self.try_it(world, wish);
        }
    }

    fn try_it(&mut self, world: &mut World, wish: ClientWish) {
        self.next = world.now() + INTERVAL;
        let up: Vec<u32> = world.hosts.iter().filter(|(_, h)| h.is_up()).map(|(n, _)| *n).collect();
        if up.is_empty() {
            return;
        }
        // Mostly who is said to lead, and now and then anybody.
        let anybody = up[self.rng.random_range(0..up.len())];
        let said = up
            .iter()
            .find_map(|n| world.status(*n)?.leader.map(NodeId::get))
            .filter(|n| up.contains(n));
        let whom = if self.rng.random_range(0..5) == 0 { anybody } else { said.unwrap_or(anybody) };
        let request = match wish {
            ClientWish::Add(number) => world.add_request(number),
            ClientWish::Move(number) => world.move_request(number),
            ClientWish::Remove(number) => Request::RemoveNode { node_id: i64::from(number) },
        };
        if let Some(answer) = world.ask(whom, request) {
            match wish {
                ClientWish::Add(number) => world.see(&Observation::AddCalled(node(number))),
                ClientWish::Remove(number) => world.see(&Observation::RemoveCalled(node(number))),
                ClientWish::Move(_) => {}
            }
            self.call = Some((answer, world.now()));
        }
    }

    fn hear(&mut self, world: &mut World, wish: ClientWish, heard: Option<Response>) {
        match (wish, heard) {
            (ClientWish::Add(number), Some(Response::Done { .. })) => {
                world.tell(format!("client {} hears that node {number} is in", self.name));
                world.see(&Observation::AddAcknowledged(node(number)));
                self.wish = None;
            }
            (ClientWish::Remove(number), Some(Response::Done { .. })) => {
                world.tell(format!("client {} hears that node {number} is out", self.name));
                self.wish = None;
            }
            (ClientWish::Move(number), Some(Response::Done { .. })) => {
                world.tell(format!(
                    "client {} hears that the group knows where node {number} is",
                    self.name
                ));
                self.wish = None;
            }
            (wish, Some(Response::Refused { sqlstate, message, .. })) => {
                let certain = !matches!(
                    sqlstate,
                    SqlState::NO_QUORUM
                        | SqlState::CHANGE_NOT_COMPLETE
                        | SqlState::MEMBER_NOT_RUNNING
                );
                let for_good = certain
                    && !matches!(
                        sqlstate,
                        SqlState::NOT_LEADER
                            | SqlState::MEMBERSHIP_CHANGE_IN_PROGRESS
                            | SqlState::OBJECT_IN_USE
                            | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
                    );
                if let ClientWish::Add(number) = wish {
                    world.see(&Observation::AddRefused { node: node(number), certain });
                }
                if self.heard != message {
                    world.tell(format!("client {} hears: {message}", self.name));
                    self.heard = message;
                }
                if for_good {
                    self.wish = None;
                }
            }
            (_, None) => world.tell(format!("client {} hears nothing", self.name)),
            (_, Some(other)) => world.fail("an answer fits the question", format!("{other:?}")),
        }
    }
}
