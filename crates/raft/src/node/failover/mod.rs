//! Failover: carries out what `pgraft_core::failover` decides, on this member's Postgres and over
//! the network.
//!
//! | task | what it does | who decides |
//! |---|---|---|
//! | agent | this member's own Postgres: recruit, report, follow, promote; as the primary: names, barrier, gate | `node`, `primary` |
//! | lease | as the primary: heartbeats to every voter, and the gate's deadline | `lease` |
//! | lead | on the Raft leader: asks the voters, recruits, appoints | `leader` |
//! | release | after a restart: tells every voter that the last run of this Postgres has ended | – |

mod agent;
mod durable;
mod lead;
mod lease;
mod release;
mod switchover;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use pgraft_core::failover::lease::{
    BootTime, Heartbeat, HeartbeatContext, StartNumber, Voter, lease_until,
};
use pgraft_core::failover::node::Intake;
use pgraft_core::failover::{History, Phase, PrimaryTerm, Report, SyncConfig};
use pgraft_core::status::{FailoverStatus, WalPosition};
use pgraft_core::{Address, NodeId};
use tokio::sync::Notify;

use self::durable::Durable;
use super::NodeShared;
use crate::identity::Identity;
use crate::machine;
use crate::transport::{FailoverEnd, VoterReply};
use crate::types::{Endpoint, node_id, raft_id};
use futures::future::BoxFuture;
use pgraft_core::Refusal;

pub use agent::run as agent;
pub use durable::FILE_NAME as PROMISES_FILE;
pub use lead::run as lead;
pub use lease::run as lease;
pub use release::run as release;

/// This member's Postgres as the protocol sees and steers it. Called from the runtime's threads:
/// nothing here waits.
pub trait PostgresControl: Send + Sync {
    /// The host's boot-time clock.
    fn now(&self) -> BootTime;
    /// What the server is doing, as it was last seen; None before it was looked at.
    fn observed(&self) -> Option<ServerState>;
    /// Why there is no server to look at: its data directory is being rewound or cloned.
    fn repair(&self) -> Option<ServerRepair> {
        None
    }
    /// Asks for a look now: the last one may be a while old.
    fn refresh(&self) {}
    /// What it is to do. The latest order counts, and is carried out again and again until what is
    /// seen fits it; `hurry` asks for closer looks.
    fn direct(&self, direct: ServerDirective, hurry: bool);
    /// Opens the gate until then, or closes it. At once, whatever else is under way.
    fn gate(&self, until: Option<BootTime>);
}

/// A data directory that no server can run on. The member goes on without one: it votes, and takes
/// part in nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRepair {
    /// The epoch in which its WAL was found to have diverged from the primary's, when it is for
    /// that.
    pub diverged_in: Option<u64>,
}

/// One look at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// Which run of the server it is: another postmaster, another number.
    pub run: i64,
    /// Whether it takes connections: before that its files may be half of something.
    pub consistent: bool,
    /// Whether it is in recovery.
    pub standby: bool,
    /// The end of its WAL: written as a primary, received or replayed as a standby.
    pub end: WalPosition,
    /// As a standby: where its WAL comes from.
    pub intake: Intake,
    /// The highest timeline that a promotion was begun to here.
    pub newest_timeline: u32,
    /// As a primary: what its WAL continues.
    pub history: History,
    /// As a primary: the change whose names it has, and whether every process has loaded them.
    pub names: Option<(u64, bool)>,
}

/// What the server is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerDirective {
    /// Take no WAL from anybody.
    Close,
    /// Take WAL from that node, as long as it is a primary on that timeline.
    Follow(NodeId, Address, u32),
    /// Become the primary on that timeline, and wait for these standbys from the first moment on:
    /// names of that change.
    Promote(u32, u64, SyncConfig),
    /// Wait for these standbys: `synchronous_standby_names` of that change.
    Names(u64, SyncConfig),
    /// End, every process of it.
    Stop,
}

/// What this member's Postgres does as the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PrimaryRun {
    epoch: u64,
    start: StartNumber,
    history: History,
    /// Whether the gate may be open while the lease stands.
    open: bool,
    /// Whether something waits for the standbys' word.
    unsettled: bool,
}

impl PrimaryRun {
    /// Of a server that is being promoted.
    fn promoted_soon(epoch: u64, start: StartNumber) -> Self {
        Self { epoch, start, history: History::default(), open: false, unsettled: true }
    }
}

/// What a voter's answers to the primary's heartbeats have brought.
#[derive(Debug, Default)]
struct HeartbeatReplies {
    /// For each voter when the latest heartbeat that it acknowledged was sent.
    acks: BTreeMap<NodeId, BootTime>,
    /// For each the end of the WAL that it took from this primary.
    confirmed: BTreeMap<NodeId, WalPosition>,
}

