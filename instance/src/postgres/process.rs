//! Starts and stops Postgres' processes: the server, and the programs that create a data directory.

use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

use crate::configuration::floors::Floors;
use crate::logging::Sink;
use crate::postgres::log::LastWords;
use crate::postgres::{config, log};
use crate::reaper::{Child, Ending, Reaper};
use crate::settings::Settings;

/// How long an immediate shutdown may take.
const IMMEDIATE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a program may take that only prints information.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(20);

/// A failed program.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It does not exist or cannot be started.
    #[error("could not start {program}: {source}")]
    Start {
        /// The path.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It did not exit with 0. Its messages are in the log.
    #[error("{program} failed: {ending}; see its messages in the log")]
    Failed {
        /// Its name.
        program: &'static str,
        /// How.
        ending: Ending,
    },
}

/// A running postmaster.
#[derive(Clone)]
pub struct Postmaster {
    /// The postmaster.
    pub child: Child,
    started: Instant,
}

impl Postmaster {
    /// Starts Postgres. The files must have been written.
    pub fn start(
        settings: &Settings,
        floors: &Floors,
        reaper: &Reaper,
        sink: &Sink,
        words: LastWords,
    ) -> Result<Self, ProcessError> {
        let mut command = program(settings, "postgres", settings.paths.parent());
        command.args(config::command_line(settings));
        for (name, floor) in floors {
            command.arg("-c").arg(format!("{name}={floor}"));
        }
        let (child, pipe) = spawn(reaper, command)?;
        tokio::spawn(log::pump(pipe, "postgres", sink.clone(), words));
        Ok(Self { child, started: Instant::now() })
    }

    /// How long it has been running.
    pub fn ran_for(&self) -> Duration {
        self.started.elapsed()
    }

    /// Stops it: fast if a time for that is given, then immediately, then by SIGKILL. `leftovers`
    /// handles remaining children.
    pub async fn stop(mut self, fast: Option<Duration>) -> Ending {
        for (signal, longest) in fast
            .map(|fast| (Signal::SIGINT, fast))
            .into_iter()
            .chain([(Signal::SIGQUIT, IMMEDIATE_TIMEOUT)])
        {
            self.child.signal(signal);
            if let Ok(ending) = tokio::time::timeout(longest, self.child.wait()).await {
                return ending;
            }
            tracing::warn!(%signal, seconds = longest.as_secs(), "Postgres did not stop in time");
        }
        self.child.signal(Signal::SIGKILL);
        self.child.wait().await
    }
}

/// A program of Postgres, without environment variables that would change its behaviour.
pub fn program(settings: &Settings, name: &str, directory: &Path) -> Command {
    let mut command = Command::new(settings.paths.program(name));
    for (variable, _) in std::env::vars_os() {
        // PGDATA, PGHOST, PGPASSWORD, PGOPTIONS …, and the language of messages.
        let text = variable.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("LC_") || text.starts_with("LANG") {
            command.env_remove(&variable);
        }
    }
    command.env("LC_ALL", "C.UTF-8").current_dir(directory);
    command
}

/// Runs a program until it ends. Dropping the future kills its process group.
pub async fn run(
    reaper: &Reaper,
    sink: &Sink,
    name: &'static str,
    command: Command,
) -> Result<(), ProcessError> {
    run_and_watch(reaper, sink, name, command, |_| ()).await
}

/// Runs a program like [`run`], and passes each of its messages to `watch`.
pub async fn run_and_watch(
    reaper: &Reaper,
    sink: &Sink,
    name: &'static str,
    command: Command,
    watch: impl Fn(&str) + Send + 'static,
) -> Result<(), ProcessError> {
    let (child, pipe) = spawn(reaper, command)?;
    let mut guard = EndOnDrop(child);
    let output = tokio::spawn(log::pump_and_watch(pipe, name, sink.clone(), move |record| {
        watch(&record.msg);
    }));
    let ending = guard.0.wait().await;
    // Log its messages before the result. A grandchild that holds the pipe must not block this.
    let _ = tokio::time::timeout(Duration::from_secs(1), output).await;
    if ending == Ending::Code(0) {
        Ok(())
    } else {
        Err(ProcessError::Failed { program: name, ending })
    }
}

/// Runs a program and returns its exit status and output.
pub async fn output(reaper: &Reaper, command: Command) -> Result<(Ending, Vec<u8>), ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| ProcessError::Start { program: program.clone(), source };
    let (child, mut pipe) = reaper.spawn_with_output(command).map_err(failed)?;
    let mut guard = EndOnDrop(child);
    let mut output = vec![];
    let whole = async {
        let ending = guard.0.wait().await;
        // A grandchild that holds the pipe must not block this.
        let _ = tokio::time::timeout(Duration::from_secs(1), pipe.read_to_end(&mut output)).await;
        ending
    };
    match tokio::time::timeout(OUTPUT_TIMEOUT, whole).await {
        Ok(ending) => Ok((ending, output)),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

fn spawn(
    reaper: &Reaper,
    command: Command,
) -> Result<(Child, tokio::net::unix::pipe::Receiver), ProcessError> {
    let program = command.get_program().to_string_lossy().into_owned();
    reaper.spawn(command).map_err(|source| ProcessError::Start { program, source })
}

struct EndOnDrop(Child);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.signal_group(Signal::SIGKILL);
    }
}
