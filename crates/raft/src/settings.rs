//! What a member is started with. Read once, by the extension from its GUCs; checked here, so that a test and a server are refused alike.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgraft_core::{Address, NodeId, Refusal, control};

/// The longest path of a Unix socket on Linux, without its closing zero byte (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

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
        if pgdata.is_some_and(|pgdata| self.data_dir.starts_with(pgdata)) {
            return Err(SettingsError::InsideDataDirectory(self.data_dir.clone()));
        }
        if self.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(SettingsError::PathTooLong { path: self.data_dir.clone(), max: MAX_SOCKET_PATH });
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
