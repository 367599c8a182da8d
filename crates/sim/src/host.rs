//! One machine of the simulation and the member on it: a Tokio runtime of its own, whose time
//! stands still until the simulation lets it run. A crash drops the runtime, and with it every task
//! of the member, openraft's included.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use pgraft_core::control::{Request, Response};
use pgraft_core::{Address, NodeId, NodeStatus};
use pgraft_raft::sim::{Crash, Machine};
use pgraft_raft::{Hooks, Node, PostgresControl, Protection, RaftSettings};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::{self, Time};
use crate::net::{Net, host};

/// As the settings' defaults are.
const HEARTBEAT: Duration = Duration::from_millis(200);
const ELECTION: Duration = Duration::from_secs(1);

/// Short, so that newcomers that never come are given up within a run.
const JOIN_TIMEOUT: Duration = Duration::from_secs(6);
/// Few enough that a node that was down needs one.
const SNAPSHOT_EVERY: u64 = 15;
/// The port that a machine listens on until it moves.
pub const FIRST_PORT: u16 = 7001;

type Asker = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

type Poker = Arc<dyn Fn() + Send + Sync>;

/// The answer to a question, once it is there.
pub type PendingAnswer = Arc<Mutex<Option<Response>>>;

/// How a member came to its end on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It did not start; whether a later try may go better.
    NotStarted {
        /// In its own words.
        why: String,
        /// Whether a later try may go better.
        temporary: bool,
    },
    /// It ran, and stopped.
    Stopped(String),
}

/// What the member says of itself.
#[derive(Default)]
struct Board {
    asker: Option<Asker>,
    poker: Option<Poker>,
    status: Option<NodeStatus>,
    ended: Option<Ended>,
    leaves: Arc<Notify>,
}

struct RunningMember {
    runtime: Runtime,
    born: (Instant, Time),
    /// Since when its clock stands still.
    frozen: Option<Time>,
}

/// A machine, with a member on it or without.
pub struct SimHost {
    /// Its number, which its address has too.
    pub number: u32,
    /// `pgraft.node_id` of the member on it.
    pub node: u32,
    /// The port that it listens on from its next start on.
    pub port: u16,
    /// Its disk, chance and wall clock.
    pub machine: Arc<Machine>,
    /// `pgraft.lease_timeout`, where its member has a server.
    pub lease: Duration,
    /// How far its wall clock is off.
    pub wall_clock_us: i64,
    running: Option<RunningMember>,
    board: Arc<Mutex<Board>>,
}

impl SimHost {
    /// A machine that is off.
    pub fn new(number: u32, node: u32, machine: Arc<Machine>, lease: Duration) -> Self {
        Self {
            number,
            node,
            port: FIRST_PORT,
            machine,
            lease,
            wall_clock_us: 0,
            running: None,
            board: Arc::default(),
        }
    }