/// What the tasks share.
pub struct Failover {
    pub postgres: Arc<dyn PostgresControl>,
    lease_ms: u64,
    voter: Mutex<Voter>,
    durable: Mutex<Durable>,
    report: Mutex<Option<Report>>,
    primary_run: Mutex<Option<PrimaryRun>>,
    answers: Mutex<HeartbeatReplies>,
    /// The history of the primary of that epoch, as its heartbeats tell it.
    heard: Mutex<Option<(u64, History)>>,
    /// The latest primary that this voter knows of: the epoch and its timeline.
    knows: Mutex<Option<(u64, u32)>>,
    text: Mutex<FailoverText>,
    /// Whose history this server's WAL has diverged from is not what it was.
    rewind_changed: Notify,
    /// Something that a step may depend on has changed.
    changed: Notify,
    /// As the leader: what the recruits have reported.
    reports: Mutex<BTreeMap<NodeId, Report>>,
    /// This member is the primary, or is about to.
    primary_began: Notify,
    /// The standbys' word is waited for from now on.
    fast_polling: Notify,
    /// A voter is free, or may be: the leader should ask.
    ask: Notify,
    /// Who is to be the primary of that epoch, if it has as much WAL as anybody.
    preferred: Mutex<Option<(u64, NodeId)>>,
    /// The primary term that this primary gives up: its gate stays closed.
    resigned: Mutex<Option<(u64, StartNumber)>>,
    /// The run before the present one, where it was the primary.
    released_run: Mutex<Option<(u64, StartNumber)>>,
    /// A run of the primary has ended, by its own word.
    pub end_reported: Notify,
    /// The last run of this server is to be released.
    ended: Notify,
}

/// For people, and for the instance manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct FailoverText {
    step: String,
    waits_for: BTreeSet<NodeId>,
    rewind: Option<NodeId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Failover {
    /// Reads what this member has promised.
    pub fn open(
        dir: &Path,
        identity: &mut Identity,
        postgres: Arc<dyn PostgresControl>,
        lease: Duration,
    ) -> io::Result<Self> {
        let durable = Durable::open(dir, identity)?;
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let voter =
            Voter::started(durable.epoch, postgres.now(), if durable.fresh { 0 } else { lease_ms });
        Ok(Self {
            postgres,
            lease_ms,
            voter: Mutex::new(voter),
            durable: Mutex::new(durable),
            report: Mutex::default(),
            primary_run: Mutex::default(),
            answers: Mutex::default(),
            reports: Mutex::default(),
            heard: Mutex::default(),
            preferred: Mutex::default(),
            resigned: Mutex::default(),
            knows: Mutex::default(),
            text: Mutex::default(),
            rewind_changed: Notify::new(),
            released_run: Mutex::default(),
            changed: Notify::new(),
            primary_began: Notify::new(),
            fast_polling: Notify::new(),
            ask: Notify::new(),
            end_reported: Notify::new(),
            ended: Notify::new(),
        })
    }

    /// The server is not what it was.
    pub fn poke(&self) {
        self.changed.notify_one();
    }

    /// Takes notice of a new primary, and has patience with it.
    fn learn(&self, primary_term: Option<&PrimaryTerm>) -> Option<(u64, u32)> {
        let mut knows = lock(&self.knows);
        if let Some(primary_term) = primary_term
            .filter(|r| r.phase == Phase::Steady && *knows != Some((r.epoch, r.timeline)))
        {
            let mut voter = lock(&self.voter);
            if voter.epoch() == primary_term.epoch {
                voter.learned_of(primary_term.epoch, self.postgres.now(), self.lease_ms);
                *knows = Some((primary_term.epoch, primary_term.timeline));
            }
        }
        *knows
    }

    fn rewinds(&self, text: &mut FailoverText, to: Option<NodeId>) {
        if std::mem::replace(&mut text.rewind, to) != to {
            self.rewind_changed.notify_one();
        }
    }

    /// Waits until [`Self::rewind`] says something else.
    pub async fn rewind_changed(&self) {
        self.rewind_changed.notified().await;
    }

    /// As the leader: what the recruits have reported.
    pub fn reports(&self) -> BTreeMap<NodeId, Report> {
        lock(&self.reports).clone()
    }

    /// Whose history this server's WAL has diverged from.
    pub fn rewind(&self) -> Option<NodeId> {
        lock(&self.text).rewind
    }

    /// For how much longer the lease of this primary stands, by those voters.
    fn lease_left(&self, voters: &BTreeSet<NodeId>) -> Option<BootTime> {
        lock(&self.primary_run).as_ref()?;
        lease_until(&lock(&self.answers).acks, voters, self.lease_ms)
            .filter(|until| *until > self.postgres.now())
    }

    /// Whether the run in which the primary of that epoch was the primary is over.
    pub fn primary_run_ended_in(&self, epoch: u64) -> bool {
        let voter = lock(&self.voter);
        voter.epoch() == epoch && voter.primary_run_ended()
    }

    /// Whether this primary's gate is open, by those voters.
    pub fn gate_is_open(&self, voters: &BTreeSet<NodeId>) -> bool {
        lock(&self.primary_run).as_ref().is_some_and(|r| r.open)
            && self.lease_left(voters).is_some()
    }

    /// What the status says of it.
    pub fn status(
        &self,
        primary_term: Option<&PrimaryTerm>,
        last: Option<pgraft_core::failover::LastFailover>,
        voters: &BTreeSet<NodeId>,
    ) -> FailoverStatus {
        let text = lock(&self.text).clone();
        let open = lock(&self.primary_run).as_ref().is_some_and(|r| r.open);
        let until = self.lease_left(voters).filter(|_| open);
        FailoverStatus {
            phase: primary_term.map_or(Phase::Steady, |r| r.phase),
            timeline: primary_term.map_or(0, |r| r.timeline),
            step: text.step,
            gate_ms: until.map(|u| u.0.saturating_sub(self.postgres.now().0)),
            waits_for: text.waits_for.into_iter().collect(),
            sync_standbys: primary_term
                .and_then(PrimaryTerm::target)
                .map(|t| t.standbys.iter().copied().collect())
                .unwrap_or_default(),
            sync_required: primary_term.and_then(PrimaryTerm::target).map_or(0, |t| t.required),
            last,
        }
    }
}

