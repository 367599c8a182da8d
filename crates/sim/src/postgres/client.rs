//! Clients that write rows of their own and read all rows, through whichever node, and don't always
//! hear what has become of it.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::run::SimServerMode;
use super::server::Servers;
use super::session::Backend;
use crate::clock::Time;
use crate::net::millis;
use crate::note::{Ask, ClientAnswer, Note};

/// Then a client asks somebody else.
const TIMEOUT: Duration = Duration::from_millis(700);

/// One client, with one request at a time.
pub struct SqlClient {
    rng: SmallRng,
    pending: Option<(u64, Ask, Time)>,
    next: Time,
}

impl SqlClient {
    /// With nothing to do yet.
    pub fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), pending: None, next: Time::ZERO }
    }

    /// Asks the next thing, or gives up the last; `count` numbers the requests.
    pub fn go_on(
        &mut self,
        now: Time,
        servers: &mut Servers,
        count: &mut u64,
        notes: &mut Vec<Note>,
    ) {
        if let Some((request, ask, since)) = self.pending {
            if now.saturating_sub(since) >= TIMEOUT {
                self.pending = None;
                notes.push(Note::Hears { request, ask, answer: None });
            }
            return;
        }
        if now < self.next {
            return;
        }
        *count += 1;
        let request = *count;
        let ask = match u32::try_from(request) {
            Ok(row) if self.rng.random_range(0..3) > 0 => Ask::Write(row),
            _ => Ask::Read,
        };
        let takes = millis(&mut self.rng, Duration::from_millis(1), Duration::from_millis(5));
        self.next =
            now + millis(&mut self.rng, Duration::from_millis(5), Duration::from_millis(120));
        let Some(whom) = self.choose(servers) else { return };
        let Some(run) = servers.get_mut(&whom).and_then(|s| s.run.as_mut()).filter(|r| r.accepts())
        else {
            return;
        };
        notes.push(Note::Asks { request, ask, node: whom });
        run.backends.push(Backend::new(request, ask, now + takes));
        self.pending = Some((request, ask, now));
    }

    /// Mostly a primary, and now and then anybody.
    fn choose(&mut self, servers: &Servers) -> Option<u32> {
        let all: Vec<u32> = servers.keys().copied().collect();
        let is_primary =
            |n: &&u32| servers[*n].run.as_ref().is_some_and(|r| r.mode == SimServerMode::Primary);
        let primaries: Vec<u32> = all.iter().filter(is_primary).copied().collect();
        let from =
            if primaries.is_empty() || self.rng.random_range(0..8) == 0 { all } else { primaries };
        (!from.is_empty()).then(|| from[self.rng.random_range(0..from.len())])
    }

    /// The answer has come.
    pub fn hear(&mut self, to: u64, answer: &ClientAnswer, notes: &mut Vec<Note>) {
        if let Some((request, ask, _)) = self.pending.take_if(|(request, ..)| *request == to) {
            notes.push(Note::Hears { request, ask, answer: Some(answer.clone()) });
        }
    }

    /// Whether it waits for an answer.
    pub const fn waits(&self) -> bool {
        self.pending.is_some()
    }
}
