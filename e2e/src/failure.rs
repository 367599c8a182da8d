//! Why a scenario failed.

use std::time::Duration;

/// The failure of a scenario.
#[derive(Debug, thiserror::Error)]
pub enum E2eFailure {
    /// The API server returned an error, or did not answer.
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    /// There is no usable kubeconfig.
    #[error("no kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::InferConfigError),
    /// A statement or its connection failed.
    #[error("{pod}: {source}{}", detail(.source))]
    Sql {
        /// The pod.
        pod: String,
        /// The error of Postgres or of the driver.
        source: tokio_postgres::Error,
    },
    /// A command failed.
    #[error("{command}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its output.
        output: String,
    },
    /// A condition was not met in time.
    #[error("timed out after {} s waiting until {what}; last seen: {last}", limit.as_secs())]
    Deadline {
        /// The condition.
        what: String,
        /// The time limit.
        limit: Duration,
        /// The last observation.
        last: String,
    },
    /// An expectation was not met.
    #[error("{0}")]
    Wrong(String),
    /// The local disk or a pipe.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl E2eFailure {
    /// SQLSTATE, message and hint of an error from Postgres.
    pub fn refusal(&self) -> Option<(String, String, String)> {
        let Self::Sql { source, .. } = self else { return None };
        let error = source.as_db_error()?;
        Some((
            error.code().code().to_owned(),
            error.message().to_owned(),
            error.hint().unwrap_or_default().to_owned(),
        ))
    }
}

fn detail(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map(|e| format!(": {} ({})", e.message(), e.code().code()))
        .unwrap_or_default()
}

/// Returns a failure with this message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::failure::E2eFailure::Wrong(format!($($words)+)));
        }
    };
}
