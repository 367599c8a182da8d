//! The network between the machines: connections as TCP gives them, over links that can be cut one
//! way or both, be slow, or lose packets.
//!
//! Bytes of one connection arrive in order or not at all. What is lost is sent again, later; what
//! is held by a cut link arrives after it is mended, or the connection breaks then. A process that
//! ends closes its connections, a machine without power says nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pgraft_core::Address;
use pgraft_raft::{BoxStream, Listener, Network};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use crate::clock::{self, Time};

/// No message is faster. Machines are run one after the other in steps of this length: so none can
/// miss what another sends it meanwhile.
pub const FASTEST: Duration = Duration::from_millis(5);
/// The slowest message of a healthy link.
const SLOWEST: Duration = Duration::from_millis(9);
/// A message is lost so often in a row at most: 3 s.
const MOST_LOSSES: u32 = 4;
/// Between two tries to reach a machine that does not answer.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimLink {
    /// Nothing gets through.
    pub cut: bool,
    /// How long a message takes at least and at most.
    pub latency: (Duration, Duration),
    /// How many messages of a hundred are lost and must be sent again.
    pub loss: u32,
}

impl Default for SimLink {
    fn default() -> Self {
        Self { cut: false, latency: (FASTEST, SLOWEST), loss: 0 }
    }
}

/// The network.
#[derive(Clone)]
pub struct Net(Arc<Mutex<SimNetState>>);

struct SimNetState {
    rng: SmallRng,
    links: BTreeMap<(u32, u32), SimLink>,
    listeners: BTreeMap<u32, (u16, mpsc::UnboundedSender<Arrival>)>,
    /// The machine whose process is ending.
    closing: Option<u32>,
    /// Machines without power.
    dark: BTreeSet<u32>,
    pipes: Vec<Weak<Pipe>>,
    /// Of all that was ever sent, when, from whom, to whom.
    fingerprint: u64,
}

/// A connection for a listener: when, what, and from where.
type Arrival = (Time, BoxStream, String);

/// One direction of a connection.
struct Pipe {
    from: u32,
    to: u32,
    state: Mutex<PipeState>,
}

#[derive(Default)]
struct PipeState {
    /// Bytes with the time of their arrival, None while a cut link holds them. No bytes: the end.
    queue: VecDeque<(Option<Time>, Vec<u8>)>,
    last: Time,
    broken: bool,
    reader_gone: bool,
    reader: Option<Waker>,
}

impl Net {
    /// A healthy network.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SimNetState {
            rng: SmallRng::seed_from_u64(seed),
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            closing: None,
            dark: BTreeSet::new(),
            pipes: Vec::new(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
        })))
    }

    /// The network as one machine has it.
    pub fn of(&self, machine: u32) -> Arc<dyn Network> {
        Arc::new(Interface { net: self.clone(), machine })
    }

    /// Changes the link from one machine to another, in that direction.
    pub fn set(&self, from: u32, to: u32, now: Time, change: impl FnOnce(&mut SimLink)) {
        let mut inner = self.lock();
        let link = inner.links.entry((from, to)).or_default();
        let was_cut = link.cut;
        change(link);
        if was_cut && !link.cut {
            inner.release(from, to, now);
        }
    }

    /// All links are healthy again.
    pub fn mend(&self, now: Time) {
        let all: Vec<_> = self.lock().links.keys().copied().collect();
        for (from, to) in all {
            self.set(from, to, now, |link| *link = SimLink::default());
        }
    }

    /// The machine has power, or has none. With it come back, its old connections are unknown to
    /// it.
    pub fn power(&self, machine: u32, on: bool) {
        let mut inner = self.lock();
        if on {
            inner.dark.remove(&machine);
            for pipe in inner
                .pipes
                .iter()
                .filter_map(Weak::upgrade)
                .filter(|p| p.from == machine || p.to == machine)
            {
                pipe.break_down();
            }
        } else {
            inner.dark.insert(machine);
        }
        inner.listeners.remove(&machine);
    }

    /// A process ends, by this: its connections are closed in the order in which they were made.
    /// (Tokio drops the tasks of a runtime in an order that depends on how many the process has had
    /// before.)
    pub fn close(&self, machine: u32, now: Time, end: impl FnOnce()) {
        self.lock().closing = Some(machine);
        end();
        let mut inner = self.lock();
        inner.closing = None;
        if !inner.dark.contains(&machine) {
            let pipes: Vec<Arc<Pipe>> = inner
                .pipes
                .iter()
                .filter_map(Weak::upgrade)
                .filter(|p| p.from == machine)
                .collect();
            for pipe in pipes {
                inner.send(&pipe, now, Vec::new());
            }
        }
    }

    /// How long what is sent now from one machine to another takes; None while nothing gets
    /// through. For what is no connection of a member's.
    pub fn travel(&self, from: u32, to: u32, now: Time) -> Option<Duration> {
        let mut inner = self.lock();
        if inner.is_silent(from, to) {
            return None;
        }
        inner.count(now, from, to, &[]);
        Some(inner.latency(from, to))
    }

    /// Whether anything gets from one machine to another.
    pub fn reaches(&self, from: u32, to: u32) -> bool {
        !self.lock().is_silent(from, to)
    }

    /// A number that stands for all that was sent.
    pub fn fingerprint(&self) -> u64 {
        self.lock().fingerprint
    }

    fn lock(&self) -> MutexGuard<'_, SimNetState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of two pipes; gives each side its end.
    fn connection(&self, dialler: u32, listener: u32) -> (SimStreamEnd, SimStreamEnd) {
        let pipe = |from, to| Arc::new(Pipe { from, to, state: Mutex::default() });
        let (there, back) = (pipe(dialler, listener), pipe(listener, dialler));
        let mut inner = self.lock();
        inner.pipes.retain(|p| p.strong_count() > 0);
        inner.pipes.extend([Arc::downgrade(&there), Arc::downgrade(&back)]);
        let end = |read: &Arc<Pipe>, write: &Arc<Pipe>| SimStreamEnd {
            net: self.clone(),
            read: Arc::clone(read),
            write: Arc::clone(write),
            until: None,
        };
        (end(&back, &there), end(&there, &back))
    }
}

