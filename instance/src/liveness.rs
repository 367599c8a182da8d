//! Observes the running server, tick by tick, and reports when it is unresponsive
//! (`pgraft_core::liveness` decides) or is being shut down by somebody else. The driver then kills
//! it, or hands over and restarts it.
//!
//! ```text
//!   probe      a new connection and one statement, twice in a lease       ─┐
//!   flush      a WAL flush, when WAL waits to be flushed                   ├─▶ Tick ─▶ Judge ─▶ Unresponsive(fault)
//!   processes  /proc: stopped, or waiting for a CPU                        │
//!   the timer  whether this process itself was late                       ─┘
//!   postmaster.pid: "stopping", and nobody here asked for it ───────────────────────▶ StoppedByOthers
//! ```

mod facts;
mod probe;
mod processes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::liveness::{Commits, LivenessJudge, LivenessVerdict, Tick, Unresponsive};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use self::facts::{LivenessFacts, Trend};
use self::probe::Prober;
use self::processes::Watched;
use crate::paths;
use crate::settings::Settings;
use crate::supervisor::{SupervisorEvent, SupervisorPhase};
use crate::view::MemberView;

/// Ticks in a lease.
const TICKS: u32 = 8;
/// Ticks from one question to the next.
const QUERY_TIMEOUT_FACTOR: u32 = 4;
/// A tick that comes so much later than it should says that this process was held up.
const LATE: u32 = 2;
/// Ticks in a row that must see a shutdown: a server that its own worker ends is gone by then.
const STOPPING: u32 = 2;
/// Between two kills for what may have its cause outside of the server.
const BETWEEN_KILLS: Duration = Duration::from_mins(1);
/// The line of `postmaster.pid` that says what the postmaster is doing.
const STATUS_LINE: usize = 7;

/// Observes that server until it is aborted, which is when the server is gone.
pub async fn run(
    postmaster: i32,
    view: watch::Receiver<MemberView>,
    events: mpsc::UnboundedSender<SupervisorEvent>,
) {
    let settings = Arc::clone(&view.borrow().settings);
    if !settings.failover {
        return;
    }
    let period = settings.lease / TICKS;
    let mut observer = LivenessObserver::new(
        postmaster,
        Arc::clone(&settings),
        bound(settings.unresponsive, period),
    );
    let mut told = Reported::default();
    loop {
        let before = Instant::now();
        sleep(period).await;
        let settings = Arc::clone(&view.borrow().settings);
        observer.judge.set_bound(bound(settings.unresponsive, period));
        let verdict = observer.tick(before.elapsed() < period * LATE);
        let verdict = unless_in_vain(verdict, view.borrow().killed_at.map(|at| at.elapsed()));
        told.say(verdict, &settings, &events);
        // In any other phase this process has asked for it.
        let runs = matches!(view.borrow().phase, SupervisorPhase::Running(_));
        if runs
            && !told.released
            && observer.is_stopping()
            && !std::mem::replace(&mut told.stopping, true)
        {
            tracing::warn!(
                "Postgres is being shut down, and not by pgraft-instance: handing over, then restarting it"
            );
            let _ = events.send(SupervisorEvent::StoppedByOthers);
        }
    }
}

/// A slow disk may be everybody's, and then no other primary has a better one: a server is killed
/// for it once a minute at most.
fn unless_in_vain(verdict: LivenessVerdict, since_last_kill: Option<Duration>) -> LivenessVerdict {
    match verdict {
        LivenessVerdict::Release(fault @ (Unresponsive::Unanswered | Unresponsive::NotFlushed))
            if since_last_kill.is_some_and(|since| since < BETWEEN_KILLS) =>
        {
            LivenessVerdict::Suspect(fault)
        }
        verdict => verdict,
    }
}

/// In ticks.
fn bound(timeout: Duration, period: Duration) -> u32 {
    u32::try_from(timeout.as_millis() / period.as_millis().max(1)).unwrap_or(u32::MAX)
}

/// What was said already.
#[derive(Default)]
struct Reported {
    concern: Option<Unresponsive>,
    released: bool,
    stopping: bool,
}

