//! Gives PGDATA the primary's history with `pg_rewind`.
//!
//! ```text
//!  connect to the primary ▸ dry run, after a clean shutdown ▸ mark ▸ pg_rewind ▸ standby.signal ▸ remove the mark
//! ```
//!
//! Once PGDATA is marked, an interrupted rewind is followed by a clone, and PGDATA is never started
//! as it is. pg_rewind changes nothing before it reports where it rewinds from. If it fails before
//! that, it is run again a few times.

use pgraft_raft::twophase::TwoPhaseError;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::files::{self, FileError};
use crate::logging::Sink;
use crate::paths;
use crate::postgres::config;
use crate::postgres::process::{self, ProcessError};
use crate::postgres::source::{self, SourceError};
use crate::prepare;
use crate::reaper::Reaper;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql;
use crate::standin::{self, StandInMember};
use crate::status::Upstream;
use crate::upstream::{self, UpstreamError};

/// How often pg_rewind is run while it changes nothing: its connection may have been refused, or the
/// primary may be busy.
const MAX_ATTEMPTS: u32 = 5;

/// The wait between two attempts.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What pg_rewind logs before it changes the first byte (`pg_rewind.c`: `main`).
const BEGIN_MESSAGE: &str = "rewinding from last common checkpoint";

/// Why PGDATA could not be rewound.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// No rewind is requested any more.
    #[error("instance.json no longer requests a rewind")]
    NotRequested,
    /// The primary did not accept the connection.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// `instance.json`.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// `pg_rewind`.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Two-phase state files.
    #[error(transparent)]
    TwoPhase(#[from] TwoPhaseError),
}

impl RewindError {
    /// Whether nothing was changed and a later attempt may succeed.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::NotRequested | Self::Source(_) | Self::Upstream(_) => true,
            Self::File(_) | Self::Process(_) | Self::TwoPhase(_) => false,
        }
    }
}

/// The primary to rewind to, if `instance.json` requests a rewind.
pub fn requested(settings: &Settings) -> Result<Option<Upstream>, UpstreamError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    let asked = file.as_ref().is_some_and(|f| f.rewind.is_some() && f.rewind == f.primary);
    if !asked {
        return Ok(None);
    }
    Ok(upstream::follow(settings.node, file.as_ref(), upstream::last(&settings.paths)?))
}

/// Checks that the primary accepts a connection of this node.
pub async fn source_is_there(
    settings: &Settings,
    secrets: &Secrets,
    primary: &Upstream,
) -> Result<(), SourceError> {
    source::ask(settings, secrets, primary, async |client| {
        let version: String = client.query_one("SHOW server_version_num", &[]).await?.try_get(0)?;
        if version.as_str() < "160000" {
            // Before 16 pg_rewind takes the primary's timeline from its last checkpoint.
            client.batch_execute("CHECKPOINT").await?;
        }
        Ok(())
    })
    .await
}

/// Rewinds PGDATA. No server must be running.
pub async fn make(
    settings: &Settings,
    reaper: &Reaper,
    sink: &Sink,
    standin: &StandInMember,
) -> Result<(), RewindError> {
    let (paths, data) = (&settings.paths, &settings.paths.data);
    let primary = requested(settings)?.ok_or(RewindError::NotRequested)?;
    let epoch =
        upstream::instance_file(paths, settings.node)?.ok_or(RewindError::NotRequested)?.epoch;
    let secrets = Secrets::read(&paths.secrets)?;
    source_is_there(settings, &secrets, &primary).await?;
    let stands = standin.begin(settings).await;
    tracing::info!(primary = %primary.node_id, host = %primary.host, port = primary.port, "rewinding to the primary's history");
    files::write_atomically(
        &paths.passfile(),
        config::passfile(secrets.replication.as_deref()).as_bytes(),
    )?;
    let program = Program { settings, reaper, sink, primary: &primary };
    if is_clean(data)? {
        program.run(&["--dry-run"]).await?;
    } else {
        // pg_rewind runs crash recovery first, in single-user mode, which does not work with
        // standby.signal.
        prepare::remove_future_two_phase_files(data)?;
        files::remove_file(&paths::standby_signal(data))?;
    }
    standin::set_diverged_in(paths, epoch)?;
    program.run(&[]).await?;
    files::remove_file(&paths::bootstrap_mark(data))?;
    // If this fails, only a clone helps.
    prepare::remove_future_two_phase_files(data)?;
    files::write_atomically(&paths::standby_signal(data), b"")?;
    upstream::remember(paths, &primary)?;
    if !stands {
        upstream::forget_rewind(paths, settings.node)?;
    }
    files::remove_file(&paths.rewind_in_progress())?;
    Ok(())
}

