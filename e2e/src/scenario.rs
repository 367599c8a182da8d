//! Runs a scenario in its own namespace, within a time limit, and keeps its traces if it fails.

use futures::future::BoxFuture;
use kube::Client;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::KindCluster;
use crate::evidence;
use crate::failure::E2eFailure;

/// The time limit of a scenario.
const LIMIT: Duration = Duration::from_mins(25);

/// A measurement for the report.
#[derive(Debug, Clone)]
pub struct ReportedFigure {
    /// What was measured, and how.
    pub what: String,
    /// The result, with its unit.
    pub value: String,
}

/// The body of a scenario.
pub type ScenarioBody =
    fn(KindCluster) -> BoxFuture<'static, Result<Vec<ReportedFigure>, E2eFailure>>;

/// Which other scenarios may run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterPlacement {
    /// Other shared scenarios.
    Shared,
    /// None: it measures, or it affects the whole Kubernetes cluster.
    Alone,
    /// Any. It waits most of the time, for so long that it runs only if it is named.
    OnRequest,
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line and in its namespace.
    pub name: &'static str,
    /// Which others may run at the same time.
    pub place: ClusterPlacement,
    /// Its body.
    pub body: ScenarioBody,
}

/// How a scenario ended.
pub struct ScenarioVerdict {
    /// The scenario.
    pub name: &'static str,
    /// Its duration.
    pub took: Duration,
    /// Its measurements, or the failure.
    pub result: Result<Vec<ReportedFigure>, E2eFailure>,
    /// The folder of its traces, if it failed.
    pub traces: Option<PathBuf>,
}

/// What all scenarios of a run share.
#[derive(Clone)]
pub struct ClusterSetting {
    /// The Kubernetes cluster.
    pub client: Client,
    /// The folder for traces.
    pub traces: PathBuf,
    /// Whether the namespaces of failed scenarios are kept.
    pub keep: bool,
    /// Distinguishes the namespaces of this run from earlier ones.
    pub run: u64,
}

/// Runs one scenario.
pub async fn run(setting: ClusterSetting, scenario: Scenario) -> ScenarioVerdict {
    let begun = Instant::now();
    println!("{}: started", scenario.name);
    let namespace = format!("e2e-{}-{}", scenario.name, setting.run);
    let (result, traces) = match KindCluster::in_new_namespace(&setting.client, &namespace).await {
        Ok(cluster) => in_namespace(&setting, scenario, &cluster).await,
        Err(failure) => (Err(failure), None),
    };
    let took = begun.elapsed();
    match &result {
        Ok(_) => println!("{}: ok after {:.1} s", scenario.name, took.as_secs_f64()),
        Err(failure) => {
            println!("{}: FAILED after {:.1} s: {failure}", scenario.name, took.as_secs_f64());
        }
    }
    ScenarioVerdict { name: scenario.name, took, result, traces }
}

async fn in_namespace(
    setting: &ClusterSetting,
    scenario: Scenario,
    cluster: &KindCluster,
) -> (Result<Vec<ReportedFigure>, E2eFailure>, Option<PathBuf>) {
    // In its own task, so that a panic fails this scenario only.
    let body = tokio::spawn((scenario.body)(cluster.clone()));
    let stop = body.abort_handle();
    let result = match tokio::time::timeout(LIMIT, body).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(E2eFailure::Wrong(panic.to_string())),
        Err(_) => {
            stop.abort();
            Err(E2eFailure::Deadline {
                what: scenario.name.into(),
                limit: LIMIT,
                last: "still running".into(),
            })
        }
    };
    let mut traces = None;
    if result.is_err() {
        match evidence::keep(&setting.traces, scenario.name, cluster).await {
            Ok(folder) => traces = Some(folder),
            Err(failure) => println!("{}: could not write its traces: {failure}", scenario.name),
        }
    }
    let remove = result.is_ok() || !setting.keep;
    if remove && let Err(failure) = cluster.remove().await {
        println!("{}: could not remove its namespace: {failure}", scenario.name);
    }
    (result, traces)
}
