//! Creates a standby's PGDATA: a base backup of the primary in a new directory, which replaces the
//! existing one when it is complete.
//!
//! A standby is never copied. With failover neither is a primary of an older epoch than this node
//! knows, because what this node has confirmed since would be missing.

use pgraft_core::instance_config::replication_name;
use pgraft_raft::twophase::TwoPhaseError;

use crate::files::{self, FileError};
use crate::logging::Sink;
use crate::paths::{self, Paths};
use crate::peers;
use crate::postgres::config;
use crate::postgres::external::{External, ExternalError};
use crate::postgres::initdb::{empty_fresh, put_in_place};
use crate::postgres::process::{self, ProcessError};
use crate::postgres::source::{self, SourceError};
use crate::prepare;
use crate::reaper::Reaper;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::standin::StandInMember;
use crate::status::Upstream;
use crate::upstream::{self, UpstreamError};

/// Why the primary could not be cloned.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// No primary is known.
    #[error(
        "no primary is known: neither instance.json nor any of the {asked} peers that answered names one"
    )]
    NoPrimary {
        /// The number of peers that answered.
        asked: usize,
    },
    /// The primary did not accept the connection.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Tablespaces.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// `instance.json` or `upstream.json`.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// `pg_basebackup`.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Two-phase state files.
    #[error(transparent)]
    TwoPhase(#[from] TwoPhaseError),
}

impl CloneError {
    /// Whether there is no primary yet.
    pub const fn is_early(&self) -> bool {
        matches!(self, Self::NoPrimary { .. } | Self::Source(SourceError::NotPrimary(_)))
    }
}

/// Finds the primary and copies it. No server must be running.
pub async fn make(
    settings: &Settings,
    reaper: &Reaper,
    sink: &Sink,
    standin: &StandInMember,
) -> Result<(), CloneError> {
    let stands = standin.begin(settings).await;
    let secrets = Secrets::read(&settings.paths.secrets)?;
    let primary = reachable_primary(settings, &secrets).await?;
    tracing::info!(primary = %primary.node_id, host = %primary.host, port = primary.port, "cloning the primary");
    files::write_atomically(
        &settings.paths.passfile(),
        config::passfile(secrets.replication.as_deref()).as_bytes(),
    )?;
    let external = External::plan(settings, &secrets, &primary).await?;
    let fresh = empty_fresh(settings)?;
    let mut command = process::program(settings, "pg_basebackup", &fresh);
    command.arg("-D").arg(&fresh);
    command.arg("-d").arg(config::program_conninfo(settings, &primary, "clone", &[]));
    command.arg(format!("--slot={}", replication_name(settings.node)));
    command.args([
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-password",
        "--label=pgraft clone",
    ]);
    command.args(external.arguments());
    process::run(reaper, sink, "pg_basebackup", command).await?;
    // The mark belongs to the bootstrap node only.
    files::remove_file(&paths::bootstrap_mark(&fresh))?;
    prepare::remove_future_two_phase_files(&fresh)?;
    files::write_atomically(&paths::standby_signal(&fresh), b"")?;
    upstream::remember(&settings.paths, &primary)?;
    replace(&settings.paths, &external)?;
    if !stands {
        upstream::forget_rewind(&settings.paths, settings.node)?;
    }
    Ok(())
}

/// Makes the new directory PGDATA. The previous one is kept until then.
fn replace(paths: &Paths, external: &External) -> Result<(), CloneError> {
    external.swap(paths)?;
    let old = paths.old();
    files::remove_directory(&old)?;
    if paths.data.exists() {
        files::rename(&paths.data, &old)?;
    }
    put_in_place(&paths.fresh(), &paths.data)?;
    files::remove_file(&paths.rewind_in_progress())?;
    files::remove_directory(&old)?;
    Ok(())
}

/// The first candidate that answers as a primary and has a slot for this node. Candidates come from
/// `instance.json`, the peers, and the primary followed last.
async fn reachable_primary(settings: &Settings, secrets: &Secrets) -> Result<Upstream, CloneError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    let last = upstream::last(&settings.paths)?;
    let answers = peers::ask_all(&settings.config.peers).await;
    let mut error = CloneError::NoPrimary { asked: answers.len() };
    for candidate in upstream::sources(settings.node, file.as_ref(), last, &answers) {
        match ensure_slot(settings, secrets, &candidate).await {
            Ok(()) => return Ok(candidate),
            Err(e) => error = e.into(),
        }
    }
    Err(error)
}

/// Checks that the server is a primary, and creates this node's slot there if it is missing or has
/// lost its WAL.
pub async fn ensure_slot(
    settings: &Settings,
    secrets: &Secrets,
    primary: &Upstream,
) -> Result<(), SourceError> {
    let name = replication_name(settings.node);
    let lost = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                WHERE slot_name = $1 AND NOT active AND (wal_status = 'lost' OR slot_type <> 'physical')";
    let missing = "SELECT pg_catalog.pg_create_physical_replication_slot($1, true) \
                   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)";
    source::ask(settings, secrets, primary, async |client| {
        client.execute(lost, &[&name]).await?;
        client.execute(missing, &[&name]).await?;
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_copy_replaces_the_previous_directory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            data: dir.path().join("d"),
            work: dir.path().join("d.pgraft"),
            ..crate::settings::tests::example().paths
        };
        for content in ["first", "second"] {
            fs::create_dir_all(paths.fresh()).unwrap();
            fs::write(paths.fresh().join("PG_VERSION"), content).unwrap();
            fs::write(paths.rewind_in_progress(), "").unwrap();
            replace(&paths, &External::default()).unwrap();
            assert_eq!(fs::read_to_string(paths.data.join("PG_VERSION")).unwrap(), content);
            assert!(
                !paths.fresh().exists()
                    && !paths.old().exists()
                    && !paths.rewind_in_progress().exists()
            );
        }
        // As after a kill between the two renames.
        fs::rename(&paths.data, paths.old()).unwrap();
        fs::create_dir_all(paths.fresh()).unwrap();
        replace(&paths, &External::default()).unwrap();
        assert!(paths.data.exists());
    }
}
