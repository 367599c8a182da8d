//! What can go wrong between a decision and the world.

use std::time::Duration;

use super::certificates::make::MakeError;
use super::sql::MemberSqlError;
use crate::core::failing::NOT_OURS;

/// Something that should have worked did not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server, or the way to it.
    #[error("could not {what}: {}", words(source))]
    Kube {
        /// What was tried.
        what: String,
        /// What came back.
        source: kube::Error,
    },
    /// A member, or the way to it.
    #[error("node {node}: {source}")]
    Sql {
        /// Who was asked.
        node: pgraft_core::NodeId,
        /// What came back.
        source: MemberSqlError,
    },
    /// A certificate.
    #[error(transparent)]
    Certificates(#[from] MakeError),
    /// An object that is wanted, under a name that somebody else's has.
    #[error(
        "{what} exists and does not belong to PgRaftCluster {cluster}; it is left alone: rename or delete it, or choose another name for the cluster"
    )]
    NotOurs {
        /// Its kind and name.
        what: String,
        /// The cluster.
        cluster: String,
    },
    /// The plan names something that the world does not have any more: it has moved on since it was
    /// observed.
    #[error("{0}: changed since it was observed")]
    MovedOn(String),
}

impl Error {
    /// Adds what was tried to an error of the client's.
    pub fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Kube { what, source }
    }

    /// A word for events and logs, out of a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kube { source: kube::Error::Api(status), .. } => match status.code {
                403 => "Forbidden",
                409 => "Conflict",
                422 => "RefusedByApiServer",
                _ => "ApiServerError",
            },
            Self::Kube { .. } => "ApiServerUnreachable",
            Self::Sql { .. } => "MemberUnreachable",
            Self::Certificates(_) => "CertificateNotMade",
            Self::NotOurs { .. } => NOT_OURS,
            Self::MovedOn(_) => "MovedOn",
        }
    }

    /// Whether somebody else was quicker: what was observed is not so any more.
    pub fn has_moved_on(&self) -> bool {
        matches!(self.reason(), "MovedOn" | "Conflict")
    }

    /// When to look again. When it is tried again is another matter (`core::failing`): there may be
    /// other work.
    pub fn retry(&self) -> Duration {
        match self {
            Self::MovedOn(_) => Duration::from_millis(50),
            Self::Kube { source: kube::Error::Api(_), .. }
            | Self::NotOurs { .. }
            | Self::Certificates(_) => Duration::from_millis(250),
            Self::Kube { .. } => Duration::from_secs(2),
            Self::Sql { .. } => Duration::from_secs(1),
        }
    }

    /// When to look again where the look itself failed, or the status could not be written: there
    /// is no other work until that succeeds.
    pub fn pause(&self) -> Duration {
        match self {
            Self::Kube { source: kube::Error::Api(status), .. }
                if [403, 422].contains(&status.code) =>
            {
                Duration::from_secs(15)
            }
            Self::Kube { source: kube::Error::Api(status), .. } if status.code != 409 => {
                Duration::from_secs(2)
            }
            _ => self.retry(),
        }
    }
}

/// The API server's own words, where it has spoken.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the API server says that the object is not there.
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server says that the object is not the one that was meant any more.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
