//! Which of several operators works: the one that holds the Lease. A decision of what is known and
//! of the replica's own clock.
//!
//! No two clocks are compared. The holder counts from the moment at which it *began* its last
//! renewal, and ends its work when `renew_within` has passed since; everybody else counts from the
//! moment at which they *first saw* that renewal, which is later, and waits for the longer
//! `duration`. With the defaults that holds for clocks of which one runs up to 1.5 times as fast as
//! another. They are those of Kubernetes' own controllers: with less, an API server on a busy
//! machine costs the holder the Lease.
//!
//! Nothing's safety hangs on it. Two operators at once would take the same steps, each of which can
//! be taken twice; the Lease keeps them from being in each other's way.

use std::time::Duration;

/// How long the Lease holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long the others wait for a renewal.
    pub duration: Duration,
    /// After how long without one the holder stops; shorter than `duration`.
    pub renew_within: Duration,
    /// Between two renewals, and between two looks.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// The Lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Empty when it was given back.
    pub holder: String,
    /// How long it holds after a renewal, by the holder's word.
    pub duration: Duration,
    /// Moves with every write.
    pub version: String,
}

/// What one replica knows. Times are those of its own clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseObservation {
    /// None when there is no Lease.
    pub record: Option<LeaseRecord>,
    /// When this version of it was first seen.
    pub since: Duration,
    /// When the last write that made this replica the holder was begun.
    pub renewed: Option<Duration>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStep {
    /// Write this replica's name into the Lease, if it still is the one that is known.
    Take,
    /// The same again, as the holder.
    Renew,
    /// Wait, and look again.
    Wait(Duration),
    /// The Lease is lost: end the work at once.
    Stop,
}

impl LeaseObservation {
    /// Takes in what was read or written just now.
    pub fn see(&mut self, record: Option<LeaseRecord>, now: Duration) {
        if self.record != record {
            self.record = record;
            self.since = now;
        }
    }

    /// Whether this replica may work.
    pub fn leads(&self, timing: Timing, now: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) < timing.renew_within)
    }
}

/// The next step of the replica `me`.
pub fn next(me: &str, timing: Timing, known: &LeaseObservation, now: Duration) -> LeaseStep {
    let holder = known.record.as_ref().map(|record| record.holder.as_str());
    if let Some(renewed) = known.renewed {
        let age = now.saturating_sub(renewed);
        return if age >= timing.renew_within || holder != Some(me) {
            LeaseStep::Stop
        } else if age >= timing.retry {
            LeaseStep::Renew
        } else {
            LeaseStep::Wait(timing.retry.saturating_sub(age))
        };
    }
    match &known.record {
        None => LeaseStep::Take,
        Some(record) if record.holder.is_empty() || record.holder == me => LeaseStep::Take,
        Some(record) => match record.duration.saturating_sub(now.saturating_sub(known.since)) {
            Duration::ZERO => LeaseStep::Take,
            left => LeaseStep::Wait(left.min(timing.retry)),
        },
    }
}

#[cfg(test)]
mod simulation;
