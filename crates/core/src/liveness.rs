//! Whether a Postgres server does what its clients need: it accepts connections, answers
//! statements, flushes WAL and confirms commits. A pure decision over what was observed, tick by
//! tick; the instance manager observes and carries the verdict out, and the simulation does the
//! same.
//!
//! A server that has failed for longer than a bound is killed, which releases its lease: a standby
//! takes over. Time counts only where it is evidence against the server:
//!
//! | what is seen | counts? |
//! |---|---|
//! | the observer itself was late: it was paused, or got no CPU | no |
//! | no answer, while the server waits for a CPU | no |
//! | an error for an answer (too many connections, starting up, shutting down) | it is an answer |
//! | no answer, and the server does not wait for a CPU | yes |
//! | the postmaster, or a process that all clients depend on, is stopped | yes |
//! | WAL waits to be flushed, a flush was asked for, and the flush position does not move | yes |
//! | commits wait, no standby confirms, and a walsender is stopped | yes |
//! | commits wait, no standby confirms, and nothing is wrong with the walsenders | it is reported: another primary may have no better standbys |

use std::fmt;

/// A process of the server that everything depends on.
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

/// How commits fare on a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Commits {
    /// Nobody waits for standbys, or standbys confirm.
    Advance,
    /// Somebody waits, and no standby has confirmed anything since the last look.
    Wait {
        /// Whether a walsender of this server is stopped.
        sender_stopped: bool,
    },
}

/// What was observed since the last tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Tick {
    /// Whether the observer was not late: one that was paused or starved says nothing about the
    /// server.
    pub on_time: bool,
    /// Whether the server is a primary. Of a standby only the answers count.
    pub primary: bool,
    /// Whether a question was answered since the last tick, be it by an error.
    pub answered: bool,
    /// Whether a process that would have to answer waits for a CPU.
    pub starved: bool,
    /// The first process that everything depends on and that is stopped.
    pub stopped: Option<ProcessState>,
    /// Whether WAL can be flushed; None where that is not known.
    pub flushes: Option<bool>,
    /// How commits fare; None where that is not known.
    pub commits: Option<Commits>,
}

/// What a server fails to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unresponsive {
    /// That process is stopped.
    #[error("its {0} is stopped")]
    Stopped(ProcessState),
    /// No connection is answered.
    #[error("it answers no connection")]
    Unanswered,
    /// WAL is not flushed.
    #[error("it cannot flush WAL")]
    NotFlushed,
    /// Commits wait since walsenders are stopped.
    #[error("commits wait for standbys and a walsender is stopped")]
    SendersStopped,
    /// Commits wait, and it is not known that this server is the cause.
    #[error("commits wait and no standby confirms them")]
    Unconfirmed,
}

impl Unresponsive {
    /// Whether a server with this fault is killed, so that another one takes over.
    pub const fn releases(self) -> bool {
        !matches!(self, Self::Unconfirmed)
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LivenessVerdict {
    /// Nothing is wrong, or not for long enough to be worth a word.
    Serve,
    /// Something is wrong, and may pass.
    Suspect(Unresponsive),
    /// It has been wrong for as long as it may: the server is killed.
    Release(Unresponsive),
}

/// Ticks in a row, for each fault.
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
    /// So many ticks in a row are too many.
    bound: u32,
    /// The server has answered once: before that silence may mean that it is starting, which takes
    /// as long as it takes.
    heard: bool,
    counts: Counts,
}

impl LivenessJudge {
    /// Of a server that is being started. A bound below two ticks would condemn it by one failure.
    pub const fn new(bound: u32) -> Self {
        let counts =
            Counts { stopped: None, unanswered: 0, not_flushed: 0, senders: 0, unconfirmed: 0 };
        let mut judge = Self { bound, heard: false, counts };
        judge.set_bound(bound);
        judge
    }

    /// From now on so many ticks are too many, and two at least.
    pub const fn set_bound(&mut self, bound: u32) {
        self.bound = if bound < 2 { 2 } else { bound };
    }

    /// Takes one tick into account.
    pub fn observe(&mut self, tick: Tick) -> LivenessVerdict {
        let Tick { on_time, primary, answered, starved, stopped, flushes, commits } = tick;
        let step = u32::from(on_time);
        self.heard |= answered;
        let counts = &mut self.counts;
        let matters = |process: &ProcessState| primary || *process == ProcessState::Postmaster;
        counts.stopped = stopped.filter(matters).map(|process| {
            let before =
                counts.stopped.filter(|(same, _)| *same == process).map_or(0, |(_, count)| count);
            (process, before.saturating_add(step))
        });
        count(&mut counts.unanswered, Some(!answered), if starved { 0 } else { step });
        // Who waits for a CPU flushes and confirms later.
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
        // That is why.
        let silent = if stopped > 0 && process == ProcessState::Postmaster {
            Unresponsive::Stopped(process)
        } else {
            Unresponsive::Unanswered
        };
        let all = [
            (Unresponsive::Stopped(process), stopped),
            (silent, if self.heard { unanswered } else { 0 }),
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

/// What is not known leaves the count as it is.
const fn count(count: &mut u32, fails: Option<bool>, step: u32) {
    match fails {
        Some(true) => *count = count.saturating_add(step),
        Some(false) => *count = 0,
        None => {}
    }
}

#[cfg(test)]
mod tests;