impl SimNetState {
    fn link(&self, from: u32, to: u32) -> SimLink {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    fn is_silent(&self, from: u32, to: u32) -> bool {
        self.link(from, to).cut || self.dark.contains(&from) || self.dark.contains(&to)
    }

    /// Takes it into the fingerprint.
    fn count(&mut self, now: Time, from: u32, to: u32, bytes: &[u8]) {
        for byte in
            bytes.iter().copied().chain(now.as_millis().to_le_bytes()).chain([low(from), low(to)])
        {
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn latency(&mut self, from: u32, to: u32) -> Duration {
        let SimLink { latency: (least, most), loss, .. } = self.link(from, to);
        let mut takes = millis(&mut self.rng, least, most);
        let mut again = Duration::from_millis(200);
        for _ in 0..MOST_LOSSES {
            if self.rng.random_range(0..100) >= loss {
                break;
            }
            takes += again;
            again *= 2;
        }
        takes
    }

    fn send(&mut self, pipe: &Pipe, now: Time, bytes: Vec<u8>) {
        self.count(now, pipe.from, pipe.to, &bytes);
        let latency = self.latency(pipe.from, pipe.to);
        let cut = self.link(pipe.from, pipe.to).cut;
        let mut state = pipe.lock();
        let held = cut || state.queue.back().is_some_and(|(at, _)| at.is_none());
        let at = (now + latency).max(state.last);
        if !held {
            state.last = at;
        }
        state.queue.push_back(((!held).then_some(at), bytes));
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// What a cut link has held arrives when it is sent again, unless the connection has broken
    /// meanwhile.
    fn release(&mut self, from: u32, to: u32, now: Time) {
        let pipes: Vec<Arc<Pipe>> = self
            .pipes
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|p| (p.from, p.to) == (from, to))
            .collect();
        for pipe in pipes {
            if !pipe.lock().queue.iter().any(|(at, _)| at.is_none()) {
                continue;
            }
            if self.rng.random_range(0..3) == 0 {
                pipe.break_down();
                continue;
            }
            let at = now + millis(&mut self.rng, FASTEST, Duration::from_millis(1200));
            let mut state = pipe.lock();
            let at = at.max(state.last);
            state.last = at;
            for (arrives, _) in state.queue.iter_mut().filter(|(arrives, _)| arrives.is_none()) {
                *arrives = Some(at);
            }
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn break_down(&self) {
        let mut state = self.lock();
        state.broken = true;
        state.queue.clear();
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

/// A whole number of milliseconds between two durations: what Tokio's timers can tell apart.
pub fn millis(rng: &mut SmallRng, least: Duration, most: Duration) -> Duration {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rng.random_range(ms(least)..=ms(most).max(ms(least))))
}

fn low(machine: u32) -> u8 {
    machine.to_le_bytes()[0]
}

/// The name of a machine, as its address has it.
pub fn host(machine: u32) -> String {
    format!("node-{machine}")
}

/// The machine of that name.
pub fn machine(host: &str) -> io::Result<u32> {
    let number = host.strip_prefix("node-").and_then(|n| n.parse().ok());
    number.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no machine is called {host}"))
    })
}

struct Interface {
    net: Net,
    machine: u32,
}

impl Network for Interface {
    fn listen<'a>(&'a self, at: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let (tx, rx) = mpsc::unbounded_channel();
            self.net.lock().listeners.insert(self.machine, (at.port(), tx));
            Ok(Box::new(Accepting(rx)) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect<'a>(&'a self, to: &'a Address) -> BoxFuture<'a, io::Result<BoxStream>> {
        async move {
            let (to, port) = (machine(to.host())?, to.port());
            loop {
                let (takes, silent) = {
                    let mut inner = self.net.lock();
                    let takes = inner.latency(self.machine, to) + inner.latency(to, self.machine);
                    let cut = inner.link(self.machine, to).cut || inner.link(to, self.machine).cut;
                    (takes, cut || inner.dark.contains(&to))
                };
                if silent {
                    sleep(TRY_AGAIN).await;
                    continue;
                }
                sleep(takes).await;
                break;
            }
            let listener = self
                .net
                .lock()
                .listeners
                .get(&to)
                .filter(|(at, _)| *at == port)
                .map(|(_, l)| l.clone());
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (mine, theirs) = self.net.connection(self.machine, to);
            let arrives = now()? + self.net.lock().latency(self.machine, to);
            let heard = listener.send((arrives, Box::new(theirs), host(self.machine))).is_ok();
            if heard {
                Ok(Box::new(mine) as BoxStream)
            } else {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
        .boxed()
    }

    fn knows<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move { machine(host).map(drop).map_err(|e| e.to_string()) }.boxed()
    }
}

struct Accepting(mpsc::UnboundedReceiver<Arrival>);

impl Listener for Accepting {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        async move {
            let Some((arrives, stream, from)) = self.0.recv().await else {
                return std::future::pending().await;
            };
            sleep(arrives.saturating_sub(now()?)).await;
            Ok((stream, from))
        }
        .boxed()
    }
}

fn now() -> io::Result<Time> {
    clock::here().ok_or_else(|| io::Error::other("nothing is sent from outside the machines"))
}

/// One side of a connection.
struct SimStreamEnd {
    net: Net,
    read: Arc<Pipe>,
    write: Arc<Pipe>,
    /// Wakes the reader when the next bytes arrive.
    until: Option<(Time, Pin<Box<Sleep>>)>,
}

impl AsyncRead for SimStreamEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let now = now()?;
        let this = &mut *self;
        loop {
            let mut state = this.read.lock();
            if state.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let arrives = match state.queue.front_mut() {
                Some((Some(at), bytes)) if *at <= now => {
                    let taken = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes[..taken]);
                    if taken == bytes.len() && taken > 0 {
                        state.queue.pop_front();
                    } else {
                        bytes.drain(..taken);
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((Some(at), _)) => *at,
                _ => {
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            };
            // The connection may break before that.
            state.reader = Some(cx.waker().clone());
            drop(state);
            if this.until.as_ref().is_none_or(|(at, _)| *at != arrives) {
                this.until = Some((arrives, Box::pin(sleep(arrives.saturating_sub(now)))));
            }
            if let Some((_, until)) = &mut this.until {
                std::task::ready!(until.as_mut().poll(cx));
                this.until = None;
            }
        }
    }
}

impl AsyncWrite for SimStreamEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let now = now()?;
        {
            let state = self.write.lock();
            if state.broken || state.reader_gone {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        if !bytes.is_empty() {
            self.net.lock().send(&self.write, now, bytes.to_vec());
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStreamEnd {
    fn drop(&mut self) {
        let mut inner = self.net.lock();
        // Without power nobody says goodbye.
        if !inner.dark.contains(&self.write.from) {
            self.read.lock().reader_gone = true;
            if let Some(now) = clock::here().filter(|_| inner.closing != Some(self.write.from)) {
                inner.send(&self.write, now, Vec::new());
            }
        }
    }
}
