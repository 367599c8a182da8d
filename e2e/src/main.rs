//! `pgraft-e2e`: scenarios on the Kubernetes cluster of KUBECONFIG. Needs kubectl and helm on PATH,
//! and the images on the cluster.
//!
//! ```text
//!  main ──▶ helm install ──▶ scenarios, some at the same time, some alone ──▶ report
//!              each: a namespace, a PgRaftCluster (cluster.rs), SQL through port-forwards (sql.rs), waits for conditions (wait.rs);
//!              after a failure: logs, events and resources in a folder (evidence.rs)
//! ```

use clap::Parser;
use futures::StreamExt;
use futures::future::join_all;
use kube::Client;
use std::path::PathBuf;
use std::process::ExitCode;

use pgraft_e2e::failure::E2eFailure;
use pgraft_e2e::scenario::{ClusterPlacement, ClusterSetting, Scenario, ScenarioVerdict};
use pgraft_e2e::{command, report, scenario, scenarios};

/// Runs scenarios on the Kubernetes cluster of KUBECONFIG.
#[derive(Parser)]
struct E2eCli {
    /// Scenarios to run. Default: all except ca-takeover, which takes a quarter of an hour.
    scenarios: Vec<String>,
    /// Prints the names of the scenarios and exits.
    #[arg(long)]
    list: bool,
    /// How many scenarios run at the same time, among those that can.
    #[arg(long, default_value_t = 2)]
    together: usize,
    /// Keeps the namespaces of failed scenarios.
    #[arg(long)]
    keep: bool,
    /// The folder for logs, events and resources of failed scenarios.
    #[arg(long, default_value = ".work/e2e")]
    traces: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = E2eCli::parse();
    if arguments.list {
        for scenario in scenarios::ALL {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    match run(arguments).await {
        Ok(verdicts) => {
            print!("{}", report::summary(&verdicts));
            if verdicts.iter().all(|v| v.result.is_ok()) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(failure) => {
            eprintln!("pgraft-e2e: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: E2eCli) -> Result<Vec<ScenarioVerdict>, E2eFailure> {
    let chosen = choose(&arguments.scenarios)?;
    let setting = ClusterSetting {
        client: Client::try_from(kube::Config::infer().await?)?,
        traces: arguments.traces,
        keep: arguments.keep,
        run: run_number(),
    };
    println!("installing the operator");
    command::run(
        "helm",
        &[
            "upgrade",
            "--install",
            "pgraft",
            "charts/pgraft-operator",
            "--namespace",
            "pgraft-system",
            "--create-namespace",
            "--wait",
        ],
    )
    .await?;

    let of = |place: ClusterPlacement| {
        chosen.iter().copied().filter(move |s| s.place == place).collect::<Vec<_>>()
    };
    let run = |s: Scenario| scenario::run(setting.clone(), s);
    let on_request = join_all(of(ClusterPlacement::OnRequest).into_iter().map(run));
    let others = async {
        let mut verdicts: Vec<ScenarioVerdict> =
            futures::stream::iter(of(ClusterPlacement::Shared))
                .map(run)
                .buffer_unordered(arguments.together.max(1))
                .collect()
                .await;
        for scenario in of(ClusterPlacement::Alone) {
            verdicts.push(run(scenario).await);
        }
        verdicts
    };
    let (mut verdicts, long) = futures::join!(others, on_request);
    verdicts.extend(long);
    Ok(verdicts)
}

/// Distinguishes the namespaces of this run from earlier ones, which may still be terminating.
fn run_number() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() % 1_000_000)
}

fn choose(names: &[String]) -> Result<Vec<Scenario>, E2eFailure> {
    if names.is_empty() {
        return Ok(scenarios::ALL
            .iter()
            .copied()
            .filter(|s| s.place != ClusterPlacement::OnRequest)
            .collect());
    }
    let find = |name: &String| {
        let unknown =
            || E2eFailure::Wrong(format!("there is no scenario {name}; --list prints their names"));
        scenarios::ALL.iter().find(|s| s.name == name).copied().ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}
