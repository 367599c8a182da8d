//! Reads what the supervisor decides by: the disk, and the peers where `initdb` would be next. Changes nothing.

use std::fs;
use std::io;
use std::path::Path;

use crate::files::{FileError, read_if_there};
use crate::paths;
use crate::peers;
use crate::settings::Settings;
use crate::supervisor::{Data, Facts, Named};
use crate::upstream::{self, UpstreamError};

/// Why the facts are not known.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// `instance.json`.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Reads everything anew.
pub async fn inspect(settings: &Settings) -> Result<Facts, FactsError> {
    let data = data(&settings.paths.data, settings.node.get())?;
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    let named = match file.map(|f| f.primary) {
        None => Named::Nothing,
        Some(None) => Named::Nobody,
        Some(Some(primary)) if primary == settings.node => Named::This,
        Some(Some(_)) => Named::Other,
    };
    let would_found = settings.founder && data == Data::Empty && named == Named::Nothing;
    let cluster_elsewhere = would_found && upstream::cluster_among(settings.node, &peers::ask_all(&settings.config.peers).await);
    Ok(Facts { data, named, founder: settings.founder, cluster_elsewhere })
}

fn data(path: &Path, node: u32) -> Result<Data, FileError> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Data::Empty),
        Err(e) => return Err(FileError::at("read", path)(e)),
    };
    if entries.next().is_none() {
        return Ok(Data::Empty);
    }
    if !path.join("PG_VERSION").exists() || !path.join("global/pg_control").exists() {
        return Ok(Data::Foreign);
    }
    let mark = read_if_there(&paths::founding_mark(path))?;
    let founding = mark.is_some_and(|m| String::from_utf8_lossy(&m).trim() == node.to_string());
    Ok(Data::Whole { founding, standby_signal: paths::standby_signal(path).exists() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_directory_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgdata");
        assert_eq!(data(&path, 1).unwrap(), Data::Empty);
        fs::create_dir(&path).unwrap();
        assert_eq!(data(&path, 1).unwrap(), Data::Empty);
        fs::write(path.join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(data(&path, 1).unwrap(), Data::Foreign);
        fs::create_dir(path.join("global")).unwrap();
        fs::write(path.join("global/pg_control"), "").unwrap();
        assert_eq!(data(&path, 1).unwrap(), Data::Whole { founding: false, standby_signal: false });
        fs::write(paths::founding_mark(&path), "1\n").unwrap();
        assert_eq!(data(&path, 1).unwrap(), Data::Whole { founding: true, standby_signal: false });
        fs::write(paths::standby_signal(&path), "").unwrap();
        assert_eq!(data(&path, 11).unwrap(), Data::Whole { founding: false, standby_signal: true });
    }
}