/// pg_rewind and its context.
struct Program<'a> {
    settings: &'a Settings,
    reaper: &'a Reaper,
    sink: &'a Sink,
    primary: &'a Upstream,
}

impl Program<'_> {
    /// Runs it, repeatedly as long as it changes nothing.
    async fn run(&self, more: &[&str]) -> Result<(), ProcessError> {
        let mut tries = 1;
        loop {
            match self.run_once(more).await {
                Err((_, begun)) if is_retried(tries, begun) => {
                    tracing::warn!("pg_rewind failed before it changed anything; trying again");
                    tokio::time::sleep(RETRY_DELAY).await;
                    tries += 1;
                }
                done => return done.map_err(|(error, _)| error),
            }
        }
    }

    /// Runs it once. The error comes with whether it had begun to change PGDATA.
    async fn run_once(&self, more: &[&str]) -> Result<(), (ProcessError, bool)> {
        let Self { settings, reaper, sink, primary } = self;
        let data = &settings.paths.data;
        let mut command = process::program(settings, "pg_rewind", data);
        command.arg("-D").arg(data);
        command.arg(format!("--source-server={}", source_conninfo(settings, primary)));
        // If pg_rewind has to finish crash recovery, it keeps as much WAL as the server would.
        command.arg(format!("--config-file={}", settings.paths.conf().display()));
        command.args(more);
        let begun = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&begun);
        let watch = move |message: &str| {
            if message.contains(BEGIN_MESSAGE) {
                seen.store(true, Ordering::Relaxed);
            }
        };
        let outcome = process::run_and_watch(reaper, sink, "pg_rewind", command, watch).await;
        // While the output is still being read, the message may not have been seen.
        let begun = !more.contains(&"--dry-run")
            && (Arc::strong_count(&begun) > 1 || begun.load(Ordering::Relaxed));
        outcome.map_err(|error| (error, begun))
    }
}

/// Whether to run pg_rewind again. Once it has begun to change PGDATA it must not be repeated: its WAL
/// may be the source's by then, and changed blocks would be missed.
const fn is_retried(tries: u32, begun: bool) -> bool {
    !begun && tries < MAX_ATTEMPTS
}

fn source_conninfo(settings: &Settings, primary: &Upstream) -> String {
    config::program_conninfo(settings, primary, "rewind", &[("dbname", sql::DATABASE)])
}

/// Whether the server was shut down cleanly, by `state` of its control file (`pg_control.h`: at byte
/// 16, 1 shut down, 2 shut down in recovery).
fn is_clean(data: &Path) -> Result<bool, FileError> {
    let path = data.join("global/pg_control");
    let mut head = [0; 20];
    File::open(&path)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(FileError::at("read", &path))?;
    Ok(matches!(head[16..], [1 | 2, 0, 0, 0] | [0, 0, 0, 1 | 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewind_is_repeated_until_it_has_begun() {
        assert!((1..MAX_ATTEMPTS).all(|tries| is_retried(tries, false)));
        assert!(!is_retried(MAX_ATTEMPTS, false), "then a clone helps");
        assert!((1..=MAX_ATTEMPTS).all(|tries| !is_retried(tries, true)));
    }
}