impl NodeShared {
    /// The voters of the last membership in the log, and its index.
    fn voters_in_log(&self) -> (BTreeSet<NodeId>, u64) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        (
            membership.voter_ids().filter_map(node_id).collect(),
            membership.log_id().as_ref().map_or(0, |id| id.index),
        )
    }

    /// Where the Raft members of these nodes are, but this one's.
    fn endpoints(&self, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Endpoint> {
        let applied = self.applied.borrow();
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let of = |id: &NodeId| {
            let told = applied.cluster.members.get(id).map(|m| Endpoint::from(&m.address));
            told.or_else(|| metrics.membership_config.membership().get_node(&raft_id(*id)).cloned())
        };
        nodes
            .iter()
            .filter(|id| **id != self.settings.node_id)
            .filter_map(|id| Some((*id, of(id)?)))
            .collect()
    }
}

impl FailoverEnd for NodeShared {
    fn hear(
        &self,
        from: NodeId,
        heartbeat: &Heartbeat,
        history: History,
        lease_ms: u64,
    ) -> (Result<(), String>, Option<WalPosition>) {
        let Some(failover) = &self.failover else {
            return (Err("pgraft.failover is off on this node".into()), None);
        };
        let applied = self.applied.borrow().clone();
        let Some(primary_term) = &applied.cluster.primary_term else {
            return (Err("this node is in no cluster yet".into()), None);
        };
        // This answer is as old as the last look; the next one, soon after where the primary is in
        // a hurry, will be fresh.
        failover.postgres.refresh();
        let (voters, index) = self.voters_in_log();
        let carried = {
            let mut voter = lock(&failover.voter);
            let votes_by = voters.contains(&self.settings.node_id).then_some(index);
            let context = HeartbeatContext {
                primary_term,
                votes_by,
                now: failover.postgres.now(),
                lease_ms: failover.lease_ms.max(lease_ms),
            };
            voter.hear(heartbeat, context).map_err(|rejected| rejected.to_string())
        };
        let present = heartbeat.epoch == primary_term.epoch
            && primary_term.phase == Phase::Steady
            && primary_term.primary == from;
        // One that is only on its way to its timeline has no history yet.
        if present && (history.timeline == primary_term.timeline || !machine::gives_timelines()) {
            let mut heard = lock(&failover.heard);
            let news = Some((heartbeat.epoch, history));
            if *heard != news {
                *heard = news;
                failover.poke();
            }
        }
        let confirmed = failover.postgres.observed().filter(|l| {
            present
                && l.standby
                && l.consistent
                && l.intake == Intake::Open { from, timeline: primary_term.timeline }
        });
        (carried, confirmed.map(|l| l.end))
    }

    /// Answers the leader.
    fn voter_reply(&self) -> Option<VoterReply> {
        let failover = self.failover.as_ref()?;
        let knows = failover.learn(self.applied.borrow().cluster.primary_term.as_ref());
        let voter = lock(&failover.voter);
        let report = *lock(&failover.report);
        let now = failover.postgres.now();
        Some(VoterReply {
            epoch: voter.epoch(),
            knows,
            free: voter.is_free(now),
            released: voter.primary_run_ended(),
            just_started: voter.has_just_started(now),
            report,
        })
    }

    /// Hears that a run of the primary has ended.
    fn released(&self, from: NodeId, epoch: u64, start: StartNumber) {
        let Some(failover) = &self.failover else { return };
        if self.applied.borrow().cluster.primary() != Some(from) {
            return; // a member speaks for its own server
        }
        lock(&failover.voter).release(epoch, start);
        failover.end_reported.notify_one();
        failover.ask.notify_one();
        failover.poke();
    }

    fn switchover(&self, target: NodeId) -> BoxFuture<'_, Result<Option<String>, Refusal>> {
        Box::pin(self.switch_over(i64::from(target.get())))
    }

    fn give_up(&self, epoch: u64, target: NodeId) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.step_down(epoch, target))
    }
}
