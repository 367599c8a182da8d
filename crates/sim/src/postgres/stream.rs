//! WAL on its way: a walsender, a walreceiver, and the connection between them.
//!
//! The walsender sends what its server has flushed, by positions and timelines alone, as Postgres
//! does; the walreceiver writes, flushes a little later and says how far. Told to end, it lingers,
//! and behind a closed intake it takes and confirms nothing. Each walsender releases commits by its
//! own copy of the names.

use std::collections::VecDeque;
use std::time::Duration;

use pgraft_raft::sim::Rules;
use rand::RngExt;
use rand::rngs::SmallRng;

use super::disk::{WalRecord, lsn};
use super::flushes::Flushes;
use super::run::{LoadedNames, SimServerMode};
use super::server::{Servers, SimPostgres};
use crate::clock::Time;
use crate::net::{Net, millis};
use crate::note::Note;
use crate::numbers::node;

/// `wal_receiver_timeout`, `wal_sender_timeout`
const TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(1);
/// `wal_retrieve_retry_interval`
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Records in one message at most.
const MAX_IN_FLIGHT: usize = 50;

/// One way of a connection: in order, and as late as the link has it.
struct SimWire<T> {
    from: u32,
    to: u32,
    queue: VecDeque<(Option<Time>, T)>,
    last: Time,
}

impl<T> SimWire<T> {
    const fn new(from: u32, to: u32) -> Self {
        Self { from, to, queue: VecDeque::new(), last: Time::ZERO }
    }

    fn send(&mut self, what: T) {
        self.queue.push_back((None, what));
    }

    /// What has arrived by now.
    fn take(&mut self, net: &Net, now: Time) -> Vec<T> {
        for (at, _) in self.queue.iter_mut().filter(|(at, _)| at.is_none()) {
            let Some(takes) = net.travel(self.from, self.to, now) else { break };
            self.last = self.last.max(now + takes);
            *at = Some(self.last);
        }
        let arrived =
            self.queue.iter().take_while(|(at, _)| at.is_some_and(|at| at <= now)).count();
        self.queue.drain(..arrived).map(|(_, what)| what).collect()
    }
}

enum Down {
    Records(usize, Vec<WalRecord>),
    Alive,
    End,
}

/// A process of a run: the machine, the run, the round of its processes.
type StreamProcess = (u32, i64, u32);

/// A walreceiver, and the walsender that it talks to once it has found one.
pub struct WalStream {
    receiver: StreamProcess,
    /// The number that the intake had when this receiver was let in.
    generation: u64,
    to: u32,
    /// ... as long as it writes this one.
    timeline: u32,
    connects: Option<Time>,
    since: Time,
    sender: Option<StreamProcess>,
    receiver_lives: bool,
    /// Told to end; it does then.
    ends: Option<Time>,
    sent: usize,
    acked: usize,
    loaded: LoadedNames,
    down: SimWire<Down>,
    up: SimWire<usize>,
    /// Written, on disk then.
    flushes: Option<(Time, usize)>,
    said: usize,
    next_word: Time,
    /// When the walsender has heard of the walreceiver, and the other way round.
    heard: (Time, Time),
    next_alive: Time,
}

/// What a step needs.
pub struct StreamSurroundings<'a> {
    /// What time it is.
    pub now: Time,
    /// Between the machines.
    pub net: &'a Net,
    /// What is in force.
    pub rules: Rules,
    /// Chance.
    pub rng: &'a mut SmallRng,
    /// Which record is on whose disk, since when.
    pub flushes: &'a mut Flushes,
    /// What has happened.
    pub notes: &'a mut Vec<Note>,
}

fn process(server: &SimPostgres) -> Option<StreamProcess> {
    server.run.as_ref().map(|run| (server.number, run.id, run.round))
}

impl WalStream {
    /// Whether its walreceiver lives and is that server's.
    pub fn receives_for(&self, server: &SimPostgres) -> bool {
        self.receiver_lives && process(server) == Some(self.receiver)
    }

    /// Whether its walsender lives and is that server's.
    pub fn sends_for(&self, server: &SimPostgres) -> bool {
        self.sender.is_some() && process(server) == self.sender
    }

    /// Whether its walsender goes by the names of that change.
    pub fn has_loaded(&self, change: u64) -> bool {
        self.loaded.is_of(change)
    }

