//! What a scenario is, and how one is run: in a namespace of its own, within a time limit, with its
//! traces kept when it fails.

use futures::future::BoxFuture;
use kube::Client;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::KindCluster;
use crate::evidence;
use crate::failure::E2eFailure;

/// No scenario may take longer.
const LIMIT: Duration = Duration::from_mins(25);

/// What a scenario measured, for people to read.
#[derive(Debug, Clone)]
pub struct ReportedFigure {
    /// What was measured, and how.
    pub what: String,
    /// What came out.
    pub value: String,
}

/// The body of a scenario.
pub type ScenarioBody =
    fn(KindCluster) -> BoxFuture<'static, Result<Vec<ReportedFigure>, E2eFailure>>;

/// What else may go on while a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterPlacement {
    /// Some others.
    Beside,
    /// Nothing: it measures, or it takes away what others stand on.
    Alone,
    /// Anything, for as long as that takes: it waits nearly all the time.
    Throughout,
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line; its namespace is named after it.
    pub name: &'static str,
    /// What else may go on.
    pub place: ClusterPlacement,
    /// What it does.
    pub body: ScenarioBody,
}

/// How a scenario ended.
pub struct ScenarioVerdict {
    /// Which one.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// What it measured, or why it failed.
    pub result: Result<Vec<ReportedFigure>, E2eFailure>,
    /// Where its traces are, when it failed.
    pub traces: Option<PathBuf>,
}

/// What all scenarios share.
#[derive(Clone)]
pub struct ClusterSetting {
    /// The Kubernetes cluster.
    pub client: Client,
    /// Where traces go.
    pub traces: PathBuf,
    /// Whether a namespace stays after its scenario failed.
    pub keep: bool,
    /// Tells the namespaces of this run from those of earlier ones.
    pub run: u64,
}

/// Runs one scenario to its verdict.
pub async fn run(setting: ClusterSetting, scenario: Scenario) -> ScenarioVerdict {
    let begun = Instant::now();
    println!("{}: begins", scenario.name);
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
    // A task of its own, so that a panic is this scenario's failure and nobody else's.
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
            Err(failure) => println!("{}: its traces could not be kept: {failure}", scenario.name),
        }
    }
    let remove = result.is_ok() || !setting.keep;
    if remove && let Err(failure) = cluster.remove().await {
        println!("{}: its namespace could not be removed: {failure}", scenario.name);
    }
    (result, traces)
}
