//! Checks the host before anything is started, and holds the lock that excludes a second instance
//! manager on the same PGDATA.

use nix::unistd::{Uid, User, geteuid};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::files::{self, FileError};
use crate::paths::Paths;
use crate::settings::Settings;

/// A problem with the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Postgres refuses to run as root.
    #[error(
        "pgraft-instance must not run as root; run it as the user that owns the Postgres server"
    )]
    Root,
    /// `initdb` and peer authentication need a user name.
    #[error("user id {0} has no name in the user database, but Postgres requires one")]
    NoName(Uid),
    /// The data of another user.
    #[error("{} is owned by user id {owner}, but pgraft-instance runs as user id {this}; Postgres requires that they are the same", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        this: u32,
    },
    /// `binDirectory` does not contain Postgres.
    #[error("binDirectory: {} does not exist", .0.display())]
    NoProgram(PathBuf),
    /// Another instance manager.
    #[error("another pgraft-instance is already running on {}", .0.display())]
    Locked(PathBuf),
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Checks the host. Returns the name of the user that this process and Postgres run as.
pub fn check(settings: &Settings) -> Result<String, HostError> {
    let uid = geteuid();
    if uid.is_root() {
        return Err(HostError::Root);
    }
    let user = User::from_uid(uid).ok().flatten().ok_or(HostError::NoName(uid))?;
    for name in ["postgres", "initdb", "pg_basebackup", "pg_rewind"] {
        let program = settings.paths.program(name);
        if !program.is_file() {
            return Err(HostError::NoProgram(program));
        }
    }
    for directory in [&settings.paths.data, &settings.paths.work, &settings.paths.raft] {
        owned(directory, uid)?;
    }
    Ok(user.name)
}

fn owned(path: &Path, uid: Uid) -> Result<(), HostError> {
    match fs::metadata(path) {
        Ok(meta) if meta.uid() != uid.as_raw() => {
            Err(HostError::Owner { path: path.to_owned(), owner: meta.uid(), this: uid.as_raw() })
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(FileError::at("stat", path)(e).into()),
    }
}

/// Restricts the mode of the data directory. Postgres does not start if others can access it or if
/// it cannot write to it itself, as after Kubernetes' `fsGroup` or a manual copy.
fn restrict(data: &Path) -> Result<(), FileError> {
    let Ok(meta) = fs::metadata(data) else { return Ok(()) };
    let mode = meta.permissions().mode() & 0o7777;
    if !data.join("PG_VERSION").exists() || (mode & 0o027 == 0 && mode & 0o700 == 0o700) {
        return Ok(());
    }
    fs::set_permissions(data, Permissions::from_mode(0o700))
        .map_err(FileError::at("set the mode of", data))?;
    tracing::warn!(path = %data.display(), mode = format!("{mode:04o}"), "changed the mode of the data directory to 0700, as Postgres requires");
    Ok(())
}

/// Creates the directories, and locks them for as long as the returned file is open.
pub fn lock(paths: &Paths) -> Result<File, HostError> {
    files::private_directory(&paths.work)?;
    files::private_directory(&paths.raft)?;
    restrict(&paths.data)?;
    let path = paths.lock();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(FileError::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HostError::Locked(paths.data.clone())),
        Err(TryLockError::Error(e)) => Err(FileError::at("lock", &path)(e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_manager_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = crate::settings::tests::example().paths;
        let paths = Paths {
            data: dir.path().join("d"),
            work: dir.path().join("d.pgraft"),
            raft: dir.path().join("r"),
            ..base
        };
        let first = lock(&paths).unwrap();
        assert!(matches!(lock(&paths), Err(HostError::Locked(_))));
        drop(first);
        lock(&paths).unwrap();
    }

    #[test]
    fn the_mode_of_a_data_directory_is_restricted() {
        let dir = tempfile::tempdir().unwrap();
        let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777;
        let set = |mode| fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        set(0o777);
        restrict(dir.path()).unwrap();
        assert_eq!(mode(), 0o777, "somebody else's files are in it");
        fs::write(dir.path().join("PG_VERSION"), "17\n").unwrap();
        for (before, after) in [
            (0o777, 0o700),
            (0o755, 0o700),
            (0o770, 0o700),
            (0o2770, 0o700),
            (0o500, 0o700),
            (0o750, 0o750),
            (0o700, 0o700),
            (0o2750, 0o2750),
        ] {
            set(before);
            restrict(dir.path()).unwrap();
            assert_eq!(mode(), after, "{before:o}");
        }
    }

    #[test]
    fn data_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = Uid::from_raw(geteuid().as_raw() + 1);
        assert!(matches!(owned(dir.path(), other), Err(HostError::Owner { .. })));
        owned(dir.path(), geteuid()).unwrap();
        owned(&dir.path().join("none"), other).unwrap();
    }
}
