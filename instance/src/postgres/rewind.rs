//! Makes the history of a PGDATA that of the primary, by `pg_rewind`.
//!
//! ```text
//!  the primary is asked ▸ what can be known without a change is known ▸ mark ▸ pg_rewind ▸ standby.signal ▸ no mark
//!                         (a dry run, where the server was shut down cleanly)
//! ```
//!
//! From the mark on PGDATA is nobody's: whatever breaks this off, it is replaced by a clone and
//! never started as it is. Until pg_rewind says from where it rewinds it has changed nothing; where
//! it fails before that, it is run again some times.

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

/// How often pg_rewind is run while it changes nothing: its one connection may be refused, or the
/// primary be busy.
const MAX_ATTEMPTS: u32 = 5;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// What pg_rewind says before it changes the first byte (`pg_rewind.c`: `main`).
const BEGINS: &str = "rewinding from last common checkpoint";

/// Why PGDATA does not have the primary's history.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// The group has moved on.
    #[error("instance.json names no primary that this server's WAL has diverged from")]
    NotAsked,
    /// The primary does not let this node in, or not now.
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
    /// Prepared transactions.
    #[error(transparent)]
    TwoPhase(#[from] TwoPhaseError),
}

impl RewindError {
    /// Whether nothing was changed and nothing is known to be in the way.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::NotAsked | Self::Source(_) | Self::Upstream(_) => true,
            Self::File(_) | Self::Process(_) | Self::TwoPhase(_) => false,
        }
    }
}

/// The primary that `instance.json` says this server's WAL has diverged from.
pub fn asked_for(settings: &Settings) -> Result<Option<Upstream>, UpstreamError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    let asked = file.as_ref().is_some_and(|f| f.rewind.is_some() && f.rewind == f.primary);
    if !asked {
        return Ok(None);
    }
    Ok(upstream::follow(settings.node, file.as_ref(), upstream::last(&settings.paths)?))
}

/// Whether the primary is there and lets this node in.
pub async fn source_is_there(
    settings: &Settings,
    secrets: &Secrets,
    primary: &Upstream,
) -> Result<(), SourceError> {
    source::ask(settings, secrets, primary, async |client| {
        let version: String = client.query_one("SHOW server_version_num", &[]).await?.try_get(0)?;
        if version.as_str() < "160000" {
            // Until 16 pg_rewind takes the timeline of the last checkpoint for the primary's.
            client.batch_execute("CHECKPOINT").await?;
        }
        Ok(())
    })
    .await
}

/// Rewinds. No server runs meanwhile.
pub async fn make(
    settings: &Settings,
    reaper: &Reaper,
    sink: &Sink,
    standin: &StandInMember,
) -> Result<(), RewindError> {
    let (paths, data) = (&settings.paths, &settings.paths.data);
    let primary = asked_for(settings)?.ok_or(RewindError::NotAsked)?;
    let epoch = upstream::instance_file(paths, settings.node)?.ok_or(RewindError::NotAsked)?.epoch;
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
        // pg_rewind runs crash recovery first, in single-user mode, which refuses to be a
        // standby's.
        prepare::remove_future_two_phase_files(data)?;
        files::remove_file(&paths::standby_signal(data))?;
    }
    standin::parts_in(paths, epoch)?;
    program.run(&[]).await?;
    files::remove_file(&paths::bootstrap_mark(data))?;
    // Where that is impossible a clone helps, and a start does not.
    prepare::remove_future_two_phase_files(data)?;
    files::write_atomically(&paths::standby_signal(data), b"")?;
    upstream::remember(paths, &primary)?;
    if !stands {
        upstream::forget_rewind(paths, settings.node)?;
    }
    files::remove_file(&paths.rewind_in_progress())?;
    Ok(())
}

/// pg_rewind, and what it needs.
struct Program<'a> {
    settings: &'a Settings,
    reaper: &'a Reaper,
    sink: &'a Sink,
    primary: &'a Upstream,
}

impl Program<'_> {
    /// Runs it, again and again while it changes nothing.
    async fn run(&self, more: &[&str]) -> Result<(), ProcessError> {
        let mut tries = 1;
        loop {
            match self.run_once(more).await {
                Err((_, begun)) if is_tried_again(tries, begun) => {
                    tracing::warn!("pg_rewind has changed nothing yet; trying again");
                    tokio::time::sleep(PAUSE).await;
                    tries += 1;
                }
                done => return done.map_err(|(error, _)| error),
            }
        }
    }

    /// Beside an error, whether it had begun.
    async fn run_once(&self, more: &[&str]) -> Result<(), (ProcessError, bool)> {
        let Self { settings, reaper, sink, primary } = self;
        let data = &settings.paths.data;
        let mut command = process::program(settings, "pg_rewind", data);
        command.arg("-D").arg(data);
        command.arg(format!("--source-server={}", source_conninfo(settings, primary)));
        // Where pg_rewind has to end the recovery of a server that was killed, it keeps as much WAL
        // as the server would.
        command.arg(format!("--config-file={}", settings.paths.conf().display()));
        command.args(more);
        let begun = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&begun);
        let watch = move |message: &str| {
            if message.contains(BEGINS) {
                seen.store(true, Ordering::Relaxed);
            }
        };
        let outcome = process::run_and_watch(reaper, sink, "pg_rewind", command, watch).await;
        // As long as somebody watches, not all that it has said is read.
        let begun = !more.contains(&"--dry-run")
            && (Arc::strong_count(&begun) > 1 || begun.load(Ordering::Relaxed));
        outcome.map_err(|error| (error, begun))
    }
}

/// What pg_rewind has begun to change must not be rewound again: its WAL may be the source's by
/// then, and blocks be missed.
const fn is_tried_again(tries: u32, begun: bool) -> bool {
    !begun && tries < MAX_ATTEMPTS
}

fn source_conninfo(settings: &Settings, primary: &Upstream) -> String {
    config::program_conninfo(settings, primary, "rewind", &[("dbname", sql::DATABASE)])
}

/// Whether the server was shut down cleanly: `state` of its control file (`pg_control.h`: at byte
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
    fn a_rewind_is_tried_again_until_it_has_begun() {
        assert!((1..MAX_ATTEMPTS).all(|tries| is_tried_again(tries, false)));
        assert!(!is_tried_again(MAX_ATTEMPTS, false), "then a clone helps");
        assert!((1..=MAX_ATTEMPTS).all(|tries| !is_tried_again(tries, true)));
    }
}
