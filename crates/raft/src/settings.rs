//! What a member is started with. Read once, by the extension from its GUCs; checked here, so that
//! a test and a server are refused alike.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use pgraft_core::{Address, NodeId, Refusal, control};

/// The longest path of a Unix socket on Linux, without its closing zero byte (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

/// The longest `pgraft.zone`, in bytes.
const MAX_ZONE: usize = 63;

/// [`RaftSettings::snapshot_every`] of a server: some weeks of changes, and a start that reads them
/// in milliseconds.
pub const SNAPSHOT_EVERY: u64 = 1000;

/// Everything that a member needs to know before it starts.
#[derive(Debug, Clone)]
pub struct RaftSettings {
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
    /// `pgraft.join_timeout`: after so long a newcomer that was never heard is given up; None:
    /// never.
    pub join_timeout: Option<Duration>,
    /// `pgraft.lease_timeout`, where `pgraft.failover` is on: the members decide who is the
    /// primary.
    pub lease_timeout: Option<Duration>,
    /// A snapshot is made after so many entries, and about as many stay in the log behind it.
    pub snapshot_every: u64,
    /// This node's Postgres server, as it tells the group.
    pub postgres: Address,
    /// `pgraft.zone`.
    pub zone: String,
    /// `pgraft.tls_…` and `pgraft.allow_plaintext`.
    pub protection: Protection,
}

/// What keeps strangers off the Raft port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Protection {
    /// Only this host reaches it: it may be on a loopback address and nowhere else.
    #[default]
    Loopback,
    /// The network is trusted: `pgraft.allow_plaintext`.
    TrustedNetwork,
    /// Mutual TLS.
    Tls(RaftTlsFiles),
}

/// `pgraft.tls_cert_file`, `pgraft.tls_key_file` and `pgraft.tls_ca_file`, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftTlsFiles {
    /// This node's certificate, and the intermediate ones up to the CA's if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The cluster's CA; several while one replaces another.
    pub ca: PathBuf,
}

impl Protection {
    /// # Errors
    /// TLS that is set by half, or a path that is relative. "" stands for a setting that was not
    /// made.
    pub fn new(
        cert: &str,
        key: &str,
        ca: &str,
        allow_plaintext: bool,
    ) -> Result<Self, RaftSettingsError> {
        let settings = [
            ("pgraft.tls_cert_file", cert),
            ("pgraft.tls_key_file", key),
            ("pgraft.tls_ca_file", ca),
        ];
        let missing = settings.iter().find(|(_, value)| value.is_empty());
        let given = settings.iter().find(|(_, value)| !value.is_empty());
        match (given, missing) {
            (Some((given, _)), Some((missing, _))) => {
                return Err(RaftSettingsError::HalfTls { given, missing });
            }
            (None, _) => {
                return Ok(if allow_plaintext { Self::TrustedNetwork } else { Self::Loopback });
            }
            (Some(_), None) => {}
        }
        if let Some((setting, value)) =
            settings.into_iter().find(|(_, value)| !Path::new(value).is_absolute())
        {
            return Err(RaftSettingsError::RelativeFile { setting, path: value.into() });
        }
        Ok(Self::Tls(RaftTlsFiles { cert: cert.into(), key: key.into(), ca: ca.into() }))
    }
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum RaftSettingsError {
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
    #[error(
        "pgraft.data_dir {0} is inside the data directory, where a base backup would copy this node's identity"
    )]
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
    /// One or two of the three TLS settings.
    #[error(
        "{given} is set and {missing} is not: TLS between the members takes pgraft.tls_cert_file, pgraft.tls_key_file and pgraft.tls_ca_file"
    )]
    HalfTls {
        /// One that is set.
        given: &'static str,
        /// One that is not.
        missing: &'static str,
    },
    /// A relative path of a certificate or key.
    #[error("{setting} {path:?} is not an absolute path")]
    RelativeFile {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A port that others reach, and nothing that says who they are.
    #[error(
        "pgraft.listen_address {0} can be reached from other hosts, and without TLS whoever reaches it can speak for a member: set \
         pgraft.tls_cert_file, pgraft.tls_key_file and pgraft.tls_ca_file, or pgraft.allow_plaintext = on where the network is trusted"
    )]
    Unprotected(String),
    /// Heartbeats that come too late to prevent an election.
    #[error(
        "pgraft.election_timeout ({election} ms) must be at least three times pgraft.heartbeat_interval ({heartbeat} ms)"
    )]
    Timing {
        /// Milliseconds.
        heartbeat: u128,
        /// Milliseconds.
        election: u128,
    },
}

