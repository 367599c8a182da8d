//! Postgres as the failover protocol meets it: servers whose WAL has records and timelines, that
//! stream it to each other, promote, crash and are rewound, and clients whose commits wait for the
//! standbys. The members' own code is the one that ships; what stands here is the part of the world
//! that it decides about.
//!
//! ```text
//!  client ─▶ backend ─ gate? ─▶ disk: WAL ──▶ stream: walsender ═ net ═ walreceiver ─▶ disk of a standby
//!               ▲ released by the walsender's names ◀─────────────────────────┘ how far it is on disk
//!  member ── orders ─▶ server: intake, promotion, names, looks ── the extension's `worker/server.rs`
//!         ── instance.json ─▶ manager: starts as a standby, rewinds, clones ── the instance manager
//! ```

pub mod backend;
pub mod client;
pub mod disk;
pub mod flushes;
pub mod liveness;
pub mod manager;
pub mod member;
pub mod run;
pub mod server;
pub mod session;
pub mod stream;
pub mod twophase;

use std::sync::Arc;
use std::time::Duration;

use pgraft_raft::PostgresControl;
use pgraft_raft::sim::Rules;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::client::SqlClient;
use self::disk::SimData;
use self::flushes::Flushes;
use self::manager::ManagedMember;
use self::member::StandIn;
use self::run::SimServerMode;
use self::server::{Manager, Servers, SimPostgres, Worker};
use self::stream::WalStream;
use crate::clock::Time;
use crate::net::{Net, millis};
use crate::note::{ClientAnswer, Note};
use crate::numbers::mix;

/// Clients that write and read.
const CLIENTS: u64 = 5;

/// All servers, and their clients.
pub struct Databases {
    /// By machine.
    pub servers: Servers,
    /// Since when which record is on whose disk.
    pub flushes: Flushes,
    /// Whether clients ask.
    pub busy: bool,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    streams: Vec<WalStream>,
    clients: Vec<SqlClient>,
    answers: Vec<(Time, u64, ClientAnswer)>,
    open: Vec<u32>,
    requests: u64,
    ids: u64,
    runs: i64,
    rng: SmallRng,
    rules: Rules,
    seed: u64,
}

impl Databases {
    /// None yet.
    pub fn new(seed: u64, rules: Rules) -> Self {
        Self {
            servers: Servers::new(),
            flushes: Flushes::default(),
            busy: false,
            acknowledged: 0,
            streams: Vec::new(),
            clients: (0..CLIENTS).map(|n| SqlClient::new(mix(seed, (3 << 32) + n))).collect(),
            answers: Vec::new(),
            open: Vec::new(),
            requests: 0,
            ids: 0,
            runs: 0,
            rng: SmallRng::seed_from_u64(mix(seed, 4 << 32)),
            rules,
            seed,
        }
    }

    /// The server of a machine.
    pub fn server(&mut self, number: u32) -> &mut SimPostgres {
        let (seed, rules) = (mix(self.seed, (5 << 32) + u64::from(number)), self.rules);
        self.servers
            .entry(number)
            .or_insert_with(|| SimPostgres::new(number, SmallRng::seed_from_u64(seed), rules))
    }

    /// A number that no run has had.
    pub const fn next_run(&mut self) -> i64 {
        self.runs += 1;
        self.runs
    }

    /// The machine has power, and its instance manager runs; whether it did not.
    pub fn power_on(&mut self, number: u32, now: Time) -> bool {
        let booted = self.rng.random_range(0..1_000_000_000);
        let server = self.server(number);
        let off = server.manager == Manager::Off;
        if off {
            server.manager = Manager::Waiting(now);
            server.booted = booted;
        }
        off
    }

    /// Postgres for a member that begins on that machine: in its server, or in its instance manager
    /// while no server can run. None where there is neither.
    pub fn postgres(&mut self, number: u32) -> Option<Arc<dyn PostgresControl>> {
        let server = self.servers.get_mut(&number)?;
        if server.run.is_none()
            && server.manager != Manager::Off
            && server.disk.data != SimData::Whole
        {
            return Some(Arc::new(StandIn::new(server.disk.data, server.booted)));
        }
        let worker = Worker::new(server.run.as_ref()?, server.booted);
        let desk = Arc::clone(&worker.desk) as Arc<dyn PostgresControl>;
        server.worker = Some(worker);
        Some(desk)
    }

