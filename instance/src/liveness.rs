//! Observes the running server, tick by tick, and reports when it is unresponsive
//! (`pgraft_core::liveness` decides) or is being shut down by another program. The driver then kills
//! it, or hands over and restarts it.
//!
//! ```text
//!   probe      a new connection and one statement, twice in a lease       ─┐
//!   flush      a WAL flush, when WAL waits to be flushed                   ├─▶ Tick ─▶ Judge ─▶ Unresponsive(fault)
//!   processes  /proc: stopped, or waiting for a CPU or a lock              │
//!   group      whether another voter could become the primary              │
//!   the timer  whether this process itself was late                       ─┘
//!   postmaster.pid: "stopping", without a request of ours ─────────────────────────▶ StoppedByOthers
//! ```

mod facts;
mod group;
mod probe;
mod processes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::instance_config::replication_name;
use pgraft_core::liveness::{
    Commits, LivenessJudge, LivenessVerdict, Tick, Unresponsive, has_successor,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use self::facts::{LivenessFacts, Trend};
use self::group::GroupObserver;
use self::probe::Prober;
use self::processes::ServerProcesses;
use crate::paths;
use crate::settings::Settings;
use crate::supervisor::{SupervisorEvent, SupervisorPhase};
use crate::view::MemberView;

/// Ticks per lease timeout.
const TICKS_PER_LEASE: u32 = 8;
/// Ticks between two probes.
const TICKS_PER_PROBE: u32 = 4;
/// If a tick takes this many times its period, this process itself was held up.
const LATE: u32 = 2;
/// How many ticks in a row must see a shutdown. A server that its own worker shuts down has ended by
/// then.
const STOPPING: u32 = 2;
/// Between two kills for a fault that may have its cause outside of the server.
const BETWEEN_KILLS: Duration = Duration::from_mins(1);
/// The line of `postmaster.pid` with the postmaster's state.
const STATUS_LINE: usize = 7;

/// Observes that server. The caller aborts it when the server has ended.
pub async fn run(
    postmaster: i32,
    view: watch::Receiver<MemberView>,
    events: mpsc::UnboundedSender<SupervisorEvent>,
) {
    let settings = Arc::clone(&view.borrow().settings);
    if !settings.failover {
        return;
    }
    let period = settings.lease / TICKS_PER_LEASE;
    let mut observer = LivenessObserver::new(postmaster, Arc::clone(&settings));
    let mut reported = Reported::default();
    loop {
        let before = Instant::now();
        sleep(period).await;
        let settings = Arc::clone(&view.borrow().settings);
        observer.set_bounds(&settings, period);
        let verdict = observer.tick(before.elapsed() < period * LATE);
        let verdict =
            at_most_once_a_minute(verdict, view.borrow().killed_at.map(|at| at.elapsed()));
        reported.report(verdict, &settings, &events);
        // In any other phase this process has requested the shutdown.
        let runs = matches!(view.borrow().phase, SupervisorPhase::Running(_));
        if runs
            && !reported.released
            && observer.is_stopping()
            && !std::mem::replace(&mut reported.stopping, true)
        {
            tracing::warn!(
                "Postgres is being shut down, and not by pgraft-instance; handing over, then restarting it"
            );
            let _ = events.send(SupervisorEvent::StoppedByOthers);
        }
    }
}

/// A slow disk may be shared by all members, so that no other primary would have a better one. A
/// server is killed for it at most once a minute.
fn at_most_once_a_minute(
    verdict: LivenessVerdict,
    since_last_kill: Option<Duration>,
) -> LivenessVerdict {
    match verdict {
        LivenessVerdict::Release(fault @ (Unresponsive::Unanswered | Unresponsive::NotFlushed))
            if since_last_kill.is_some_and(|since| since < BETWEEN_KILLS) =>
        {
            LivenessVerdict::Suspect(fault)
        }
        verdict => verdict,
    }
}

/// How long a standby may be silent. A probe may wait there until replay has resolved a conflict,
/// which takes up to `max_standby_streaming_delay` (milliseconds; negative: no limit).
fn standby_timeout(unresponsive: Duration, replay_delay_ms: Option<i64>) -> Option<Duration> {
    let delay = u64::try_from(replay_delay_ms.unwrap_or(0)).ok()?;
    Some(unresponsive.saturating_add(Duration::from_millis(delay)))
}

/// A time in ticks.
fn bound(timeout: Duration, period: Duration) -> u32 {
    u32::try_from(timeout.as_millis() / period.as_millis().max(1)).unwrap_or(u32::MAX)
}

/// What was already reported.
#[derive(Default)]
struct Reported {
    concern: Option<Unresponsive>,
    retained: Option<Unresponsive>,
    released: bool,
    stopping: bool,
}

impl Reported {
    fn report(
        &mut self,
        verdict: LivenessVerdict,
        settings: &Settings,
        events: &mpsc::UnboundedSender<SupervisorEvent>,
    ) {
        let concern = match verdict {
            LivenessVerdict::Serve => None,
            LivenessVerdict::Suspect(fault)
            | LivenessVerdict::Retain(fault)
            | LivenessVerdict::Release(fault) => Some(fault),
        };
        if concern != self.concern {
            self.concern = concern;
            if let Some(fault) = concern {
                tracing::warn!("Postgres may be unresponsive: {fault}");
            } else {
                tracing::info!("Postgres is responsive again");
            }
            let _ = events.send(SupervisorEvent::Concern(concern));
        }
        let retained =
            if let LivenessVerdict::Retain(fault) = verdict { Some(fault) } else { None };
        if retained != self.retained {
            self.retained = retained;
            if let Some(fault) = retained {
                tracing::error!(
                    reason = "unresponsive",
                    "Postgres is unresponsive: {fault}; not killing it, because no other member could become the primary"
                );
            }
        }
        if let LivenessVerdict::Release(fault) = verdict
            && !std::mem::replace(&mut self.released, true)
        {
            tracing::error!(
                reason = "unresponsive",
                seconds = settings.unresponsive.as_secs_f64(),
                "Postgres is unresponsive: {fault}; killing it to release its lease"
            );
            let _ = events.send(SupervisorEvent::Unresponsive(fault));
        }
    }
}

/// The observations of one server.
struct LivenessObserver {
    settings: Arc<Settings>,
    processes: ServerProcesses,
    judge: LivenessJudge,
    prober: Prober,
    group: GroupObserver,
    trend: Trend,
    /// `max_standby_streaming_delay` in milliseconds, once it is known.
    replay_delay_ms: Option<i64>,
    suspected: bool,
    /// When the last facts were received.
    answered_at: Option<Instant>,
    ticks: u32,
    stopping: u32,
}

impl LivenessObserver {
    fn new(postmaster: i32, settings: Arc<Settings>) -> Self {
        let prober = Prober::new(Arc::clone(&settings));
        Self {
            settings,
            processes: ServerProcesses::new(postmaster),
            judge: LivenessJudge::new(u32::MAX),
            prober,
            group: GroupObserver::default(),
            trend: Trend::default(),
            replay_delay_ms: None,
            suspected: false,
            answered_at: None,
            ticks: 0,
            stopping: 0,
        }
    }

    fn set_bounds(&mut self, settings: &Settings, period: Duration) {
        let standby = standby_timeout(settings.unresponsive, self.replay_delay_ms);
        self.judge.set_bounds(
            bound(settings.unresponsive, period),
            standby.map(|timeout| bound(timeout, period)),
        );
    }

    fn tick(&mut self, on_time: bool) -> LivenessVerdict {
        if self.ticks.is_multiple_of(TICKS_PER_PROBE) {
            self.prober.probe();
            self.processes.refresh();
        }
        if self.suspected {
            self.group.ask(&self.settings, self.settings.lease);
        }
        self.ticks = self.ticks.wrapping_add(1);
        // Postgres removes the file when a promotion is complete.
        let primary = !paths::standby_signal(&self.settings.paths.data).exists();
        let answers = self.prober.answers();
        if let Some(facts) = answers.facts {
            self.add(facts, primary);
        }
        // Only a flush that takes longer than a tick is evidence against the server. A flush that is
        // refused, because the gate is closed, is an answer.
        let flush_pending = self.prober.flush_pending();
        if primary && !flush_pending && self.trend.wants_a_flush() {
            self.prober.flush();
        }
        let stopped_senders = || self.trend.senders().iter().any(|pid| processes::is_stopped(*pid));
        let commits = self.trend.commits().map(|advance| {
            if advance {
                Commits::Advance
            } else {
                Commits::Wait { sender_stopped: stopped_senders() }
            }
        });
        self.stopping = if is_stopping(&self.settings.paths.data, self.processes.postmaster()) {
            self.stopping + 1
        } else {
            0
        };
        let waits = self.prober.waits().then(|| self.prober.waits_since());
        let verdict = self.judge.observe(Tick {
            on_time,
            primary,
            answered: answers.answered
                || waits.is_some_and(|time| self.processes.waits_for_lock(time)),
            starved: waits.is_some_and(|time| self.processes.waits_for_cpu(time)),
            stopped: self.processes.stopped(),
            flushes: self.trend.flushes(flush_pending),
            commits,
            successor: self.has_successor(),
        });
        self.suspected = verdict != LivenessVerdict::Serve;
        verdict
    }

    /// Whether another voter could become the primary, as far as this node's member knows. A server
    /// that does not answer accepts no walreceivers, so its last answer is not held against the
    /// standbys.
    fn has_successor(&self) -> bool {
        let current = self.answered_at.is_some_and(|at| at.elapsed() <= self.settings.lease);
        let streams =
            |node| if current { self.trend.streams(&replication_name(node)) } else { None };
        let status = self.group.status(self.settings.lease * 2);
        status.is_some_and(|status| has_successor(&status, streams))
    }

    fn add(&mut self, facts: LivenessFacts, primary: bool) {
        self.replay_delay_ms = Some(facts.replay_delay_ms);
        self.answered_at = Some(Instant::now());
        if primary {
            self.trend.add(facts);
        } else {
            self.trend = Trend::default();
        }
    }

    const fn is_stopping(&self) -> bool {
        self.stopping >= STOPPING
    }
}

/// Whether `postmaster.pid` says that this postmaster is shutting down.
fn is_stopping(data: &Path, postmaster: i32) -> bool {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    let own = lines.next().and_then(|pid| pid.trim().parse().ok()) == Some(postmaster);
    own && lines.nth(STATUS_LINE - 1).is_some_and(|status| status.trim() == "stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_in_ticks() {
        assert_eq!(bound(Duration::from_secs(6), Duration::from_millis(250)), 24);
        assert_eq!(bound(Duration::from_millis(1), Duration::from_millis(250)), 0);
        assert_eq!(bound(Duration::from_secs(1), Duration::ZERO), 1000);
    }

    #[test]
    fn a_slow_disk_kills_a_server_at_most_once_a_minute() {
        let (early, late) = (Some(Duration::from_secs(59)), Some(BETWEEN_KILLS));
        for fault in [Unresponsive::Unanswered, Unresponsive::NotFlushed] {
            assert_eq!(
                at_most_once_a_minute(LivenessVerdict::Release(fault), early),
                LivenessVerdict::Suspect(fault)
            );
            assert_eq!(
                at_most_once_a_minute(LivenessVerdict::Release(fault), late),
                LivenessVerdict::Release(fault)
            );
            assert_eq!(
                at_most_once_a_minute(LivenessVerdict::Release(fault), None),
                LivenessVerdict::Release(fault)
            );
        }
        assert_eq!(
            at_most_once_a_minute(LivenessVerdict::Release(Unresponsive::SendersStopped), early),
            LivenessVerdict::Release(Unresponsive::SendersStopped)
        );
    }

    #[test]
    fn a_standby_may_be_silent_for_the_replay_delay_as_well() {
        let seconds = Duration::from_secs;
        assert_eq!(standby_timeout(seconds(6), None), Some(seconds(6)));
        assert_eq!(standby_timeout(seconds(6), Some(0)), Some(seconds(6)));
        assert_eq!(standby_timeout(seconds(6), Some(30_000)), Some(seconds(36)));
        assert_eq!(standby_timeout(seconds(6), Some(-1000)), None);
    }

    #[test]
    fn a_shutdown_is_read_from_postmaster_pid() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_stopping(dir.path(), 7));
        let write = |pid: i32, status: &str| {
            let text = format!("{pid}\n/data\n1700000000\n5432\n/run\n*\n  1 2\n{status}\n");
            std::fs::write(dir.path().join("postmaster.pid"), text).unwrap();
        };
        write(7, "ready   ");
        assert!(!is_stopping(dir.path(), 7));
        write(7, "stopping");
        assert!(is_stopping(dir.path(), 7));
        assert!(!is_stopping(dir.path(), 8), "another server's file");
    }

    #[tokio::test]
    async fn each_change_is_reported_once() {
        let settings = crate::settings::tests::example_with_failover();
        let (events, mut received) = mpsc::unbounded_channel();
        let mut reported = Reported::default();
        let stages = [
            LivenessVerdict::Serve,
            LivenessVerdict::Suspect(Unresponsive::Unanswered),
            LivenessVerdict::Suspect(Unresponsive::Unanswered),
            LivenessVerdict::Serve,
            LivenessVerdict::Suspect(Unresponsive::NotFlushed),
            LivenessVerdict::Retain(Unresponsive::NotFlushed),
            LivenessVerdict::Release(Unresponsive::NotFlushed),
            LivenessVerdict::Release(Unresponsive::NotFlushed),
        ];
        for verdict in stages {
            reported.report(verdict, &settings, &events);
        }
        drop(events);
        let mut all = vec![];
        while let Some(event) = received.recv().await {
            all.push(event);
        }
        let want = [
            SupervisorEvent::Concern(Some(Unresponsive::Unanswered)),
            SupervisorEvent::Concern(None),
            SupervisorEvent::Concern(Some(Unresponsive::NotFlushed)),
            SupervisorEvent::Unresponsive(Unresponsive::NotFlushed),
        ];
        assert_eq!(all, want);
    }
}
