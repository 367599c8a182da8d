//! What a member is started with. Read once, by the extension from its GUCs; checked here, so that a test and a server are refused alike.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use pgraft_core::{Address, NodeId, Refusal, control};

/// The longest path of a Unix socket on Linux, without its closing zero byte (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

/// The longest `pgraft.zone`, in bytes.
const MAX_ZONE: usize = 63;

/// Everything that a member needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `pgraft.node_id`.
    pub node_id: NodeId,
    /// `pgraft.listen_address` and `pgraft.port`.
    pub listen: Address,
    /// `pgraft.advertise_address` and `pgraft.port`: where the other members find this one.
    pub advertise: Address,
    /// `pgraft.data_dir`.
    pub data_dir: PathBuf,
    /// `pgraft.heartbeat_interval`.
    pub heartbeat_interval: Duration,
    /// `pgraft.election_timeout`.
    pub election_timeout: Duration,
    /// This node's Postgres server, as it tells the group.
    pub postgres: Address,
    /// `pgraft.zone`.
    pub zone: String,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value that is refused on its own.
    #[error("{setting}: {why}")]
    Value {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong.
        why: Refusal,
    },
    /// A setting that has no default and was not made.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// The Raft directory within the database's: a base backup would copy a node's identity.
    #[error("pgraft.data_dir {0} is inside the data directory, where a base backup would copy this node's identity")]
    InsideDataDirectory(PathBuf),
    /// A relative Raft directory.
    #[error("pgraft.data_dir \"{0}\" is not an absolute path")]
    NotAbsolute(PathBuf),
    /// A path too long for the control socket.
    #[error("pgraft.data_dir {path} is too long: the control socket's path may have {max} bytes")]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// A zone that does not fit into the status.
    #[error("pgraft.zone is longer than {MAX_ZONE} bytes")]
    ZoneTooLong,
    /// Heartbeats that come too late to prevent an election.
    #[error("pgraft.election_timeout ({election} ms) must be at least three times pgraft.heartbeat_interval ({heartbeat} ms)")]
    Timing {
        /// Milliseconds.
        heartbeat: u128,
        /// Milliseconds.
        election: u128,
    },
}

impl Settings {
    /// # Errors
    /// The first thing that is wrong with the settings as a whole. `pgdata` is the database's directory.
    pub fn check(&self, pgdata: Option<&Path>) -> Result<(), SettingsError> {
        if !self.data_dir.is_absolute() {
            return Err(SettingsError::NotAbsolute(self.data_dir.clone()));
        }
        if pgdata.is_some_and(|pgdata| real(&self.data_dir).starts_with(real(pgdata))) {
            return Err(SettingsError::InsideDataDirectory(self.data_dir.clone()));
        }
        if self.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(SettingsError::PathTooLong { path: self.data_dir.clone(), max: MAX_SOCKET_PATH });
        }
        if self.zone.len() > MAX_ZONE {
            return Err(SettingsError::ZoneTooLong);
        }
        let (heartbeat, election) = (self.heartbeat_interval.as_millis(), self.election_timeout.as_millis());
        if election < 3 * heartbeat {
            return Err(SettingsError::Timing { heartbeat, election });
        }
        Ok(())
    }

    /// Where the control socket is.
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join(control::SOCKET_NAME)
    }
}

/// The path without symbolic links and dots, as far as it exists.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.components().next_back()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(Component::Normal(name))) => real(parent).join(name),
        (Err(_), Some(parent), Some(Component::ParentDir)) => real(parent).parent().map_or_else(PathBuf::new, Path::to_path_buf),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_recognised_through_links_and_dots() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("pg")).unwrap();
        std::os::unix::fs::symlink(base.join("pg"), base.join("link")).unwrap();
        for inside in ["pg/raft", "link/raft/deep", "x/../pg/raft", "pg/../link/raft"] {
            assert!(real(&base.join(inside)).starts_with(real(&base.join("link"))), "{inside}");
        }
        for outside in ["raft", "pg/../raft", "pgraft"] {
            assert!(!real(&base.join(outside)).starts_with(real(&base.join("pg"))), "{outside}");
        }
    }
}