    /// Everything goes on up to now. Gives what has happened, and the members whose servers are not
    /// what they were.
    pub fn step(
        &mut self,
        now: Time,
        net: &Net,
        member: &ManagedMember<'_>,
    ) -> (Vec<Note>, Vec<u32>) {
        let mut notes = Vec::new();
        self.manage(now, net, member, &mut notes);
        self.clients_go_on(now, &mut notes);
        self.stream(now, net, &mut notes);
        let news = self.servers_go_on(now, &mut notes);
        self.names_are_read(now, &notes);
        self.answers_leave(now, &notes);
        self.acknowledged += notes
            .iter()
            .filter(|n| matches!(n, Note::Hears { answer: Some(ClientAnswer::Done), .. }))
            .fold(0, |n, _| n + 1);
        (notes, news)
    }

    fn clients_go_on(&mut self, now: Time, notes: &mut Vec<Note>) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.answers).into_iter().partition(|(at, ..)| *at <= now);
        self.answers = later;
        for (_, request, answer) in due {
            self.clients.iter_mut().for_each(|c| c.hear(request, &answer, notes));
        }
        for client in self.clients.iter_mut().filter(|c| self.busy || c.waits()) {
            client.go_on(now, &mut self.servers, &mut self.requests, notes);
        }
    }

    fn stream(&mut self, now: Time, net: &Net, notes: &mut Vec<Note>) {
        let mut around = stream::StreamSurroundings {
            now,
            net,
            rules: self.rules,
            rng: &mut self.rng,
            flushes: &mut self.flushes,
            notes,
        };
        stream::begin(&mut self.servers, &mut self.streams, &mut around);
        stream::flow(&mut self.servers, &mut self.streams, &mut around);
    }

    fn servers_go_on(&mut self, now: Time, notes: &mut Vec<Note>) -> Vec<u32> {
        let mut news = Vec::new();
        let mut open = Vec::new();
        for (number, server) in &mut self.servers {
            if !server.frozen {
                let mine: Vec<&WalStream> =
                    self.streams.iter().filter(|s| s.sends_for(server)).collect();
                let receiver_lives = self.streams.iter().any(|s| s.receives_for(server));
                let senders_loaded = |change: u64| mine.iter().all(|s| s.has_loaded(change));
                let mut around = server::ServerSurroundings {
                    now,
                    ids: &mut self.ids,
                    receiver_lives,
                    senders_loaded: &senders_loaded,
                    notes: &mut *notes,
                };
                server.go_on(&mut around);
                if server.tend(&mut around) {
                    news.push(*number);
                }
                server.serve(now, self.rules, &mut self.ids, notes);
                if server.run.as_ref().is_some_and(|r| r.mode == SimServerMode::Primary) {
                    self.flushes.on_disk(*number, &server.disk, server.disk.flushed, now);
                }
            }
            notes.extend(server.opened(now));
            if server.is_open(now) {
                open.push(*number);
            }
        }
        if open != self.open {
            self.open.clone_from(&open);
            notes.push(Note::Open(open));
        }
        news
    }

    /// Each walsender reads the new names when it gets to it.
    fn names_are_read(&mut self, now: Time, notes: &[Note]) {
        for note in notes {
            let Note::NamesChange { node } = note else { continue };
            let Some(server) = self.servers.get(node) else { continue };
            for stream in self.streams.iter_mut().filter(|s| s.sends_for(server)) {
                let slow = if self.rng.random_range(0..8) == 0 { 600 } else { 20 };
                stream.names_change(
                    now + millis(
                        &mut self.rng,
                        Duration::from_millis(1),
                        Duration::from_millis(slow),
                    ),
                );
            }
        }
    }

    fn answers_leave(&mut self, now: Time, notes: &[Note]) {
        for note in notes {
            if let Note::Answers { request, answer } = note {
                let takes =
                    millis(&mut self.rng, Duration::from_millis(1), Duration::from_millis(5));
                self.answers.push((now + takes, *request, answer.clone()));
            }
        }
    }
}
