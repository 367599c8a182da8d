//! Why a scenario did not pass, in words that say where to look.

use std::time::Duration;

/// A scenario's way to fail.
#[derive(Debug, thiserror::Error)]
pub enum E2eFailure {
    /// The API server said no, or did not answer.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// No cluster to run on.
    #[error("no kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::InferConfigError),
    /// A statement failed, or its connection did.
    #[error("{pod}: {source}{}", detail(.source))]
    Sql {
        /// Where it was run.
        pod: String,
        /// What Postgres or the driver said.
        source: tokio_postgres::Error,
    },
    /// A command that users type failed.
    #[error("{command}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A condition did not come true.
    #[error("{what}: not within {} s; last seen: {last}", limit.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// How it looked at the end.
        last: String,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    Wrong(String),
    /// The local disk or a pipe.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl E2eFailure {
    /// SQLSTATE, message and hint, when Postgres said them.
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

/// Fails with these words unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::failure::E2eFailure::Wrong(format!($($words)+)));
        }
    };
}
