//! What can go wrong between a decision and the world.

use std::time::Duration;

use super::certificates::make::MakeError;
use super::sql::SqlError;

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
        source: SqlError,
    },
    /// A certificate.
    #[error(transparent)]
    Certificates(#[from] MakeError),
    /// The plan names something that the world does not have any more: it has moved on since it was observed.
    #[error("{0} is gone since it was observed")]
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
                409 if status.reason == "AlreadyExists" => "NameTaken",
                409 => "Conflict",
                422 => "RefusedByApiServer",
                _ => "ApiServerError",
            },
            Self::Kube { .. } => "ApiServerUnreachable",
            Self::Sql { .. } => "MemberUnreachable",
            Self::Certificates(_) => "CertificateNotMade",
            Self::MovedOn(_) => "MovedOn",
        }
    }

    /// Whether somebody else was quicker: what was observed is not so any more. An object that is there already under a name that nobody knew to
    /// be taken is another matter: it will still be there.
    pub fn has_moved_on(&self) -> bool {
        matches!(self.reason(), "MovedOn" | "Conflict")
    }

    /// When to try again.
    pub fn retry(&self) -> Duration {
        match self {
            Self::MovedOn(_) => Duration::from_millis(50),
            // Nothing changes until a person does something.
            Self::Kube { source: kube::Error::Api(status), .. } if matches!(status.code, 403 | 422) => Duration::from_secs(15),
            _ if self.has_moved_on() => Duration::from_millis(250),
            Self::Certificates(_) => Duration::from_secs(15),
            Self::Kube { .. } => Duration::from_secs(2),
            Self::Sql { .. } => Duration::from_secs(1),
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
