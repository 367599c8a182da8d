//! Whether a Postgres server serves its clients: it accepts connections, answers statements, flushes
//! WAL and confirms commits. The decision is a pure function of the observations, tick by tick. The
//! instance manager and the simulation observe and carry out the verdict.
//!
//! A server that has failed for longer than a bound is killed, which releases its lease, so that a
//! standby takes over. Time counts only if it is evidence against the server:
//!
//! | observation | counts? |
//! |---|---|
//! | the observer itself was late: it was paused, or got no CPU | no |
//! | no answer, while the server waits for a CPU | no |
//! | an error (too many connections, starting up, shutting down) | it is an answer |
//! | no answer, and the server does not wait for a CPU | yes |
//! | the postmaster, or a process that all clients depend on, is stopped | yes |
//! | WAL waits to be flushed, a flush was asked for, and the flush position does not move | yes |
//! | commits wait, no standby confirms, and a walsender is stopped | yes |
//! | no answer, and the session of the question waits for a lock | it is an answer |
//! | commits wait, no standby confirms, and no walsender is stopped | it is only reported: the standbys may be the cause |
//!
//! A primary is killed only if another voter could take over ([`has_successor`]): otherwise its
//! remaining sessions would be lost for nothing. On a standby a query may wait for a replay conflict
//! for `max_standby_streaming_delay`, so silence has a longer bound there.

use std::fmt;

use crate::status::{NodeState, NodeStatus};
use crate::{NodeId, Role};

/// A process of the server that is essential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessState {
    /// It accepts connections.
    Postmaster,
    /// Without it no checkpoint is made, and changed `synchronous_standby_names` do not take
    /// effect.
    Checkpointer,
    /// It flushes what asynchronous commits have written.
    WalWriter,
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postmaster => "postmaster",
            Self::Checkpointer => "checkpointer",
            Self::WalWriter => "WAL writer",
        })
    }
}

/// Whether commits are confirmed on a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Commits {
    /// No commit waits for standbys, or standbys confirm.
    Advance,
    /// Commits wait, and no standby has confirmed anything since the last tick.
    Wait {
        /// Whether a walsender of this server is stopped.
        sender_stopped: bool,
    },
}

/// The observations since the last tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Tick {
    /// Whether the observer was on time. One that was paused or starved proves nothing about the
    /// server.
    pub on_time: bool,
    /// Whether the server is a primary. On a standby only the answers count.
    pub primary: bool,
    /// Whether the server answered since the last tick, even with an error.
    pub answered: bool,
    /// Whether a process that should answer waits for a CPU.
    pub starved: bool,
    /// The first essential process that is stopped.
    pub stopped: Option<ProcessState>,
    /// Whether WAL can be flushed; None if unknown.
    pub flushes: Option<bool>,
    /// Whether commits are confirmed; None if unknown.
    pub commits: Option<Commits>,
    /// Primary only: whether another voter could take over.
    pub successor: bool,
}

/// How a server fails to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unresponsive {
    /// An essential process is stopped.
    #[error("its {0} is stopped")]
    Stopped(ProcessState),
    /// No connection is answered.
    #[error("it answers no connection")]
    Unanswered,
    /// WAL is not flushed.
    #[error("it cannot flush WAL")]
    NotFlushed,
    /// Commits wait because walsenders are stopped.
    #[error("commits wait for standbys and a walsender is stopped")]
    SendersStopped,
    /// Commits wait, and the cause may not be this server.
    #[error("commits wait and no standby confirms them")]
    Unconfirmed,
}

impl Unresponsive {
    /// Whether a server with this fault is killed, so that another server takes over.
    pub const fn releases(self) -> bool {
        !matches!(self, Self::Unconfirmed)
    }
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LivenessVerdict {
    /// Nothing is wrong, or not for long enough to report it.
    Serve,
    /// Something is wrong and may pass.
    Suspect(Unresponsive),
    /// It has been wrong for too long: the server is killed.
    Release(Unresponsive),
    /// The same, but the server is not killed, because no other voter could take over.
    Retain(Unresponsive),
}

/// Consecutive ticks with each fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    stopped: Option<(ProcessState, u32)>,
    unanswered: u32,
    not_flushed: u32,
    senders: u32,
    unconfirmed: u32,
}

/// Observes one run of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessJudge {
    /// The number of consecutive ticks that is too many.
    bound: u32,
    /// The bound for the silence of a standby; `None`: any silence is tolerated.
    standby_bound: Option<u32>,
    /// Whether the server has answered once. Before that it may still be starting, for an unlimited
    /// time.
    has_answered: bool,
    counts: Counts,
}

impl LivenessJudge {
    /// Judges a server that is being started. The bound is at least two ticks, so that one failure is
    /// not enough.
    pub const fn new(bound: u32) -> Self {
        let counts =
            Counts { stopped: None, unanswered: 0, not_flushed: 0, senders: 0, unconfirmed: 0 };
        let mut judge = Self { bound, standby_bound: Some(bound), has_answered: false, counts };
        judge.set_bounds(bound, Some(bound));
        judge
    }

