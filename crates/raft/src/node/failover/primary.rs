//! This member as the primary: its run, the answers to its heartbeats, and the gate, which opens and
//! closes under one lock with them. Written by the agent, the lease task and a switchover.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use pgraft_core::NodeId;
use pgraft_core::failover::History;
use pgraft_core::failover::lease::{BootTime, StartNumber, lease_until};
use pgraft_core::failover::switchover::successor;
use pgraft_core::status::WalPosition;
use tokio::sync::Notify;

use super::postgres::PostgresControl;
use crate::machine::watch;

/// A run of this member's Postgres as the primary of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryRun {
    pub epoch: u64,
    pub start: StartNumber,
    pub history: History,
    /// Whether the gate may be open while the lease stands.
    pub open: bool,
    /// Whether the primary waits for what its standbys confirm.
    pub unsettled: bool,
}

/// What the answers to the primary's heartbeats say.
#[derive(Debug, Default)]
struct HeartbeatReplies {
    /// For each voter, when the latest heartbeat that it acknowledged was sent.
    acknowledged: BTreeMap<NodeId, BootTime>,
    /// For each member, the end of the WAL that it took from this primary.
    confirmed: BTreeMap<NodeId, WalPosition>,
}

#[derive(Default)]
struct PrimaryState {
    run: Option<PrimaryRun>,
    /// The run that gives the primary term up: its gate stays closed.
    resigned: Option<(u64, StartNumber)>,
    replies: HeartbeatReplies,
}

/// This member as the primary. No method calls another role while it holds the lock.
pub struct PrimaryRole {
    postgres: Arc<dyn PostgresControl>,
    lease_ms: u64,
    state: Mutex<PrimaryState>,
    /// Wakes the lease task: there is a run, or answers are wanted soon.
    lease_task: Notify,
    /// The latest run of this server that has ended as the primary: the release task follows it.
    ended: watch::Sender<Option<(u64, StartNumber)>>,
}

impl PrimaryRole {
    /// Not the primary yet.
    pub fn new(postgres: Arc<dyn PostgresControl>, lease_ms: u64) -> Self {
        Self {
            postgres,
            lease_ms,
            state: Mutex::default(),
            lease_task: Notify::new(),
            ended: watch::channel(None).0,
        }
    }

    /// This server is being promoted: it asks the voters to wait, with its gate closed.
    pub fn promoting(&self, epoch: u64, start: StartNumber) {
        let run =
            PrimaryRun { epoch, start, history: History::default(), open: false, unsettled: true };
        if self.close(Some(run)) {
            self.lease_task.notify_one();
        }
    }

    /// This server is not the primary.
    pub fn leave(&self) {
        self.close(None);
    }

