//! Small files that are either the old or the new one, whatever happens: temporary file, fsync,
//! rename, fsync of the directory.

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
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file needs a directory"))?;
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
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

/// [`versioned`] of a file; None when there is no file. A file that can't be read as `T` is an
/// error, never "nothing".
pub fn read_versioned<T: DeserializeOwned>(path: &Path, format: u32) -> io::Result<Option<T>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    read(path)?.map(|bytes| versioned(&bytes, &name, format)).transpose()
}

/// The value in a file that says its format. One of another format may look any way at all, so that
/// is read first.
pub fn versioned<T: DeserializeOwned>(bytes: &[u8], name: &str, format: u32) -> io::Result<T> {
    let value: serde_json::Value = serde_json::from_slice(bytes)?;
    match value["format"].as_u64() {
        Some(found) if found == u64::from(format) => Ok(serde_json::from_value(value)?),
        Some(found) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{name} has format {found}, and this version reads format {format}"),
        )),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} says no format"))),
    }
}

/// [`replace_json`] on a thread that may block.
pub async fn replace_json_elsewhere<T: Serialize + Send + 'static>(
    path: PathBuf,
    value: T,
) -> io::Result<()> {
    if machine::is_simulated() {
        return replace_json(&path, &value);
    }
    tokio::task::spawn_blocking(move || replace_json(&path, &value))
        .await
        .map_err(io::Error::other)?
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

/// What is in the file; None when there is no file.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read_there(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_there(path: &Path) -> io::Result<Vec<u8>> {
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
        struct DurableFile {
            format: u32,
            word: String,
        }
        for (text, kind) in [
            ("{\"format\":1,\"word\":\"x\"}", io::ErrorKind::Unsupported),
            ("{\"format\":3,\"words\":[]}", io::ErrorKind::Unsupported),
            ("{\"word\":\"x\"}", io::ErrorKind::InvalidData),
            ("{\"format\":2,\"wor", io::ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(
                versioned::<DurableFile>(text.as_bytes(), "f.json", 2).unwrap_err().kind(),
                kind,
                "{text}"
            );
        }
        let file: DurableFile = versioned(b"{\"format\":2,\"word\":\"x\"}", "f.json", 2).unwrap();
        assert_eq!(file, DurableFile { format: 2, word: "x".into() });
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json");
        assert_eq!(read(&path).unwrap(), None);
        replace_json(&path, &vec![1u8, 2]).unwrap();
        replace_json(&path, &vec![3u8]).unwrap();
        assert_eq!(serde_json::from_slice::<Vec<u8>>(&read(&path).unwrap().unwrap()).unwrap(), [3]);
    }
}
