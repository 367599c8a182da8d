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
//! | commits wait, no standby confirms, and no walsender is stopped | it is only reported: the standbys may be the cause |

use std::fmt;

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
        let mut judge = Self { bound, has_answered: false, counts };
        judge.set_bound(bound);
        judge
    }

    /// Changes the bound; it is at least two ticks.
    pub const fn set_bound(&mut self, bound: u32) {
        self.bound = if bound < 2 { 2 } else { bound };
    }

    /// Takes one tick into account.
    pub fn observe(&mut self, tick: Tick) -> LivenessVerdict {
        let Tick { on_time, primary, answered, starved, stopped, flushes, commits } = tick;
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
        self.verdict()
    }

    fn verdict(&self) -> LivenessVerdict {
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
        if let Some((fault, _)) =
            all.into_iter().find(|(fault, ticks)| fault.releases() && *ticks >= self.bound)
        {
            return LivenessVerdict::Release(fault);
        }
        let suspicious = self.bound.div_ceil(3).max(2);
        all.into_iter()
            .find(|(_, ticks)| *ticks >= suspicious)
            .map_or(LivenessVerdict::Serve, |(fault, _)| LivenessVerdict::Suspect(fault))
    }
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