    /// The names have changed.
    pub fn names_change(&mut self, due: Time) {
        self.loaded.due = Some(due);
    }

    /// Whose it is.
    pub const fn standby(&self) -> u32 {
        self.receiver.0
    }
}

/// Each standby that has no walreceiver and wants one gets one.
pub fn begin(
    servers: &mut Servers,
    streams: &mut Vec<WalStream>,
    around: &mut StreamSurroundings<'_>,
) {
    let now = around.now;
    for server in servers.values_mut().filter(|s| !s.frozen) {
        if streams.iter().any(|s| s.receives_for(server)) {
            continue;
        }
        let (number, asks) = (server.number, server.disk.next_timeline());
        let takes = server.between(10, 30);
        let Some(run) = server
            .run
            .as_mut()
            .filter(|r| r.mode == SimServerMode::Standby && r.next_receiver <= now && r.accepts())
        else {
            continue;
        };
        run.has_received = true;
        run.received_timeline = asks;
        run.next_receiver = now + RETRY_DELAY;
        match run.target.filter(|_| run.takes()) {
            None => run.refusals += 1,
            Some((to, timeline)) => streams.push(WalStream {
                receiver: (number, run.id, run.round),
                generation: run.generation,
                to,
                timeline,
                connects: Some(now + takes),
                since: now,
                sender: None,
                receiver_lives: true,
                ends: None,
                sent: 0,
                acked: 0,
                loaded: LoadedNames::default(),
                down: SimWire::new(to, number),
                up: SimWire::new(number, to),
                flushes: None,
                said: 0,
                next_word: now,
                heard: (now, now),
                next_alive: now,
            }),
        }
    }
}

/// All streams go on.
pub fn flow(
    servers: &mut Servers,
    streams: &mut Vec<WalStream>,
    around: &mut StreamSurroundings<'_>,
) {
    for n in 0..streams.len() {
        let mut stream = streams.remove(n);
        connect(&mut stream, servers, streams, around);
        send(&mut stream, servers, around);
        receive(&mut stream, servers, around);
        let confirmed = hear(&mut stream, servers, around);
        streams.insert(n, stream);
        if confirmed && let Some((primary, ..)) = streams[n].sender {
            release(&streams[n], streams, servers, primary, around);
        }
    }
    streams.retain(|s| s.receiver_lives || s.sender.is_some());
}

/// The receiver looks for the server that it was sent to.
fn connect(
    stream: &mut WalStream,
    servers: &mut Servers,
    others: &[WalStream],
    around: &mut StreamSurroundings<'_>,
) {
    let now = around.now;
    let number = stream.receiver.0;
    let Some(at) = stream.connects.filter(|at| *at <= now && stream.receiver_lives) else { return };
    if servers.get(&number).is_none_or(|s| s.frozen || process(s) != Some(stream.receiver)) {
        return;
    }
    // Nobody answers: it tries on, until it gives up.
    if around.net.travel(number, stream.to, now).is_none()
        || around.net.travel(stream.to, number, now).is_none()
    {
        stream.connects = Some(at + RETRY_DELAY * 3);
        stream.receiver_lives = now.saturating_sub(stream.since) < TIMEOUT;
        return;
    }
    stream.connects = None;
    let refused = attach(stream, servers, others, around);
    if let Err(why) = refused {
        stream.receiver_lives = false;
        around.notes.push(Note::Refuses { node: stream.to, standby: number, why });
    }
}

