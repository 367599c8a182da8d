//! What is counted, in the text format of Prometheus and OpenMetrics. Counting decides nothing.
//!
//! What is said about the clusters (`metrics/clusters.rs`) is read from their statuses at each
//! scrape: a cluster that is gone is gone from it too.

mod requests;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use requests::counted;

/// A family with one label of a closed set.
type By<const N: usize> = Family<[(&'static str, &'static str); N], Counter>;

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Mutex<Registry>,
    passes: By<1>,
    durations: Durations,
    begun: AtomicU64,
    in_flight: Gauge,
    errors: By<1>,
    steps: By<1>,
    step_durations: StepDurations,
    requests: By<2>,
    leading: Gauge,
    sessions: Gauge,
}

#[derive(Debug, Clone)]
struct Durations(Histogram);

impl Default for Durations {
    /// From a glance (a millisecond) to a change that waits for a majority.
    fn default() -> Self {
        Self(Histogram::new([
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ]))
    }
}

type HistogramByLabel = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// By step.
#[derive(Debug, Clone)]
struct StepDurations(HistogramByLabel);

impl Default for StepDurations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Durations::default().0))
    }
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Arc<Self> {
        let metrics = Self::default();
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("pgraft_operator");
        registry.register(
            "build",
            "The version of this operator",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "leading",
            "1 where this replica holds the lease and works",
            metrics.leading.clone(),
        );
        registry.register(
            "reconciles",
            "Passes over a cluster, by what came of them",
            metrics.passes.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long a pass takes",
            metrics.durations.0.clone(),
        );
        registry.register("reconciles_in_flight", "Passes under way", metrics.in_flight.clone());
        registry.register("errors", "Passes that failed, by reason", metrics.errors.clone());
        registry.register("steps", "Steps that succeeded", metrics.steps.clone());
        registry.register(
            "step_duration_seconds",
            "How long a step takes, including failed ones",
            metrics.step_durations.0.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server, watches too",
            metrics.requests.clone(),
        );
        registry.register(
            "sessions",
            "Sessions with members' Postgres that are open",
            metrics.sessions.clone(),
        );
        *metrics.lock() = all;
        Arc::new(metrics)
    }

    /// From now on the clusters are in it too.
    pub fn show(&self, clusters: impl Collector) {
        self.lock().register_collector(Box::new(clusters));
    }

    /// The text, as `/metrics` gives it.
    ///
    /// # Errors
    /// None that a test would not have found.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.lock())?;
        Ok(text)
    }

    /// Whether this replica is the one that works.
    pub fn leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }

    /// How many sessions with members are open: whoever keeps them counts.
    pub fn sessions(&self) -> Gauge {
        self.sessions.clone()
    }

    /// One more pass is under way until the guard goes; the number tells it from others in the log.
    #[must_use]
    pub fn pass_begins(&self) -> (u64, InFlight) {
        self.in_flight.inc();
        (self.begun.fetch_add(1, Ordering::Relaxed), InFlight(self.in_flight.clone()))
    }

    /// Counts a pass: its duration, its result, and the reason of its error.
    pub fn pass_ended(&self, took: Duration, result: &'static str, error: Option<&'static str>) {
        self.durations.0.observe(took.as_secs_f64());
        self.passes.get_or_create(&[("result", result)]).inc();
        if let Some(reason) = error {
            self.errors.get_or_create(&[("reason", reason)]).inc();
        }
    }

    /// Counts a step: its duration, and whether it succeeded.
    pub fn step(&self, step: &'static str, took: Duration, succeeded: bool) {
        self.step_durations.0.get_or_create(&[("step", step)]).observe(took.as_secs_f64());
        if succeeded {
            self.steps.get_or_create(&[("step", step)]).inc();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pass under way.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