    /// Sets the bound in ticks, at least two, and the one for the silence of a standby, which is at
    /// least as long. `None`: any silence of a standby is tolerated.
    pub const fn set_bounds(&mut self, bound: u32, standby: Option<u32>) {
        self.bound = if bound < 2 { 2 } else { bound };
        self.standby_bound = match standby {
            Some(standby) if standby < self.bound => Some(self.bound),
            standby => standby,
        };
    }

    /// Takes one tick into account.
    pub fn observe(&mut self, tick: Tick) -> LivenessVerdict {
        let Tick { on_time, primary, answered, starved, stopped, flushes, commits, successor } =
            tick;
        let step = u32::from(on_time);
        self.has_answered |= answered;
        let counts = &mut self.counts;
        let matters = |process: &ProcessState| primary || *process == ProcessState::Postmaster;
        counts.stopped = stopped.filter(matters).map(|process| {
            let before =
                counts.stopped.filter(|(same, _)| *same == process).map_or(0, |(_, count)| count);
            (process, before.saturating_add(step))
        });
        count(&mut counts.unanswered, Some(!answered), if starved { 0 } else { step });
        // A process that waits for a CPU flushes and confirms later.
        let step = if starved { 0 } else { step };
        let as_primary = |known: Option<bool>| if primary { known } else { Some(false) };
        count(&mut counts.not_flushed, as_primary(flushes.map(|flushes| !flushes)), step);
        count(
            &mut counts.senders,
            as_primary(commits.map(|c| c == Commits::Wait { sender_stopped: true })),
            step,
        );
        count(&mut counts.unconfirmed, as_primary(commits.map(|c| c != Commits::Advance)), step);
        match self.verdict(primary) {
            LivenessVerdict::Release(fault) if primary && !successor => {
                LivenessVerdict::Retain(fault)
            }
            verdict => verdict,
        }
    }

    fn verdict(&self, primary: bool) -> LivenessVerdict {
        let Counts { stopped, unanswered, not_flushed, senders, unconfirmed } = self.counts;
        let (process, stopped) = stopped.unwrap_or((ProcessState::Postmaster, 0));
        // A stopped postmaster is the reason for the silence.
        let silent = if stopped > 0 && process == ProcessState::Postmaster {
            Unresponsive::Stopped(process)
        } else {
            Unresponsive::Unanswered
        };
        let all = [
            (Unresponsive::Stopped(process), stopped),
            (silent, if self.has_answered { unanswered } else { 0 }),
            (Unresponsive::NotFlushed, not_flushed),
            (Unresponsive::SendersStopped, senders),
            (Unresponsive::Unconfirmed, unconfirmed),
        ];
        let silence_bound = if primary { Some(self.bound) } else { self.standby_bound };
        let too_long = |fault: Unresponsive, ticks: u32| match fault {
            Unresponsive::Unanswered => silence_bound.is_some_and(|bound| ticks >= bound),
            _ => ticks >= self.bound,
        };
        if let Some((fault, _)) =
            all.into_iter().find(|(fault, ticks)| fault.releases() && too_long(*fault, *ticks))
        {
            return LivenessVerdict::Release(fault);
        }
        let suspicious = self.bound.div_ceil(3).max(2);
        all.into_iter()
            .find(|(_, ticks)| *ticks >= suspicious)
            .map_or(LivenessVerdict::Serve, |(fault, _)| LivenessVerdict::Suspect(fault))
    }
}

/// Whether another voter could become the primary if this node's server were killed: a majority of
/// the voters is reachable, and another voter's standby streams. `status` is of this node's own
/// member. `streams` says whether a node's standby streams, or that this is unknown (`None`).
pub fn has_successor(status: &NodeStatus, streams: impl Fn(NodeId) -> Option<bool>) -> bool {
    let is_reachable = |id: NodeId, reachable: Option<bool>| {
        id == status.node_id || reachable.unwrap_or(status.state != NodeState::Leader)
    };
    let voters = || status.members.iter().filter(|m| m.role == Role::Voter);
    let reachable = voters().filter(|m| is_reachable(m.node_id, m.reachable)).count();
    // An open gate is a lease of a majority. Otherwise, as the Raft leader, this node counts the
    // voters itself; as a follower it relies on its leader.
    let has_lease = status.failover.as_ref().is_some_and(|f| f.gate_ms.is_some());
    let majority = has_lease || (status.leader.is_some() && reachable >= status.quorum);
    majority
        && voters().any(|m| {
            m.node_id != status.node_id
                && is_reachable(m.node_id, m.reachable)
                && m.postgres.is_some()
                && streams(m.node_id).unwrap_or(true)
        })
}

/// Updates a count. An unknown observation does not change it.
const fn count(count: &mut u32, fails: Option<bool>, step: u32) {
    match fails {
        Some(true) => *count = count.saturating_add(step),
        Some(false) => *count = 0,
        None => {}
    }
}

#[cfg(test)]
mod tests;
