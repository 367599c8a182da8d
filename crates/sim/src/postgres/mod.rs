//! Postgres as the failover protocol meets it: servers whose WAL has records and timelines, that stream it to each other, promote, crash and
//! are rewound, and clients whose commits wait for the standbys. The members' own code is the one that ships; what stands here is the part of
//! the world that it decides about.
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
pub mod manager;
pub mod member;
pub mod server;
pub mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::failover::SyncConfig;
use pgraft_raft::Postgres;
use pgraft_raft::sim::Rules;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::backend::{Answer, Ask};
use self::client::Client;
use self::disk::{Data, Disk};
use self::manager::Member;
use self::member::Stand;
use self::server::{Manager, Mode, Server, Servers, Worker};
use self::stream::Stream;
use crate::clock::Time;
use crate::net::{Net, millis};
use crate::world::mix;

/// Clients that write and read.
const CLIENTS: u64 = 5;

/// What has happened to the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The postmaster starts the worker.
    WorkerBegins {
        /// Where.
        machine: u32,
    },
    /// The worker ends with its server.
    WorkerEnds {
        /// Where.
        machine: u32,
    },
    /// The member goes on in the instance manager, unless it does already: no server can run.
    StandsIn {
        /// Where.
        machine: u32,
    },
    /// The worker has its server end.
    Stops {
        /// Whose.
        node: u32,
    },
    /// A promotion has taken its number.
    Promotes {
        /// Whose.
        node: u32,
        /// The number.
        timeline: u32,
    },
    /// A promotion is complete.
    Promoted {
        /// Whose.
        node: u32,
        /// The number.
        timeline: u32,
        /// The end of the WAL then.
        upto: usize,
    },
    /// `synchronous_standby_names` are written.
    NamesChange {
        /// Where.
        node: u32,
    },
    /// The gate opens.
    GateOpens {
        /// Whose.
        node: u32,
        /// On this timeline.
        timeline: u32,
        /// The last record that was there when the server became a primary.
        began: u64,
        /// Whom commits wait for, when it opens for the first time and the worker has said so.
        config: Option<SyncConfig>,
        /// What a read shows.
        rows: BTreeSet<u32>,
    },
    /// These gates are open, and were not before.
    Open(Vec<u32>),
    /// A commit is confirmed: it shows from now on.
    Confirms {
        /// By this primary.
        node: u32,
        /// On this timeline.
        timeline: u32,
        /// The row.
        row: u32,
        /// Its record.
        record: u64,
        /// By these names; None where none are set.
        config: Option<SyncConfig>,
    },
    /// A standby may stream.
    Streams {
        /// From this server.
        node: u32,
        /// The standby.
        standby: u32,
        /// Where it has another record than that server, if it has.
        parted: Option<usize>,
    },
    /// A standby may not stream.
    Refuses {
        /// From this server.
        node: u32,
        /// The standby.
        standby: u32,
        /// In Postgres' words.
        why: &'static str,
    },
    /// A rewind begins.
    Rewinds {
        /// Whose.
        node: u32,
        /// To whose history.
        from: u32,
    },
    /// A rewind or a clone is done.
    Copied {
        /// Whose.
        node: u32,
        /// From.
        from: u32,
        /// What it changed.
        how: String,
    },
    /// A client asks.
    Asks {
        /// The number of the request.
        request: u64,
        /// What.
        ask: Ask,
        /// Whom.
        node: u32,
    },
    /// A session answers; the client hears it a little later.
    Answers {
        /// The number of the request.
        request: u64,
        /// What it says.
        answer: Answer,
    },
    /// A client hears what has become of it; None where it does not.
    Hears {
        /// The number of the request.
        request: u64,
        /// What it had asked.
        ask: Ask,
        /// What it hears.
        answer: Option<Answer>,
    },
}

/// Since when which record is on whose disk.
#[derive(Debug, Default)]
pub struct Flushes(BTreeMap<u64, BTreeMap<u32, Time>>);

impl Flushes {
    /// That server's WAL is on disk up to there.
    pub fn on_disk(&mut self, node: u32, disk: &Disk, upto: usize, now: Time) {
        // Who has a record has all before it.
        for record in disk.wal[..upto.min(disk.wal.len())].iter().rev() {
            let since = self.0.entry(record.id).or_default();
            if since.contains_key(&node) {
                break;
            }
            since.insert(node, now);
        }
    }

