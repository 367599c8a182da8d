//! Logs, on standard error. INFO is a step that was taken or a new reason to wait, WARN is trouble
//! that passes by itself or is shown in a status, ERROR means that a person should look. Nothing is
//! said twice in a row.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object.
    Json,
    /// For people.
    Text,
}

/// Starts logging. `filter` is in `tracing`'s words, such as `info` or
/// `pgraft_operator=debug,kube=warn`.
pub fn start(filter: &str, format: Format) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber would be a second call; the first one stays.
    let _ = match format {
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
        Format::Text => lines.compact().with_ansi(false).try_init(),
    };
}
