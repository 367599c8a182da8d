//! Reads the facts that the supervisor decides by: the disk, and the peers' answers if `initdb`
//! would be next.

use jiff::Timestamp;
use std::fs;
use std::io;

use crate::files::{FileError, read_if_there};
use crate::paths::{Paths, bootstrap_mark, standby_signal};
use crate::peers;
use crate::postgres::replacement;
use crate::settings::Settings;
use crate::supervisor::{BootstrapNode, DataDirectory, Named, SupervisorFacts};
use crate::upstream::{self, UpstreamError};

/// Why the facts are unknown.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// `instance.json`.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Reads all facts.
pub async fn inspect(settings: &Settings) -> Result<SupervisorFacts, FactsError> {
    let data = data(&settings.paths, settings.node.get())?;
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    let named = match file.as_ref().map(|f| f.primary) {
        None => Named::Nothing,
        Some(None) => Named::Nobody,
        Some(Some(primary)) if primary == settings.node => Named::This,
        Some(Some(_)) => Named::Other,
    };
    let would_bootstrap =
        settings.bootstrap && data == DataDirectory::Empty && named == Named::Nothing;
    let too_late = would_bootstrap
        && upstream::cluster_among(settings.node, &peers::ask_all(&settings.config.peers).await);
    let (epoch, failover) = file.as_ref().map_or((0, false), |f| (f.epoch, f.failover));
    Ok(SupervisorFacts {
        data,
        named,
        epoch,
        diverged: file.is_some_and(|f| f.rewind.is_some() && f.rewind == f.primary),
        // A node whose configuration lacks failover does not leave a cluster that has it: its writes
        // would not be fenced.
        failover: failover || settings.failover,
        replaced_ago: replacement::age(&settings.paths, Timestamp::now())?,
        bootstrap: if too_late {
            BootstrapNode::TooLate
        } else if settings.bootstrap {
            BootstrapNode::Yes
        } else {
            BootstrapNode::No
        },
    })
}

fn data(paths: &Paths, node: u32) -> Result<DataDirectory, FileError> {
    let path = &paths.data;
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(DataDirectory::Empty),
        Err(e) => return Err(FileError::at("read", path)(e)),
    };
    if entries.next().is_none() {
        return Ok(DataDirectory::Empty);
    }
    if paths.rewind_in_progress().exists() {
        return Ok(DataDirectory::Broken);
    }
    if !path.join("PG_VERSION").exists() || !path.join("global/pg_control").exists() {
        return Ok(DataDirectory::Foreign);
    }
    let mark = read_if_there(&bootstrap_mark(path))?;
    let bootstrapping =
        mark.is_some_and(|m| String::from_utf8_lossy(&m).trim() == node.to_string());
    Ok(DataDirectory::Whole { bootstrapping, standby_signal: standby_signal(path).exists() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_each_kind_of_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgdata");
        let base = crate::settings::tests::example().paths;
        let paths = Paths { data: path.clone(), work: dir.path().join("work"), ..base };
        assert_eq!(data(&paths, 1).unwrap(), DataDirectory::Empty);
        fs::create_dir(&path).unwrap();
        assert_eq!(data(&paths, 1).unwrap(), DataDirectory::Empty);
        fs::write(path.join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(data(&paths, 1).unwrap(), DataDirectory::Foreign);
        fs::create_dir(path.join("global")).unwrap();
        fs::write(path.join("global/pg_control"), "").unwrap();
        assert_eq!(
            data(&paths, 1).unwrap(),
            DataDirectory::Whole { bootstrapping: false, standby_signal: false }
        );
        fs::write(bootstrap_mark(&path), "1\n").unwrap();
        assert_eq!(
            data(&paths, 1).unwrap(),
            DataDirectory::Whole { bootstrapping: true, standby_signal: false }
        );
        fs::write(standby_signal(&path), "").unwrap();
        assert_eq!(
            data(&paths, 11).unwrap(),
            DataDirectory::Whole { bootstrapping: false, standby_signal: true }
        );
        fs::create_dir(&paths.work).unwrap();
        fs::write(paths.rewind_in_progress(), "").unwrap();
        assert_eq!(data(&paths, 1).unwrap(), DataDirectory::Broken);
    }
}