    /// When each of these had it on disk, the earliest first.
    pub fn of(&self, record: u64, nodes: impl Fn(u32) -> bool) -> Vec<Time> {
        let mut times: Vec<Time> = self.0.get(&record).into_iter().flatten().filter(|(n, _)| nodes(**n)).map(|(_, at)| *at).collect();
        times.sort_unstable();
        times
    }
}

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
    streams: Vec<Stream>,
    clients: Vec<Client>,
    answers: Vec<(Time, u64, Answer)>,
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
            clients: (0..CLIENTS).map(|n| Client::new(mix(seed, (3 << 32) + n))).collect(),
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
    pub fn server(&mut self, number: u32) -> &mut Server {
        let (seed, rules) = (mix(self.seed, (5 << 32) + u64::from(number)), self.rules);
        self.servers.entry(number).or_insert_with(|| Server::new(number, SmallRng::seed_from_u64(seed), rules))
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

    /// Postgres for a member that begins on that machine: in its server, or in its instance manager while no server can run. None where there
    /// is neither.
    pub fn postgres(&mut self, number: u32) -> Option<Arc<dyn Postgres>> {
        let server = self.servers.get_mut(&number)?;
        if server.run.is_none() && server.manager != Manager::Off && server.disk.data != Data::Whole {
            return Some(Arc::new(Stand::new(server.disk.data, server.booted)));
        }
        let worker = Worker::new(server.run.as_ref()?, server.booted);
        let desk = Arc::clone(&worker.desk) as Arc<dyn Postgres>;
        server.worker = Some(worker);
        Some(desk)
    }

    /// Everything goes on up to now. Gives what has happened, and the members whose servers are not what they were.
    pub fn step(&mut self, now: Time, net: &Net, member: &Member<'_>) -> (Vec<Note>, Vec<u32>) {
        let mut notes = Vec::new();
        self.manage(now, net, member, &mut notes);
        self.clients_go_on(now, &mut notes);
        self.stream(now, net, &mut notes);
        let news = self.servers_go_on(now, &mut notes);
        self.names_are_read(now, &notes);
        self.answers_leave(now, &notes);
        self.acknowledged += notes.iter().filter(|n| matches!(n, Note::Hears { answer: Some(Answer::Done), .. })).fold(0, |n, _| n + 1);
        (notes, news)
    }

    fn clients_go_on(&mut self, now: Time, notes: &mut Vec<Note>) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answers).into_iter().partition(|(at, ..)| *at <= now);
        self.answers = later;
        for (_, request, answer) in due {
            self.clients.iter_mut().for_each(|c| c.hear(request, &answer, notes));
        }
        for client in self.clients.iter_mut().filter(|c| self.busy || c.waits()) {
            client.go_on(now, &mut self.servers, &mut self.requests, notes);
        }
    }

    fn stream(&mut self, now: Time, net: &Net, notes: &mut Vec<Note>) {
        let mut around = stream::Around { now, net, rules: self.rules, rng: &mut self.rng, flushes: &mut self.flushes, notes };
        stream::begin(&mut self.servers, &mut self.streams, &mut around);
        stream::flow(&mut self.servers, &mut self.streams, &mut around);
    }

    fn servers_go_on(&mut self, now: Time, notes: &mut Vec<Note>) -> Vec<u32> {
        let mut news = Vec::new();
        let mut open = Vec::new();
        for (number, server) in &mut self.servers {
            if !server.frozen {
                let mine: Vec<&Stream> = self.streams.iter().filter(|s| s.sends_for(server)).collect();
                let receiver_lives = self.streams.iter().any(|s| s.receives_for(server));
                let senders_loaded = |change: u64| mine.iter().all(|s| s.has_loaded(change));
                let mut around =
                    server::Around { now, ids: &mut self.ids, receiver_lives, senders_loaded: &senders_loaded, notes: &mut *notes };
                server.go_on(&mut around);
                if server.tend(&mut around) {
                    news.push(*number);
                }
                server.serve(now, self.rules, &mut self.ids, notes);
                if server.run.as_ref().is_some_and(|r| r.mode == Mode::Primary) {
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
                stream.names_change(now + millis(&mut self.rng, Duration::from_millis(1), Duration::from_millis(slow)));
            }
        }
    }

    fn answers_leave(&mut self, now: Time, notes: &[Note]) {
        for note in notes {
            if let Note::Answers { request, answer } = note {
                let takes = millis(&mut self.rng, Duration::from_millis(1), Duration::from_millis(5));
                self.answers.push((now + takes, *request, answer.clone()));
            }
        }
    }
}