impl Reported {
    fn say(
        &mut self,
        verdict: LivenessVerdict,
        settings: &Settings,
        events: &mpsc::UnboundedSender<SupervisorEvent>,
    ) {
        let concern = match verdict {
            LivenessVerdict::Serve => None,
            LivenessVerdict::Suspect(fault) | LivenessVerdict::Release(fault) => Some(fault),
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
        if let LivenessVerdict::Release(fault) = verdict
            && !std::mem::replace(&mut self.released, true)
        {
            tracing::error!(
                reason = "unresponsive",
                seconds = settings.unresponsive.as_secs_f64(),
                "Postgres is unresponsive: {fault}; killing it, so that its lease is released"
            );
            let _ = events.send(SupervisorEvent::Unresponsive(fault));
        }
    }
}

/// What is known of the server from tick to tick.
struct LivenessObserver {
    settings: Arc<Settings>,
    watched: Watched,
    judge: LivenessJudge,
    prober: Prober,
    trend: Trend,
    ticks: u32,
    stopping: u32,
}

impl LivenessObserver {
    fn new(postmaster: i32, settings: Arc<Settings>, bound: u32) -> Self {
        let prober = Prober::new(Arc::clone(&settings));
        Self {
            settings,
            watched: Watched::new(postmaster),
            judge: LivenessJudge::new(bound),
            prober,
            trend: Trend::default(),
            ticks: 0,
            stopping: 0,
        }
    }

    fn tick(&mut self, on_time: bool) -> LivenessVerdict {
        if self.ticks.is_multiple_of(QUERY_TIMEOUT_FACTOR) {
            self.prober.ask();
            self.watched.look_for_processes();
        }
        self.ticks = self.ticks.wrapping_add(1);
        // Postgres removes the file when a promotion is complete.
        let primary = !paths::standby_signal(&self.settings.paths.data).exists();
        let answers = self.prober.answers();
        if let Some(facts) = answers.facts {
            self.heed(facts, primary);
        }
        // Only a flush that has outlived a tick speaks against the server: one that is refused, as
        // behind a closed gate, is an answer.
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
        self.stopping = if is_stopping(&self.settings.paths.data, self.watched.postmaster()) {
            self.stopping + 1
        } else {
            0
        };
        self.judge.observe(Tick {
            on_time,
            primary,
            answered: answers.answered,
            // Without a question under way there is nothing to be starved of.
            starved: self.prober.waits() && self.watched.waits_for_cpu(self.prober.waits_since()),
            stopped: self.watched.stopped(),
            flushes: self.trend.flushes(flush_pending),
            commits,
        })
    }

    fn heed(&mut self, facts: LivenessFacts, primary: bool) {
        if primary {
            self.trend.heed(facts);
        } else {
            self.trend = Trend::default();
        }
    }

    const fn is_stopping(&self) -> bool {
        self.stopping >= STOPPING
    }
}

/// Whether that postmaster says that it shuts down.
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
    fn what_may_be_the_disks_fault_kills_once_a_minute() {
        let (early, late) = (Some(Duration::from_secs(59)), Some(BETWEEN_KILLS));
        for fault in [Unresponsive::Unanswered, Unresponsive::NotFlushed] {
            assert_eq!(
                unless_in_vain(LivenessVerdict::Release(fault), early),
                LivenessVerdict::Suspect(fault)
            );
            assert_eq!(
                unless_in_vain(LivenessVerdict::Release(fault), late),
                LivenessVerdict::Release(fault)
            );
            assert_eq!(
                unless_in_vain(LivenessVerdict::Release(fault), None),
                LivenessVerdict::Release(fault)
            );
        }
        assert_eq!(
            unless_in_vain(LivenessVerdict::Release(Unresponsive::SendersStopped), early),
            LivenessVerdict::Release(Unresponsive::SendersStopped)
        );
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
    async fn each_thing_is_said_once() {
        let settings = crate::settings::tests::example_with_failover();
        let (events, mut heard) = mpsc::unbounded_channel();
        let mut told = Reported::default();
        let stages = [
            LivenessVerdict::Serve,
            LivenessVerdict::Suspect(Unresponsive::Unanswered),
            LivenessVerdict::Suspect(Unresponsive::Unanswered),
            LivenessVerdict::Serve,
            LivenessVerdict::Suspect(Unresponsive::NotFlushed),
            LivenessVerdict::Release(Unresponsive::NotFlushed),
            LivenessVerdict::Release(Unresponsive::NotFlushed),
        ];
        for verdict in stages {
            told.say(verdict, &settings, &events);
        }
        drop(events);
        let mut all = vec![];
        while let Some(event) = heard.recv().await {
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
