//! What this member is to the primary and the Raft leader as a voter: its promise, its report, and
//! the primary that it knows of. Written by the agent and by what comes over the network.

use parking_lot::Mutex;
use pgraft_core::failover::lease::{
    BootTime, Heartbeat, HeartbeatContext, HeartbeatRejected, StartNumber, Voter,
};
use pgraft_core::failover::{History, Phase, PrimaryTerm, Report};

use crate::machine::watch;
use crate::transport::VoterReply;

struct VoterState {
    promise: Voter,
    /// The latest primary: its epoch and timeline.
    primary: Option<(u64, u32)>,
    /// The history of the primary of that epoch, from its heartbeats.
    history: Option<(u64, History)>,
    report: Option<Report>,
}

/// This member as a voter. No method calls another role while it holds the lock.
pub struct VoterRole {
    lease_ms: u64,
    state: Mutex<VoterState>,
    /// The latest run of a primary that is known to have ended.
    ended: watch::Sender<Option<(u64, StartNumber)>>,
}

impl VoterRole {
    /// A member that starts now: `owes_ms` is the lease that it may have promised before.
    pub fn new(epoch: u64, now: BootTime, owes_ms: u64, lease_ms: u64) -> Self {
        let state = VoterState {
            promise: Voter::started(epoch, now, owes_ms),
            primary: None,
            history: None,
            report: None,
        };
        Self { lease_ms, state: Mutex::new(state), ended: watch::channel(None).0 }
    }

    /// The epoch that it has on disk.
    pub fn epoch(&self) -> u64 {
        self.state.lock().promise.epoch()
    }

    /// Whether its promise has ended.
    pub fn is_free(&self, now: BootTime) -> bool {
        self.state.lock().promise.is_free(now)
    }

    /// When its promise ends.
    pub fn free_at(&self) -> BootTime {
        self.state.lock().promise.free_at()
    }

    /// Enters an epoch that is on disk already.
    pub fn enter(&self, epoch: u64) {
        let mut state = self.state.lock();
        state.promise.enter(epoch);
        state.report = None;
    }

    /// It got its vote: it begins with a full promise, since a lease may be carried by majorities
    /// that it was not part of.
    pub fn got_vote(&self, now: BootTime) {
        self.state.lock().promise.got_vote(now, self.lease_ms);
    }

    /// Notes a new primary, which gets the time of a lease to send its first heartbeat. Returns the
    /// latest primary.
    pub fn learn(&self, primary_term: Option<&PrimaryTerm>, now: BootTime) -> Option<(u64, u32)> {
        let mut state = self.state.lock();
        if let Some(term) = primary_term
            && term.phase == Phase::Steady
            && state.primary != Some((term.epoch, term.timeline))
            && state.promise.epoch() == term.epoch
        {
            state.promise.learned_of(term.epoch, now, self.lease_ms);
            state.primary = Some((term.epoch, term.timeline));
        }
        state.primary
    }

    /// Takes a heartbeat.
    ///
    /// # Errors
    /// Why it is not acknowledged.
    pub fn hear(
        &self,
        heartbeat: &Heartbeat,
        context: HeartbeatContext<'_>,
    ) -> Result<(), HeartbeatRejected> {
        self.state.lock().promise.hear(heartbeat, context)
    }

    /// Keeps the history of that epoch's primary; whether it is new.
    pub fn note_history(&self, epoch: u64, history: History) -> bool {
        let new = Some((epoch, history));
        let mut state = self.state.lock();
        let changed = state.history != new;
        state.history = new;
        changed
    }

    /// The history of the latest primary, with its epoch.
    pub fn history(&self) -> Option<(u64, History)> {
        self.state.lock().history.clone()
    }

    /// Keeps its report for the leader; whether it is new.
    pub fn report(&self, report: Report) -> bool {
        let mut state = self.state.lock();
        state.report.replace(report) != Some(report)
    }

    /// That run of the epoch's primary has ended.
    pub fn release(&self, epoch: u64, start: StartNumber) {
        self.state.lock().promise.release(epoch, start);
        self.ended.send_replace(Some((epoch, start)));
    }

    /// Follows [`Self::release`].
    pub fn ended(&self) -> watch::Receiver<Option<(u64, StartNumber)>> {
        self.ended.subscribe()
    }

    /// Whether the run in which the primary of that epoch was the primary has ended.
    pub fn primary_run_ended_in(&self, epoch: u64) -> bool {
        let state = self.state.lock();
        state.promise.epoch() == epoch && state.promise.primary_run_ended()
    }

    /// The answer to the leader; `primary` is what [`Self::learn`] returned.
    pub fn reply(&self, knows: Option<(u64, u32)>, now: BootTime) -> VoterReply {
        let state = self.state.lock();
        VoterReply {
            epoch: state.promise.epoch(),
            knows,
            free: state.promise.is_free(now),
            released: state.promise.primary_run_ended(),
            just_started: state.promise.has_just_started(now),
            report: state.report,
        }
    }
}
