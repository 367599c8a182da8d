//! Small files that are either the old or the new one, whatever happens: temporary file, fsync, rename, fsync of the directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine;

/// Replaces the file at `path`, readable by its owner only.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    #[cfg(feature = "sim")]
    if crate::sim::here(|machine| machine.replace_file(path, bytes)).is_some() {
        return Ok(());
    }
    let dir = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file needs a directory"))?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

/// [`replace`] with a value as JSON.
pub fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(value)?)
}

/// The value in the file; None when there is no file. A file that can't be read as `T` is an error, never "nothing".
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// [`read_json`] of a file that says its format. One of another format may look any way at all, so that is read first.
pub fn read_versioned<T: DeserializeOwned>(path: &Path, format: u32) -> io::Result<Option<T>> {
    let Some(value) = read_json::<serde_json::Value>(path)? else { return Ok(None) };
    let file = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match value["format"].as_u64() {
        Some(found) if found == u64::from(format) => Ok(Some(serde_json::from_value(value)?)),
        Some(found) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{} has format {found}, and this version reads format {format}", file()),
        )),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} says no format", file()))),
    }
}

/// [`replace_json`] on a thread that may block.
pub async fn replace_json_elsewhere<T: Serialize + Send + 'static>(path: PathBuf, value: T) -> io::Result<()> {
    if machine::is_simulated() {
        return replace_json(&path, &value);
    }
    tokio::task::spawn_blocking(move || replace_json(&path, &value)).await.map_err(io::Error::other)?
}

/// Makes a directory that is its owner's alone, with those above it, unless it is there.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if machine::is_simulated() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether something is there.
pub fn exists(path: &Path) -> bool {
    !machine::is_simulated() && path.exists()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    #[cfg(feature = "sim")]
    if let Some(file) = crate::sim::here(|machine| machine.read_file(path)) {
        return file;
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused_whatever_it_looks_like() {
        #[derive(Debug, serde::Deserialize, PartialEq)]
        struct File {
            format: u32,
            word: String,
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        assert_eq!(read_versioned::<File>(&path, 2).unwrap(), None);
        for (text, kind) in [
            ("{\"format\":1,\"word\":\"x\"}", io::ErrorKind::Unsupported),
            ("{\"format\":3,\"words\":[]}", io::ErrorKind::Unsupported),
            ("{\"word\":\"x\"}", io::ErrorKind::InvalidData),
            ("{\"format\":2,\"wor", io::ErrorKind::UnexpectedEof),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_versioned::<File>(&path, 2).unwrap_err().kind(), kind, "{text}");
        }
        fs::write(&path, "{\"format\":2,\"word\":\"x\"}").unwrap();
        assert_eq!(read_versioned(&path, 2).unwrap(), Some(File { format: 2, word: "x".into() }));
    }

    #[test]
    fn what_was_written_is_read_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), None);
        replace_json(&path, &vec![1u8, 2]).unwrap();
        replace_json(&path, &vec![3u8]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(vec![3]));
        fs::write(&path, b"[3").unwrap();
        assert!(read_json::<Vec<u8>>(&path).is_err());
    }
}
