//! Why a bench failed.

use std::time::Duration;

/// The failure of a bench.
#[derive(Debug, thiserror::Error)]
pub enum BenchFailure {
    /// A file or a process failed.
    #[error("{what}: {source}")]
    Io {
        /// What failed.
        what: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{0}")]
    Program(String),
    /// A statement or its connection failed.
    #[error("node {node}: {}", .source.as_db_error().map_or_else(|| .source.to_string(), ToString::to_string))]
    Sql {
        /// The node.
        node: u16,
        /// The error of Postgres or of the driver.
        source: tokio_postgres::Error,
    },
    /// The member in this process could not start.
    #[error("starting a member: {0}")]
    Member(#[from] pgraft_raft::StartError),
    /// The Kubernetes cluster failed.
    #[error(transparent)]
    Cluster(#[from] pgraft_e2e::failure::E2eFailure),
    /// An HTTP call to etcd failed.
    #[error("etcd: {0}")]
    Etcd(String),
    /// A condition was not met in time.
    #[error("timed out after {} s waiting for {what}", limit.as_secs())]
    Deadline {
        /// The condition.
        what: String,
        /// The time limit.
        limit: Duration,
    },
    /// A requirement for valid results was not met.
    #[error("{0}")]
    Wrong(String),
}

impl BenchFailure {
    /// For `map_err`, with what failed.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// For `map_err`, with the node.
    pub fn sql(node: u16) -> impl Fn(tokio_postgres::Error) -> Self {
        move |source| Self::Sql { node, source }
    }
}