/// START_REPLICATION, by the position and the timeline of the standby alone.
fn attach(
    stream: &mut WalStream,
    servers: &mut Servers,
    others: &[WalStream],
    around: &mut StreamSurroundings<'_>,
) -> Result<(), &'static str> {
    let number = stream.receiver.0;
    let (asks, position) = {
        let server = servers.get(&number).ok_or("no server")?;
        (server.run.as_ref().map_or(1, |r| r.received_timeline), server.disk.wal.len())
    };
    let sender = servers.get(&stream.to).ok_or("no server")?;
    let run = sender
        .run
        .as_ref()
        .filter(|r| r.accepts() && !sender.frozen)
        .ok_or("takes no connections")?;
    if others.iter().any(|s| s.standby() == number && s.sends_for(sender)) {
        return Err("its slot is in use");
    }
    let wanted = run.mode == SimServerMode::Primary
        && (run.timeline == stream.timeline || !around.rules.timelines);
    if around.rules.compares && !wanted {
        return Err("is no primary on the timeline that is followed");
    }
    let timeline =
        if run.mode == SimServerMode::Primary { run.timeline } else { sender.disk.timeline() };
    let history = sender.disk.history(timeline);
    if asks > timeline {
        return Err("its timeline is behind");
    }
    let learned: Vec<_> = sender
        .disk
        .histories
        .iter()
        .filter(|(n, _)| **n > asks && **n <= timeline)
        .map(|(n, l)| (*n, l.clone()))
        .collect();
    let continues = asks == timeline
        || history.left.iter().any(|l| l.timeline == asks && lsn(position) <= l.lsn);
    let there = position <= sender.disk.flushed;
    let diverged = sender.disk.wal[..sender.disk.flushed]
        .iter()
        .zip(&servers[&number].disk.wal)
        .position(|(a, b)| a.id != b.id);
    stream.loaded = run.postmaster.clone();
    let found = process(sender);
    if let Some(server) = servers.get_mut(&number) {
        server.disk.histories.extend(learned);
    }
    if !continues
        && history.left.iter().any(|l| l.timeline == asks)
        && around.rng.random_range(0..4) > 0
    {
        // It asks from the beginning of a segment on, and that is in the history: it says how far
        // it has replayed, gets what was before the timelines diverged, and ends. Measured with
        // Postgres 17.
        around.notes.push(Note::Streams {
            node: stream.to,
            standby: number,
            diverged: diverged.or(Some(position)),
        });
        stream.sender = found;
        (stream.sent, stream.acked, stream.heard) = (position, 0, (around.now, around.now));
        stream.up.send(position);
        stream.ends = Some(around.now);
        return Ok(());
    }
    if !continues {
        return Err("its WAL is not in this server's history");
    }
    if !there {
        return Err("its WAL is ahead");
    }
    around.notes.push(Note::Streams { node: stream.to, standby: number, diverged });
    stream.sender = found;
    (stream.sent, stream.acked, stream.heard) = (position, 0, (around.now, around.now));
    if let Some(run) = servers.get_mut(&number).and_then(|s| s.run.as_mut()) {
        // Where a timeline ends, the next one begins.
        let at =
            history.left.iter().find(|l| lsn(position) < l.lsn).map_or(timeline, |l| l.timeline);
        run.received_timeline = run.received_timeline.max(at);
    }
    Ok(())
}

/// The walsender's part.
fn send(stream: &mut WalStream, servers: &mut Servers, around: &mut StreamSurroundings<'_>) {
    let now = around.now;
    let Some(process_of) = stream.sender else { return };
    let Some(server) = servers.get_mut(&process_of.0) else { return };
    if process(server) != Some(process_of) {
        // Its machine says goodbye, if it has power.
        stream.sender = None;
        stream.down.send(Down::End);
        return;
    }
    let stuck = server.run.as_ref().is_some_and(|r| r.stuck.senders);
    if server.frozen || stuck {
        return;
    }
    if stream.loaded.due.is_some_and(|due| due <= now) {
        stream.loaded = LoadedNames { names: server.disk.names.clone(), due: None };
    }
    let upto = server.disk.flushed.min(stream.sent + MAX_IN_FLIGHT);
    if upto > stream.sent {
        stream.down.send(Down::Records(stream.sent, server.disk.wal[stream.sent..upto].to_vec()));
        stream.sent = upto;
    } else if stream.next_alive <= now {
        stream.next_alive = now + KEEPALIVE;
        stream.down.send(Down::Alive);
    }
    if now.saturating_sub(stream.heard.0) > TIMEOUT {
        stream.sender = None;
    }
}