    /// Whether there was no run before.
    fn close(&self, run: Option<PrimaryRun>) -> bool {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.run, run);
        self.postgres.gate(None);
        before.is_none()
    }

    /// This server is the primary. A run that has resigned stays closed.
    pub fn set(&self, run: PrimaryRun) {
        let mut state = self.state.lock();
        let resigned = state.resigned == Some((run.epoch, run.start));
        let before = state.run.replace(PrimaryRun {
            open: run.open && !resigned,
            unsettled: run.unsettled || resigned,
            ..run
        });
        drop(state);
        if before.is_none() {
            self.lease_task.notify_one();
        }
    }

    /// The present run.
    pub fn run(&self) -> Option<PrimaryRun> {
        self.state.lock().run.clone()
    }

    /// Waits until the lease task has something to do.
    pub async fn lease_task_is_wanted(&self) {
        self.lease_task.notified().await;
    }

    /// Forgets the answers to another epoch's heartbeats.
    pub fn forget_replies(&self) {
        self.state.lock().replies = HeartbeatReplies::default();
    }

    /// A voter has acknowledged the heartbeat that was sent then.
    pub fn acknowledged(&self, by: NodeId, sent: BootTime) {
        let mut state = self.state.lock();
        let at = state.replies.acknowledged.entry(by).or_default();
        *at = (*at).max(sent);
    }

    /// A member has taken the WAL of this primary up to there, or does not follow it.
    pub fn confirmed(&self, by: NodeId, end: Option<WalPosition>) {
        let confirmed = &mut self.state.lock().replies.confirmed;
        match end {
            Some(end) => confirmed.insert(by, end),
            None => confirmed.remove(&by),
        };
    }

    /// The members that have taken the WAL of this primary up to that position.
    pub fn confirmed_by(&self, end: WalPosition) -> BTreeSet<NodeId> {
        let state = self.state.lock();
        let has = |taken: &WalPosition| taken.timeline == end.timeline && taken.lsn >= end.lsn;
        let confirmed = state.replies.confirmed.iter();
        confirmed.filter(|(_, taken)| has(taken)).map(|(id, _)| *id).collect()
    }

    /// The standby that can take over: it answered within a lease time, and has most of the WAL.
    pub fn successor(&self, voters: &BTreeSet<NodeId>) -> Option<NodeId> {
        let (state, now) = (self.state.lock(), self.postgres.now());
        let answered = state
            .replies
            .acknowledged
            .iter()
            .filter(|(_, sent)| sent.after(self.lease_ms) > now)
            .map(|(id, _)| *id)
            .collect();
        successor(&state.replies.confirmed, voters, &answered)
    }

    /// Moves the gate's deadline to the present end of the lease.
    pub fn extend(&self, voters: &BTreeSet<NodeId>) {
        // The lock is held until the gate is moved: a run that closes it for good takes the run away
        // first.
        let state = self.state.lock();
        if state.run.as_ref().is_some_and(|run| run.open)
            && let Some(until) = lease_until(&state.replies.acknowledged, voters, self.lease_ms)
        {
            self.postgres.gate(Some(until));
        }
    }

    /// When the lease of this primary ends, if it stands.
    pub fn lease_until(&self, voters: &BTreeSet<NodeId>) -> Option<BootTime> {
        let state = self.state.lock();
        state.run.as_ref()?;
        lease_until(&state.replies.acknowledged, voters, self.lease_ms)
            .filter(|until| *until > self.postgres.now())
    }

    /// Until when the gate is open, if it is.
    pub fn open_until(&self, voters: &BTreeSet<NodeId>) -> Option<BootTime> {
        let may_open = self.state.lock().run.as_ref().is_some_and(|run| run.open);
        self.lease_until(voters).filter(|_| may_open)
    }

    /// Whether that run gives the primary term up.
    pub fn has_resigned(&self, epoch: u64, start: StartNumber) -> bool {
        self.state.lock().resigned == Some((epoch, start))
    }

    /// Closes the gate of that epoch's open run, and keeps it closed.
    pub fn resign(&self, epoch: u64) -> Option<StartNumber> {
        let mut state = self.state.lock();
        let run = state.run.as_mut().filter(|run| run.epoch == epoch && run.open)?;
        (run.open, run.unsettled) = (false, true);
        let start = run.start;
        state.resigned = Some((epoch, start));
        self.postgres.gate(None);
        drop(state);
        self.lease_task.notify_one();
        Some(start)
    }

    /// Takes [`Self::resign`] back.
    pub fn stay(&self) {
        self.state.lock().resigned = None;
    }

    /// Ends the run that has resigned.
    pub fn retire(&self, epoch: u64, start: StartNumber) {
        self.state.lock().run = None;
        self.has_ended((epoch, start));
    }

    /// Ends the run, if there is one: nothing opens its gate again.
    pub fn close_for_good(&self) -> Option<(u64, StartNumber)> {
        let mut state = self.state.lock();
        let ended = state.run.take().map(|run| (run.epoch, run.start));
        if ended.is_some() {
            state.resigned = ended;
        }
        self.postgres.gate(None);
        ended
    }

    /// That run of this server was the primary, and has ended.
    pub fn has_ended(&self, run: (u64, StartNumber)) {
        self.ended.send_replace(Some(run));
    }

    /// Follows [`Self::has_ended`].
    pub fn ended(&self) -> watch::Receiver<Option<(u64, StartNumber)>> {
        self.ended.subscribe()
    }
}
