//! Why a bench has nothing to print.

use std::time::Duration;

/// A bench's way to fail.
#[derive(Debug, thiserror::Error)]
pub enum BenchFailure {
    /// A file or a process.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program that a bench needs said no.
    #[error("{0}")]
    Program(String),
    /// A statement or its connection.
    #[error("node {node}: {}", .source.as_db_error().map_or_else(|| .source.to_string(), ToString::to_string))]
    Sql {
        /// Where.
        node: u16,
        /// What Postgres or the driver said.
        source: tokio_postgres::Error,
    },
    /// The member that runs in the bench.
    #[error("the newcomer: {0}")]
    Member(#[from] pgraft_raft::StartError),
    /// The Kubernetes cluster, or what runs on it.
    #[error(transparent)]
    Cluster(#[from] pgraft_e2e::failure::E2eFailure),
    /// An HTTP call to etcd.
    #[error("etcd: {0}")]
    Etcd(String),
    /// A condition did not come true.
    #[error("{what}: not within {} s", limit.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// Something is not as it must be for the numbers to mean anything.
    #[error("{0}")]
    Wrong(String),
}

impl BenchFailure {
    /// For `map_err`: what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// For `map_err`: on which server.
    pub fn sql(node: u16) -> impl Fn(tokio_postgres::Error) -> Self {
        move |source| Self::Sql { node, source }
    }
}
