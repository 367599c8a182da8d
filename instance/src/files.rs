//! File operations that survive a crash of the machine: a file is written completely or not at all
//! (temporary file, fsync, rename, fsync of the directory).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A failed operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {}: {source}", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Adds the operation and the file to an IO error.
    pub fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

/// Writes a file with mode 0600, unless it already has this content. Returns whether it was
/// written.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<bool, FileError> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let mut temp = path.as_os_str().to_owned();
    temp.push(".tmp");
    let temp = PathBuf::from(temp);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .map_err(FileError::at("create", &temp))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(FileError::at("write", &temp))?;
    rename(&temp, path)?;
    Ok(true)
}

/// Renames durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::at("rename", from))?;
    sync_directory(to.parent().unwrap_or_else(|| Path::new("/")))
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|d| d.sync_all()).map_err(FileError::at("sync", path))
}

/// Reads a file; None if it does not exist.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::at("read", path)(e)),
    }
}

/// Removes a file durably, if it exists.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path.parent().unwrap_or_else(|| Path::new("/"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(FileError::at("remove", path)(e)),
    }
}

/// Removes a directory and its content, if it exists.
pub fn remove_directory(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::at("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Creates a directory, and those above it, with mode 0700. An existing directory gets that mode and
/// keeps its content.
pub fn private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(FileError::at("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(FileError::at("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(write_atomically(&path, b"a").unwrap());
        assert!(!write_atomically(&path, b"a").unwrap());
        assert!(write_atomically(&path, b"b").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"b");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temp file stays");
    }

    #[test]
    fn a_missing_file_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        remove_file(&path).unwrap();
        remove_directory(&path).unwrap();
        assert_eq!(read_if_there(&path).unwrap(), None);
        assert!(
            write_atomically(&path.join("y"), b"")
                .unwrap_err()
                .to_string()
                .starts_with("could not create")
        );
    }
}
