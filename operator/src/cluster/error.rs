//! Why a pass or a step failed.

use std::time::Duration;

use super::certificates::secrets::make::MakeError;
use super::members::sql::MemberSqlError;
use super::plan::failures::StepFailureReason;
use crate::kubernetes::ObjectError;

/// Why a pass or a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be read or written.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A member refused a statement, or could not be reached.
    #[error("node {node}: {source}")]
    Sql {
        /// The member.
        node: pgraft_core::NodeId,
        /// Its error.
        source: MemberSqlError,
    },
    /// A certificate could not be issued.
    #[error(transparent)]
    Certificates(#[from] MakeError),
}

impl Error {
    /// Adds the attempted operation to an error of the client.
    pub fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let add = ObjectError::kube(what);
        move |source| Self::Object(add(source))
    }

    /// Something that the plan names has changed since it was observed.
    pub fn changed(what: impl Into<String>) -> Self {
        Self::Object(ObjectError::Changed(what.into()))
    }

    /// The reason, for Events, logs and metrics.
    pub fn reason(&self) -> StepFailureReason {
        match self {
            Self::Object(ObjectError::Kube { source: kube::Error::Api(status), .. }) => {
                match status.code {
                    403 => StepFailureReason::Forbidden,
                    409 => StepFailureReason::Conflict,
                    422 => StepFailureReason::RefusedByApiServer,
                    _ => StepFailureReason::ApiServerError,
                }
            }
            Self::Object(ObjectError::Kube { .. }) => StepFailureReason::ApiServerUnreachable,
            Self::Object(ObjectError::Foreign { .. }) => StepFailureReason::ForeignObject,
            Self::Object(ObjectError::Changed(_)) => StepFailureReason::Changed,
            Self::Sql { .. } => StepFailureReason::MemberUnreachable,
            Self::Certificates(_) => StepFailureReason::CertificateNotIssued,
        }
    }

    /// How long to wait before the next pass. A failed step has its own delay
    /// (`plan::failures`), because other work may be possible meanwhile.
    pub fn retry(&self) -> Duration {
        match self {
            Self::Object(ObjectError::Changed(_)) => Duration::from_millis(50),
            Self::Object(
                ObjectError::Kube { source: kube::Error::Api(_), .. } | ObjectError::Foreign { .. },
            )
            | Self::Certificates(_) => Duration::from_millis(250),
            Self::Object(ObjectError::Kube { .. }) => Duration::from_secs(2),
            Self::Sql { .. } => Duration::from_secs(1),
        }
    }

    /// How long to wait before the next pass if the observation failed or the status could not be
    /// written: nothing else is possible until that succeeds.
    pub fn pause(&self) -> Duration {
        match self {
            Self::Object(ObjectError::Kube { source: kube::Error::Api(status), .. }) => {
                match status.code {
                    403 | 422 => Duration::from_secs(15),
                    409 => self.retry(),
                    _ => Duration::from_secs(2),
                }
            }
            _ => self.retry(),
        }
    }
}
