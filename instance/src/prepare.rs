//! Writes the files that Postgres reads, before it starts and after changes.

use std::fs;
use std::path::Path;

use pgraft_raft::twophase::{self, TwoPhaseError};

use crate::files::{self, FileError};
use crate::paths::{self, Paths};
use crate::postgres::{config, placeholders};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::supervisor::{StartFailure, StartMode};
use crate::upstream::{self, UpstreamError};

/// Why the files could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The primary to follow.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The data directory is a standby's by now.
    #[error("the server is not started as the primary because standby.signal exists")]
    StandbySignal,
    /// Two-phase state files.
    #[error(transparent)]
    TwoPhase(TwoPhaseError),
    /// WAL that recovery needs is missing.
    #[error(
        "the data directory is damaged: {0}; restore the missing WAL, or empty the data directory to clone the primary"
    )]
    Damaged(TwoPhaseError),
}

impl From<TwoPhaseError> for PrepareError {
    fn from(error: TwoPhaseError) -> Self {
        match error {
            TwoPhaseError::NoCheckpoint { .. } => Self::Damaged(error),
            TwoPhaseError::File { .. } => Self::TwoPhase(error),
        }
    }
}

impl PrepareError {
    /// Whether another copy of the data may start where this one does not.
    pub const fn start_failure(&self) -> StartFailure {
        match self {
            Self::Damaged(_) => StartFailure::DamagedData,
            Self::File(_) | Self::Upstream(_) | Self::StandbySignal | Self::TwoPhase(_) => {
                StartFailure::Other
            }
        }
    }
}

/// Writes all files. Returns whether the server must reload them.
pub fn write_files(settings: &Settings, os_user: &str) -> Result<bool, PrepareError> {
    let paths = &settings.paths;
    let secrets = Secrets::read(&paths.secrets)?;
    let file = upstream::instance_file(paths, settings.node)?;
    let primary = upstream::follow(settings.node, file.as_ref(), upstream::last(paths)?);
    if let Some(primary) = &primary {
        upstream::remember(paths, primary)?;
    }
    let conf = config::postgresql_conf(settings, primary.as_ref());
    files::write_atomically(
        &paths.passfile(),
        config::passfile(secrets.replication.as_deref()).as_bytes(),
    )?;
    let mut changed = files::write_atomically(&paths.conf(), conf.text.as_bytes())?;
    changed |= files::write_atomically(&paths.hba(), config::hba(settings).as_bytes())?;
    changed |=
        files::write_atomically(&paths.ident(), config::ident(settings, os_user).as_bytes())?;
    if changed {
        for note in &conf.notes {
            tracing::warn!("{note}");
        }
        let follows = primary.map(|p| p.to_string());
        tracing::info!(follows, "wrote the server's configuration");
    }
    Ok(changed)
}

/// Prepares PGDATA for a start in this mode.
pub fn data_directory(paths: &Paths, mode: StartMode) -> Result<(), PrepareError> {
    let data = &paths.data;
    match mode {
        StartMode::Standby => {
            files::write_atomically(&paths::standby_signal(data), b"")?;
            remove_placeholders(&data.join("pg_wal"))?;
        }
        StartMode::Primary if paths::standby_signal(data).exists() => {
            return Err(PrepareError::StandbySignal);
        }
        StartMode::Primary => {}
    }
    remove_future_two_phase_files(data)?;
    let auto = data.join("postgresql.auto.conf");
    if let Some(text) = files::read_if_there(&auto)?
        && let Some(kept) = config::scrubbed_auto_conf(&String::from_utf8_lossy(&text))
    {
        files::write_atomically(&auto, kept.as_bytes())?;
        tracing::warn!("removed settings from postgresql.auto.conf that pgraft manages");
    }
    Ok(())
}

/// Removes two-phase state files for which recovery would skip the PREPARE record and lose the
/// prepared transaction.
pub fn remove_future_two_phase_files(data: &Path) -> Result<(), TwoPhaseError> {
    for file in twophase::remove_not_older(data)? {
        tracing::info!(
            file,
            "removed a two-phase state file that is newer than the checkpoint recovery starts from; the WAL restores it"
        );
    }
    Ok(())
}

/// Removes history files that would prevent a standby from starting, or lead it past a fork.
fn remove_placeholders(wal: &Path) -> Result<(), FileError> {
    let entries = fs::read_dir(wal).map_err(FileError::at("read", wal))?.filter_map(Result::ok);
    let all: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    for name in placeholders::stale(&all.iter().map(String::as_str).collect::<Vec<_>>()) {
        files::remove_file(&wal.join(name))?;
        tracing::info!(name, "removed the history file of a timeline without WAL");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_files_of_timelines_without_wal_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().into(), ..crate::settings::tests::example().paths };
        let wal = dir.path().join("pg_wal");
        fs::create_dir(&wal).unwrap();
        for (name, content) in [
            ("000000030000000000000001", "wal"),
            ("00000002.history", ""),
            ("00000003.history", "1"),
            ("00000004.history", "1"),
        ] {
            fs::write(wal.join(name), content).unwrap();
        }
        data_directory(&paths, StartMode::Standby).unwrap();
        assert!(paths::standby_signal(dir.path()).exists());
        let mut left: Vec<_> = fs::read_dir(&wal)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["00000002.history", "00000003.history", "000000030000000000000001"]);
    }

    #[test]
    fn missing_wal_is_damage_and_an_unreadable_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("pg_twophase");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("00000000000002E4"), "").unwrap();
        let failure = || {
            let error = PrepareError::from(remove_future_two_phase_files(dir.path()).unwrap_err());
            (error.start_failure(), error.to_string())
        };
        assert_eq!(failure().0, StartFailure::Other, "there is no pg_control");
        let label = "START WAL LOCATION: 0/1000028 (file x)\nCHECKPOINT LOCATION: 0/1000060\n";
        fs::write(dir.path().join("backup_label"), label).unwrap();
        let (failure, message) = failure();
        assert_eq!(failure, StartFailure::DamagedData);
        assert_eq!(
            message.replace(&directory.display().to_string(), "pg_twophase"),
            "the data directory is damaged: could not find the next transaction ID of the checkpoint that recovery starts from, and pg_twophase has two-phase state files; restore the missing WAL, or empty the data directory to clone the primary"
        );
        assert!(directory.join("00000000000002E4").exists(), "nothing is removed");
    }
}