impl RaftSettings {
    /// # Errors
    /// The first thing that is wrong with the settings as a whole. `pgdata` is the database's
    /// directory.
    pub fn check(&self, pgdata: Option<&Path>) -> Result<(), RaftSettingsError> {
        if !self.data_dir.is_absolute() {
            return Err(RaftSettingsError::NotAbsolute(self.data_dir.clone()));
        }
        if pgdata.is_some_and(|pgdata| real(&self.data_dir).starts_with(real(pgdata))) {
            return Err(RaftSettingsError::InsideDataDirectory(self.data_dir.clone()));
        }
        if self.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(RaftSettingsError::PathTooLong {
                path: self.data_dir.clone(),
                max: MAX_SOCKET_PATH,
            });
        }
        if self.zone.len() > MAX_ZONE {
            return Err(RaftSettingsError::ZoneTooLong);
        }
        let (heartbeat, election) =
            (self.heartbeat_interval.as_millis(), self.election_timeout.as_millis());
        if election < 3 * heartbeat {
            return Err(RaftSettingsError::Timing { heartbeat, election });
        }
        if self.protection == Protection::Loopback && !is_loopback(self.listen.host()) {
            return Err(RaftSettingsError::Unprotected(self.listen.host().to_owned()));
        }
        Ok(())
    }

    /// Where the control socket is.
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join(control::SOCKET_NAME)
    }
}

/// Whether this is for sure an address that only this host reaches. A name's addresses may change;
/// "localhost" never leaves the host (RFC 6761, 6.3).
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>()
        .map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
}

/// The path without symbolic links and dots, as far as it exists.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.components().next_back()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(Component::Normal(name))) => real(parent).join(name),
        (Err(_), Some(parent), Some(Component::ParentDir)) => {
            real(parent).parent().map_or_else(PathBuf::new, Path::to_path_buf)
        }
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
    #[test]
    fn without_tls_only_this_host_may_reach_the_port() {
        for here in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in [
            "0.0.0.0",
            "::",
            "192.168.1.11",
            "10.0.0.1",
            "fe80::1",
            "::1%lo",
            "localhost.example",
            "db-1",
            "127.0.0.1.example",
        ] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
        let settings = |listen: &str, protection| RaftSettings {
            node_id: NodeId::new(1).unwrap(),
            listen: Address::new(listen, 7001).unwrap(),
            advertise: Address::new("db-1", 7001).unwrap(),
            data_dir: "/raft".into(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            join_timeout: None,
            lease_timeout: None,
            snapshot_every: SNAPSHOT_EVERY,
            postgres: Address::new("db-1", 5432).unwrap(),
            zone: String::new(),
            protection,
        };
        let tls = Protection::new("/c", "/k", "/a", false).unwrap();
        assert!(matches!(
            settings("0.0.0.0", Protection::Loopback).check(None),
            Err(RaftSettingsError::Unprotected(_))
        ));
        for fine in [Protection::TrustedNetwork, tls] {
            settings("0.0.0.0", fine).check(None).unwrap();
        }
        settings("localhost", Protection::Loopback).check(None).unwrap();
    }

    #[test]
    fn tls_takes_all_three_files() {
        assert_eq!(Protection::new("", "", "", false).unwrap(), Protection::Loopback);
        assert_eq!(Protection::new("", "", "", true).unwrap(), Protection::TrustedNetwork);
        assert!(matches!(Protection::new("/c", "/k", "/a", true).unwrap(), Protection::Tls(_)));
        for bits in 1..7_u8 {
            let set = |bit: u8, path: &'static str| if bits & bit == 0 { "" } else { path };
            let error =
                Protection::new(set(1, "/c"), set(2, "/k"), set(4, "/a"), true).unwrap_err();
            assert!(matches!(error, RaftSettingsError::HalfTls { .. }), "{error}");
        }
        assert!(matches!(
            Protection::new("c", "/k", "/a", true),
            Err(RaftSettingsError::RelativeFile { .. })
        ));
    }
}
