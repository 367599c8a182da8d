//! Creates the bootstrap node's PGDATA in a new directory, which is renamed when it is complete.
//!
//! Roles, databases and the extension are created by `provisioning.rs` at every start of a primary,
//! because those steps can be repeated.

use std::path::Path;

use crate::files::{self, FileError};
use crate::logging::Sink;
use crate::paths;
use crate::postgres::process::{self, ProcessError};
use crate::reaper::Reaper;
use crate::settings::Settings;

/// Why PGDATA could not be created.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// `initdb`.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Runs `initdb`. The new PGDATA contains the bootstrap mark: its cluster does not exist yet.
pub async fn make(settings: &Settings, reaper: &Reaper, sink: &Sink) -> Result<(), InitError> {
    let fresh = empty_fresh(settings)?;
    let mut command = process::program(settings, "initdb", &fresh);
    command.arg("-D").arg(&fresh).args([
        "--username=postgres",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        "--no-instructions",
    ]);
    process::run(reaper, sink, "initdb", command).await?;
    files::write_atomically(
        &paths::bootstrap_mark(&fresh),
        format!("{}\n", settings.node).as_bytes(),
    )?;
    put_in_place(&fresh, &settings.paths.data)?;
    Ok(())
}

/// Creates an empty directory for a new PGDATA. The rest of an earlier attempt is removed.
pub fn empty_fresh(settings: &Settings) -> Result<std::path::PathBuf, FileError> {
    let fresh = settings.paths.fresh();
    files::remove_directory(&fresh)?;
    files::private_directory(&fresh)?;
    Ok(fresh)
}

/// Renames the new directory to PGDATA. The program that wrote it has synced its content.
pub fn put_in_place(fresh: &Path, data: &Path) -> Result<(), FileError> {
    files::sync_directory(fresh)?;
    files::rename(fresh, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn replaces_an_empty_directory_only() {
        let dir = tempfile::tempdir().unwrap();
        let (fresh, data) = (dir.path().join("new"), dir.path().join("pgdata"));
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("PG_VERSION"), "17\n").unwrap();
        fs::create_dir(&data).unwrap();
        put_in_place(&fresh, &data).unwrap();
        assert!(data.join("PG_VERSION").exists() && !fresh.exists());
        fs::create_dir(&fresh).unwrap();
        put_in_place(&fresh, &data).unwrap_err();
        assert!(data.join("PG_VERSION").exists(), "nothing is overwritten");
    }
}
