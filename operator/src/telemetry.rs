//! The operator's log, on standard error. INFO is a step that was taken or a new reason to wait.
//! WARN is a problem that the status shows as well, or that passes by itself. ERROR means that a
//! person should look. The same line is not repeated in a row.

use std::io::Write;

use clap::ValueEnum;
use pgraft_log::JsonLayer;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object.
    Json,
    /// Plain text.
    Text,
}

/// Starts logging. `filter` is in the syntax of `tracing`, such as `info` or
/// `pgraft_operator=debug,kube=warn`.
pub fn start(filter: &str, format: Format) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    match format {
        Format::Json => {
            let layer = JsonLayer::new("pgraft-operator", |record| {
                // There is no place to report that stderr is closed.
                let _ = std::io::stderr().write_all(record.line().as_bytes());
            });
            // Fails if it was called before, as in tests.
            let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
        }
        Format::Text => {
            let lines = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .compact()
                .with_ansi(false);
            let _ = lines.try_init(); // as above
        }
    }
}