    /// Whether a member runs on it, frozen or not.
    pub const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Whether its clock stands still.
    pub fn is_frozen(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.frozen.is_some())
    }

    /// Starts the member, with a Postgres or without.
    pub fn start(
        &mut self,
        now: Time,
        net: &Net,
        postgres: Option<Arc<dyn PostgresControl>>,
    ) -> Result<(), String> {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|e| e.to_string())?;
        let born = (runtime.block_on(async { Instant::now() }), now);
        self.board = Arc::default();
        net.power(self.number, true);
        let at =
            Address::new(&host(self.number), i64::from(self.port)).map_err(|e| e.to_string())?;
        let settings = RaftSettings {
            node_id: NodeId::new(i64::from(self.node)).map_err(|e| e.to_string())?,
            listen: at.clone(),
            advertise: at.clone(),
            data_dir: "/raft".into(),
            heartbeat_interval: HEARTBEAT,
            election_timeout: ELECTION,
            postgres: at,
            zone: String::new(),
            protection: Protection::TrustedNetwork,
            join_timeout: Some(JOIN_TIMEOUT),
            lease_timeout: postgres.as_ref().map(|_| self.lease),
            snapshot_every: SNAPSHOT_EVERY,
        };
        let (network, machine, board) =
            (net.of(self.number), Arc::clone(&self.machine), Arc::clone(&self.board));
        let wall =
            self.wall_clock_us.saturating_add(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        let _detached = runtime.spawn(async move {
            machine.set_wall_clock(wall);
            let published = Arc::clone(&board);
            let server = postgres.clone();
            let hooks = Hooks {
                wal: Arc::new(move || {
                    server
                        .as_ref()?
                        .observed()
                        .map(|look| pgraft_core::status::WalProgress::from(look.end))
                }),
                postgres,
                publish: Box::new(move |status| lock(&published).status = Some(status.clone())),
            };
            let ended = match Node::start_on(settings, hooks, network).await {
                Ok(mut node) => {
                    lock(&board).asker = Some(Arc::new(node.asker()));
                    lock(&board).poker = Some(Arc::new(node.poker()));
                    let leaves = Arc::clone(&lock(&board).leaves);
                    let failed = tokio::select! {
                        biased; // in no random order: a simulation repeats itself
                        why = node.failed() => Some(why),
                        () = leaves.notified() => None,
                    };
                    match failed {
                        Some(why) => Ended::Stopped(why),
                        None => return node.leave(true).await,
                    }
                }
                Err(error) => {
                    Ended::NotStarted { why: error.to_string(), temporary: error.is_temporary() }
                }
            };
            lock(&board).ended = Some(ended);
        });
        self.running = Some(RunningMember { runtime, born, frozen: None });
        Ok(())
    }

    /// Runs the member up to this time.
    pub fn run(&mut self, until: Time) {
        let Some(RunningMember { runtime, born, frozen: None }) = &self.running else { return };
        let (_machine, _clock) = (self.machine.enter(), clock::enter(*born));
        let at = born.0 + until.saturating_sub(born.1);
        runtime.block_on(async { tokio::time::sleep_until(at).await });
    }

    /// Its clock stands still from now on, and nothing moves.
    pub fn freeze(&mut self, now: Time) {
        if let Some(running) = &mut self.running {
            running.frozen.get_or_insert(now);
        }
    }

    /// It goes on, and its clock jumps to the present.
    pub fn thaw(&mut self, now: Time) {
        let Some(running) = &mut self.running else { return };
        let Some(since) = running.frozen.take() else { return };
        let (_machine, _clock) = (self.machine.enter(), clock::enter(running.born));
        running.runtime.block_on(async { tokio::time::advance(now.saturating_sub(since)).await });
    }

    /// Sets the wall clock.
    pub fn set_wall_clock(&mut self, off_us: i64, now: Time) {
        self.wall_clock_us = off_us;
        if let Some(RunningMember { runtime, born, .. }) = &self.running {
            let (_machine, _clock) = (self.machine.enter(), clock::enter(*born));
            let wall = off_us.saturating_add(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
            runtime.block_on(async { self.machine.set_wall_clock(wall) });
        }
    }

    /// The process ends; what it has written stays.
    pub fn kill(&mut self, now: Time, net: &Net) {
        if let Some(RunningMember { runtime, born, .. }) = self.running.take() {
            let (_machine, _clock) = (self.machine.enter(), clock::enter(born));
            net.close(self.number, now, || drop(runtime));
        }
        self.board = Arc::default();
    }

    /// The power goes; what was not synced may be lost.
    pub fn crash(&mut self, now: Time, net: &Net) -> Crash {
        net.power(self.number, false);
        self.kill(now, net);
        self.machine.crash()
    }

    /// Asks the member; None when there is none to ask.
    pub fn ask(&self, request: Request) -> Option<PendingAnswer> {
        let running = self.running.as_ref()?;
        let asked = lock(&self.board).asker.clone()?(request);
        let answer = PendingAnswer::default();
        let told = Arc::clone(&answer);
        let _detached = running.runtime.spawn(async move {
            let response = asked.await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        });
        Some(answer)
    }

    /// The member's server is not what it was at the last look.
    pub fn poke(&self) {
        let poker = lock(&self.board).poker.clone();
        if let Some(poker) = poker.filter(|_| self.running.is_some()) {
            poker();
        }
    }

    /// The member sees its server end, and has a moment before its process does.
    pub fn orphan(&self) {
        lock(&self.board).leaves.notify_one();
    }

    /// What the member has published last.
    pub fn status(&self) -> Option<NodeStatus> {
        lock(&self.board).status.clone()
    }

    /// Whether it has come to an end on its own; told once.
    pub fn ended(&self) -> Option<Ended> {
        lock(&self.board).ended.take()
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
