//! Whether a standby is fresh enough for reads. `/readyz` fails if it has not received or replayed
//! WAL for longer than `standby.maxLag`, which takes the pod out of the read-only Service. The
//! decision is pure; `look` collects the facts.
//!
//! The lag is the age of the oldest WAL position that the primary is known to have and this server
//! has not replayed, by this server's monotonic clock. Neither an idle primary nor a wrong clock
//! makes a standby appear late. While there is no primary the lag is not counted, so reads of the
//! last state stay available.

mod look;

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use look::run;

/// The maximum number of samples. Beyond it every second sample is dropped; the oldest is kept.
const MOST_SAMPLES: usize = 128;

/// The section `standby` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum time without a stream, with replay paused, or behind the primary.
    pub lag: Duration,
    /// The maximum WAL to replay, in bytes.
    pub bytes: Option<u64>,
}

/// Observations of a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshnessFacts {
    /// Monotonic time.
    pub now: Duration,
    /// The node is a member of a cluster whose primary serves. A new node streams only after it
    /// became a member.
    pub primary: bool,
    /// The walreceiver is connected and receives messages.
    pub streaming: bool,
    /// Replay is paused, by a user or by Postgres.
    pub paused: bool,
    /// The end of the primary's WAL, as known here.
    pub end: Option<u64>,
    /// The end of the replayed WAL.
    pub replayed: Option<u64>,
    /// `recovery_min_apply_delay`, the intended lag.
    pub delay: Duration,
}

/// Why a standby is not ready for reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// It has not replayed what the primary had when this server started.
    CatchingUp,
    /// It receives no WAL.
    NotStreaming(Duration),
    /// It receives WAL and does not replay it.
    Paused(Duration),
    /// Replay is slower than the primary, or waits for queries.
    Behind(Duration),
    /// It has more WAL to replay than allowed, in bytes.
    TooMuch(u64),
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchingUp => {
                f.write_str("this standby has not caught up with the primary since it started")
            }
            Self::NotStreaming(limit) => write!(
                f,
                "this standby has received no WAL from the primary for more than {} s",
                limit.as_secs()
            ),
            Self::Paused(limit) => write!(
                f,
                "replay of WAL has been paused on this standby for more than {} s; \
                 call pg_wal_replay_resume(), or restart the server if its log names a setting that is lower than on the primary",
                limit.as_secs()
            ),
            Self::Behind(limit) => write!(
                f,
                "replay on this standby is more than {} s behind the primary",
                limit.as_secs()
            ),
            Self::TooMuch(bytes) => {
                write!(f, "this standby has more than {bytes} bytes of WAL to replay")
            }
        }
    }
}

/// The state of one run of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandbyFreshness {
    silent_since: Option<Duration>,
    paused_since: Option<Duration>,
    /// Positions that are not replayed yet, and since when the primary is known to have them, the
    /// oldest first.
    behind: VecDeque<(Duration, u64)>,
    /// The end of the primary's WAL when it was first received; 0 once that is replayed.
    first_end: Option<u64>,
}

impl StandbyFreshness {
    /// Records one observation. None if the standby is ready for reads.
    pub fn look(&mut self, facts: &FreshnessFacts, bounds: &Bounds) -> Option<Stale> {
        let FreshnessFacts { now, primary, streaming, paused, end, replayed, delay } = *facts;
        if !primary {
            *self = Self { first_end: self.first_end, ..Self::default() };
            return None;
        }
        let since = |before: Option<Duration>, holds: bool| holds.then(|| before.unwrap_or(now));
        self.silent_since = since(self.silent_since, !streaming);
        self.paused_since = since(self.paused_since, paused);
        self.sample(now, end.filter(|_| streaming), replayed.unwrap_or(0));
        let longer = |since: Option<Duration>, limit: Duration| {
            since.is_some_and(|since| now.saturating_sub(since) > limit)
        };
        let missing = end.unwrap_or(0).saturating_sub(replayed.unwrap_or(0));
        if longer(self.silent_since, bounds.lag) {
            Some(Stale::NotStreaming(bounds.lag))
        } else if longer(self.paused_since, bounds.lag) {
            Some(Stale::Paused(bounds.lag))
        } else if longer(self.behind.front().map(|(at, _)| *at), bounds.lag + delay) {
            Some(Stale::Behind(bounds.lag + delay))
        } else if delay.is_zero() && bounds.bytes.is_some_and(|most| missing > most) {
            bounds.bytes.map(Stale::TooMuch)
        } else if delay.is_zero() && self.first_end.is_some_and(|first| first > 0) {
            Some(Stale::CatchingUp)
        } else {
            None
        }
    }

