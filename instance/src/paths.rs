//! Every file that the instance manager reads or writes, derived from the configuration once.
//!
//! ```text
//! <dataDirectory>             PGDATA: whole, or not there
//! <dataDirectory>.pgraft/     the manager's own, mode 0700, on the same file system
//!   lock                      held while a manager runs
//!   new/                      an initdb or a clone that is not whole yet
//!   old/                      a PGDATA that has just been replaced, for a moment
//!   rewind-in-progress        a rewind or a replacement of PGDATA has not finished: it must not be started. Contains the epoch
//!   replaced                  when PGDATA was last replaced because its server kept failing to start
//!   postgresql.conf           what Postgres reads (`config_file`); PGDATA's own is not read, since a base backup copies it
//!   pg_hba.conf  pg_ident.conf  pgpass
//!   upstream.json             the primary that was cloned or followed last
//!   configuration.json        the user's part of the last configuration that Postgres accepted, and of the last that it ran with
//!   check/                    where Postgres judges a configuration before it is installed
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
    /// The manager's own directory beside it.
    pub work: PathBuf,
    /// `pgraft.data_dir`.
    pub raft: PathBuf,
    /// Postgres's programs.
    pub bin: PathBuf,
    /// Where Postgres's Unix socket is.
    pub socket: PathBuf,
    /// One file a password.
    pub secrets: PathBuf,
}

impl Paths {
    /// No IO.
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

    /// The manager's own directory for a PGDATA.
    pub fn beside(data: &Path) -> PathBuf {
        let mut name = data.file_name().unwrap_or_default().to_os_string();
        name.push(".pgraft");
        data.with_file_name(name)
    }

    /// The directory that holds PGDATA.
    pub fn parent(&self) -> &Path {
        self.data.parent().unwrap_or_else(|| Path::new("/"))
    }

    /// Held while a manager runs.
    pub fn lock(&self) -> PathBuf {
        self.work.join("lock")
    }

    /// A PGDATA that is not whole yet.
    pub fn fresh(&self) -> PathBuf {
        self.work.join("new")
    }

    /// A PGDATA that gives way to another one.
    pub fn old(&self) -> PathBuf {
        self.work.join("old")
    }

    /// There from the first byte of PGDATA that a rewind changes until it is whole again.
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

    /// The primary that was cloned or followed last.
    pub fn upstream(&self) -> PathBuf {
        self.work.join("upstream.json")
    }

    /// The last good configuration.
    pub fn configuration(&self) -> PathBuf {
        self.work.join("configuration.json")
    }

    /// When PGDATA was last replaced because its server kept failing to start.
    pub fn replaced(&self) -> PathBuf {
        self.work.join("replaced")
    }

    /// A data directory for trials.
    pub fn check(&self) -> PathBuf {
        self.work.join("check")
    }

    /// Written by the worker.
    pub fn instance_file(&self) -> PathBuf {
        self.raft.join(instance_file::FILE_NAME)
    }

    /// What the worker sets of the server's configuration.
    pub fn names(&self) -> PathBuf {
        self.raft.join(NAMES_FILE)
    }

    /// Where the worker answers.
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

/// Within a PGDATA that `initdb` made for a bootstrap node whose cluster does not know so yet: the
/// bootstrap node's node id. A clone takes it out.
pub fn bootstrap_mark(data: &Path) -> PathBuf {
    data.join("pgraft.bootstrap")
}
