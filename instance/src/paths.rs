//! The files that the instance manager reads and writes, derived from the configuration.
//!
//! ```text
//! <dataDirectory>             PGDATA: complete or missing
//! <dataDirectory>.pgraft/     the manager's work directory, mode 0700, on the same file system
//!   lock                      locked while a manager runs
//!   new/                      an initdb or a clone in progress
//!   old/                      the previous PGDATA while it is replaced
//!   rewind-in-progress        a rewind or a replacement of PGDATA has not finished: it must not be started. Contains the epoch
//!   replaced                  when PGDATA was last replaced because its server kept failing to start
//!   postgresql.conf           the `config_file`; the one in PGDATA is not used, because a base backup copies it
//!   pg_hba.conf  pg_ident.conf  pgpass
//!   upstream.json             the primary that was last cloned or followed
//!   configuration.json        the user's part of the last valid configuration, and of the last one that a server ran with
//!   check/                    where Postgres checks a configuration before it is installed
//! <raftDirectory>/            the worker's: instance.json, names.conf, control.sock
//! ```

use pgraft_core::instance_config::{InstanceConfig, NAMES_FILE};
use pgraft_core::{control, instance_file};
use std::path::{Path, PathBuf};

/// The files of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// PGDATA.
    pub data: PathBuf,
    /// The manager's work directory beside it.
    pub work: PathBuf,
    /// `pgraft.data_dir`.
    pub raft: PathBuf,
    /// Postgres's programs.
    pub bin: PathBuf,
    /// The directory of Postgres's Unix socket.
    pub socket: PathBuf,
    /// The directory of the passwords.
    pub secrets: PathBuf,
}

impl Paths {
    /// Derives the paths. No IO.
    pub fn new(config: &InstanceConfig) -> Self {
        let data = PathBuf::from(&config.data_directory);
        Self {
            work: Self::beside(&data),
            data,
            raft: PathBuf::from(&config.raft_directory),
            bin: PathBuf::from(&config.bin_directory),
            socket: PathBuf::from(&config.socket_directory),
            secrets: PathBuf::from(&config.secrets_directory),
        }
    }

    /// The manager's work directory for a PGDATA.
    pub fn beside(data: &Path) -> PathBuf {
        let mut name = data.file_name().unwrap_or_default().to_os_string();
        name.push(".pgraft");
        data.with_file_name(name)
    }

    /// The directory that holds PGDATA.
    pub fn parent(&self) -> &Path {
        self.data.parent().unwrap_or_else(|| Path::new("/"))
    }

    /// Locked while a manager runs.
    pub fn lock(&self) -> PathBuf {
        self.work.join("lock")
    }

    /// A new PGDATA that is not complete yet.
    pub fn fresh(&self) -> PathBuf {
        self.work.join("new")
    }

    /// The previous PGDATA while it is replaced.
    pub fn old(&self) -> PathBuf {
        self.work.join("old")
    }

    /// Exists while a rewind or a replacement of PGDATA is in progress or was interrupted.
    pub fn rewind_in_progress(&self) -> PathBuf {
        self.work.join("rewind-in-progress")
    }

    /// `config_file`.
    pub fn conf(&self) -> PathBuf {
        self.work.join("postgresql.conf")
    }

    /// `hba_file`.
    pub fn hba(&self) -> PathBuf {
        self.work.join("pg_hba.conf")
    }

    /// `ident_file`.
    pub fn ident(&self) -> PathBuf {
        self.work.join("pg_ident.conf")
    }

    /// The password of the replication role, as libpq reads it.
    pub fn passfile(&self) -> PathBuf {
        self.work.join("pgpass")
    }

    /// The primary that was last cloned or followed.
    pub fn upstream(&self) -> PathBuf {
        self.work.join("upstream.json")
    }

    /// The last valid configuration, and the last proven one.
    pub fn configuration(&self) -> PathBuf {
        self.work.join("configuration.json")
    }

    /// When PGDATA was last replaced because its server kept failing to start.
    pub fn replaced(&self) -> PathBuf {
        self.work.join("replaced")
    }

    /// A scratch data directory in which configurations are checked.
    pub fn check(&self) -> PathBuf {
        self.work.join("check")
    }

    /// `instance.json`, written by the worker.
    pub fn instance_file(&self) -> PathBuf {
        self.raft.join(instance_file::FILE_NAME)
    }

    /// The part of the configuration that the worker writes.
    pub fn names(&self) -> PathBuf {
        self.raft.join(NAMES_FILE)
    }

    /// The worker's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.raft.join(control::SOCKET_NAME)
    }

    /// One of Postgres's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// `standby.signal` within a PGDATA.
pub fn standby_signal(data: &Path) -> PathBuf {
    data.join("standby.signal")
}

/// The bootstrap mark within a PGDATA that `initdb` created for a cluster that does not exist yet. It
/// contains the node id. A clone removes it.
pub fn bootstrap_mark(data: &Path) -> PathBuf {
    data.join("pgraft.bootstrap")
}