    fn sample(&mut self, now: Duration, end: Option<u64>, replayed: u64) {
        if let Some(end) = end {
            // After a failover the new primary's WAL may end earlier.
            for (_, position) in &mut self.behind {
                *position = end.min(*position);
            }
            self.first_end = Some(self.first_end.unwrap_or(end).min(end));
            if self.behind.back().is_none_or(|(_, last)| *last < end) {
                self.behind.push_back((now, end));
            }
        }
        while self.behind.front().is_some_and(|(_, position)| *position <= replayed) {
            self.behind.pop_front();
        }
        if self.behind.len() > MOST_SAMPLES {
            let mut keep = false;
            self.behind.retain(|_| {
                keep = !keep;
                keep
            });
        }
        if self.first_end.is_some_and(|first| first <= replayed) {
            self.first_end = Some(0);
        }
    }
}

/// The last verdict on the running server, shared with the HTTP listener.
#[derive(Debug, Clone, Default)]
pub struct FreshnessVerdict(Arc<Mutex<Option<Stale>>>);

impl FreshnessVerdict {
    /// Why the running server is not ready for reads; None if it is, or is not a standby.
    pub fn get(&self) -> Option<Stale> {
        *self.0.lock()
    }

    /// Returns the previous verdict.
    fn set(&self, stale: Option<Stale>) -> Option<Stale> {
        std::mem::replace(&mut *self.0.lock(), stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is the case, second by second, and the verdict in the end.
    type Case = (&'static str, Box<dyn Fn(u64) -> FreshnessFacts>, Option<Stale>);

    const BOUNDS: Bounds = Bounds { lag: Duration::from_secs(30), bytes: None };

    /// A standby that streams and has replayed everything.
    const WELL: FreshnessFacts = FreshnessFacts {
        now: Duration::ZERO,
        primary: true,
        streaming: true,
        paused: false,
        end: Some(100),
        replayed: Some(100),
        delay: Duration::ZERO,
    };

    fn at(seconds: u64, facts: FreshnessFacts) -> FreshnessFacts {
        FreshnessFacts { now: Duration::from_secs(seconds), ..facts }
    }

    const fn written(second: u64) -> u64 {
        100 + second * 10
    }

    /// The verdict after each look, a second apart, of a server that was well before.
    fn verdicts(
        seconds: u64,
        bounds: &Bounds,
        facts: impl Fn(u64) -> FreshnessFacts,
    ) -> Vec<Option<Stale>> {
        let mut freshness = StandbyFreshness::default();
        assert_eq!(freshness.look(&WELL, bounds), None);
        (1..=seconds).map(|second| freshness.look(&at(second, facts(second)), bounds)).collect()
    }

    #[test]
    fn lag_beyond_the_bound_makes_a_standby_stale() {
        let cases: [Case; 11] = [
            (
                "it streams and replays",
                Box::new(|s| FreshnessFacts {
                    end: Some(written(s)),
                    replayed: Some(written(s)),
                    ..WELL
                }),
                None,
            ),
            ("an idle primary", Box::new(|_| WELL), None),
            (
                "always a little behind",
                Box::new(|s| FreshnessFacts {
                    end: Some(written(s + 20)),
                    replayed: Some(written(s)),
                    ..WELL
                }),
                None,
            ),
            (
                "the stream is cut",
                Box::new(|_| FreshnessFacts { streaming: false, ..WELL }),
                Some(Stale::NotStreaming(BOUNDS.lag)),
            ),
            (
                "there is no primary",
                Box::new(|_| FreshnessFacts { streaming: false, primary: false, ..WELL }),
                None,
            ),
            (
                "replay is paused without a primary",
                Box::new(|_| FreshnessFacts {
                    streaming: false,
                    primary: false,
                    paused: true,
                    ..WELL
                }),
                None,
            ),
            (
                "replay is paused",
                Box::new(|_| FreshnessFacts { paused: true, ..WELL }),
                Some(Stale::Paused(BOUNDS.lag)),
            ),
            (
                "replay stands still",
                Box::new(|s| FreshnessFacts { end: Some(written(s)), ..WELL }),
                Some(Stale::Behind(BOUNDS.lag)),
            ),
            (
                "replay falls back",
                Box::new(|s| FreshnessFacts {
                    end: Some(written(s)),
                    replayed: Some(written(s / 4)),
                    ..WELL
                }),
                Some(Stale::Behind(BOUNDS.lag)),
            ),
            (
                "a delay that is wanted",
                Box::new(|s| FreshnessFacts {
                    end: Some(written(s)),
                    delay: Duration::from_mins(10),
                    ..WELL
                }),
                None,
            ),
            (
                "the stream comes and goes while replay stands still",
                Box::new(|s| FreshnessFacts {
                    streaming: !s.is_multiple_of(20),
                    end: Some(written(s)),
                    ..WELL
                }),
                Some(Stale::Behind(BOUNDS.lag)),
            ),
        ];
        for (what, facts, want) in cases {
            let verdicts = verdicts(100, &BOUNDS, facts);
            assert_eq!(verdicts[99], want, "{what}");
            assert!(verdicts[..30].iter().all(Option::is_none), "{what}: {verdicts:?}");
        }
    }

    #[test]
    fn a_failover_makes_no_standby_stale() {
        // Two minutes without a primary; the next one's WAL ends before the last one's, and the
        // stream is back a second after it serves.
        let facts = |second: u64| match second {
            0..10 => FreshnessFacts { end: Some(200), ..WELL },
            10..130 => FreshnessFacts { streaming: false, primary: false, ..WELL },
            130..131 => FreshnessFacts { streaming: false, ..WELL },
            _ => FreshnessFacts { end: Some(150 + second), replayed: Some(150 + second), ..WELL },
        };
        assert!(verdicts(300, &BOUNDS, facts).iter().all(Option::is_none));
    }

    #[test]
    fn a_shorter_history_does_not_count_as_lag() {
        let facts = |second: u64| {
            if second < 10 {
                FreshnessFacts { end: Some(200), ..WELL }
            } else {
                FreshnessFacts { end: Some(150), replayed: Some(150), ..WELL }
            }
        };
        assert!(verdicts(100, &BOUNDS, facts).iter().all(Option::is_none));
    }

    #[test]
    fn a_server_that_starts_with_old_data_catches_up_first() {
        let mut freshness = StandbyFreshness::default();
        let mut look = |second, facts| freshness.look(&at(second, facts), &BOUNDS);
        assert_eq!(look(0, FreshnessFacts { streaming: false, primary: false, ..WELL }), None);
        assert_eq!(
            look(1, FreshnessFacts { streaming: false, ..WELL }),
            None,
            "it has a moment to connect"
        );
        assert_eq!(look(2, FreshnessFacts { end: Some(900), ..WELL }), Some(Stale::CatchingUp));
        assert_eq!(
            look(3, FreshnessFacts { end: Some(950), replayed: Some(899), ..WELL }),
            Some(Stale::CatchingUp)
        );
        assert_eq!(look(4, FreshnessFacts { end: Some(990), replayed: Some(900), ..WELL }), None);
        assert_eq!(
            look(
                5,
                FreshnessFacts { end: Some(990), replayed: Some(900), streaming: false, ..WELL }
            ),
            None
        );
    }

    #[test]
    fn lag_in_bytes_counts_if_it_is_bounded() {
        let bounds = Bounds { bytes: Some(1000), ..BOUNDS };
        let facts = |missing: u64| move |_| FreshnessFacts { end: Some(100 + missing), ..WELL };
        assert_eq!(verdicts(1, &bounds, facts(1000)), [None]);
        assert_eq!(verdicts(1, &bounds, facts(1001)), [Some(Stale::TooMuch(1000))]);
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let mut freshness = StandbyFreshness::default();
        for second in 0..10_000 {
            freshness
                .look(&at(second, FreshnessFacts { end: Some(200 + second), ..WELL }), &BOUNDS);
            assert!(freshness.behind.len() <= MOST_SAMPLES);
        }
        assert_eq!(freshness.behind.front(), Some(&(Duration::ZERO, 200)));
    }

    #[test]
    fn the_reasons_are_messages_for_people() {
        let lag = Duration::from_secs(30);
        let all = [
            Stale::CatchingUp,
            Stale::NotStreaming(lag),
            Stale::Paused(lag),
            Stale::Behind(lag),
            Stale::TooMuch(64 << 20),
        ];
        insta::assert_snapshot!(all.map(|stale| stale.to_string()).join("\n"));
    }
}