/// The walreceiver's part.
fn receive(stream: &mut WalStream, servers: &mut Servers, around: &mut StreamSurroundings<'_>) {
    let now = around.now;
    if !stream.receiver_lives {
        return;
    }
    let Some(server) = servers.get_mut(&stream.receiver.0) else { return };
    if process(server) != Some(stream.receiver) {
        stream.receiver_lives = false;
        return;
    }
    if server.frozen || server.disk_stands {
        return;
    }
    // One that goes on all the same is to do harm.
    let lingers =
        if around.rules.intake { server.delay(30, 600) } else { server.between(300, 4000) };
    let flushing = server.delay(8, 120);
    let Some(run) = server.run.as_mut() else { return };
    let wanted = run.generation == stream.generation;
    if run.mode != SimServerMode::Standby {
        stream.ends = Some(now); // a promotion waits until it is gone
    } else if !wanted {
        stream.ends.get_or_insert(now + lingers);
    }
    let rejected = (!wanted && around.rules.intake) || run.mode != SimServerMode::Standby;
    for message in stream.down.take(around.net, now) {
        stream.heard.1 = now;
        match message {
            Down::End => stream.ends = Some(now),
            Down::Records(from, records) if !rejected => {
                let has = server.disk.wal.len();
                if from <= has {
                    server.disk.wal.extend(records.iter().skip(has - from));
                    let timeline = server.disk.timeline();
                    if let Some(run) = &mut server.run {
                        run.received_timeline = run.received_timeline.max(timeline);
                    }
                    if stream.flushes.is_none() {
                        stream.flushes = Some((now + flushing, server.disk.wal.len()));
                    }
                }
            }
            Down::Records(..) | Down::Alive => {}
        }
    }
    if stream.connects.is_none() && stream.heard.1 + TIMEOUT <= now {
        stream.ends.get_or_insert(now);
    }
    let ends = stream.ends.is_some_and(|at| at <= now);
    if let Some((_, upto)) = stream.flushes.take_if(|(at, _)| *at <= now || ends) {
        // Whoever ends flushes all that it has written.
        let upto = if ends { server.disk.wal.len() } else { upto };
        around.flushes.on_disk(server.number, &server.disk, upto, now);
        server.disk.flushed = server.disk.flushed.max(upto);
        if server.disk.flushed < server.disk.wal.len() {
            stream.flushes = Some((now + flushing, server.disk.wal.len()));
        }
    }
    if stream.connects.is_none()
        && !rejected
        && !ends
        && (server.disk.flushed > stream.said || stream.next_word <= now)
    {
        (stream.said, stream.next_word) = (server.disk.flushed, now + KEEPALIVE);
        stream.up.send(stream.said);
    }
    if ends {
        stream.receiver_lives = false;
        if let Some(run) = &mut server.run {
            run.next_receiver = now + millis(around.rng, Duration::from_millis(5), RETRY_DELAY);
        }
    }
}

/// What the walsender hears; whether it is news.
fn hear(stream: &mut WalStream, servers: &Servers, around: &mut StreamSurroundings<'_>) -> bool {
    let Some(process_of) = stream.sender else { return false };
    if servers
        .get(&process_of.0)
        .is_none_or(|s| s.frozen || s.run.as_ref().is_some_and(|r| r.stuck.senders))
    {
        return false;
    }
    if !stream.receiver_lives && stream.up.queue.is_empty() {
        // The receiver has said goodbye, unless nobody hears it.
        let heard = around.net.travel(stream.receiver.0, process_of.0, around.now).is_some();
        if heard {
            stream.sender = None;
        }
        return false;
    }
    let mut news = false;
    for upto in stream.up.take(around.net, around.now) {
        stream.heard.0 = around.now;
        news = true;
        stream.acked = stream.acked.max(upto);
    }
    news
}

/// `SyncRepReleaseWaiters` of one walsender, by its own copy of the names.
fn release(
    stream: &WalStream,
    streams: &[WalStream],
    servers: &mut Servers,
    primary: u32,
    around: &mut StreamSurroundings<'_>,
) {
    let Some(config) = stream.loaded.config() else { return };
    let Some(server) = servers
        .get_mut(&primary)
        .filter(|s| s.run.as_ref().is_some_and(|r| r.mode == SimServerMode::Primary))
    else {
        return;
    };
    let counts = |s: &WalStream| {
        s.loaded.config().is_some_and(|own| own.standbys.contains(&node(s.standby())))
    };
    if !counts(stream) {
        return;
    }
    let mut acked: Vec<usize> =
        streams.iter().filter(|s| s.sends_for(server) && counts(s)).map(|s| s.acked).collect();
    acked.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(upto) = acked.get(config.required - 1) {
        server.release(*upto, config, around.notes);
    }
}
