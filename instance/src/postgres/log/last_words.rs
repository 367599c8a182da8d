//! Messages of a server that matter for its next start: the last error of the postmaster or the
//! startup process, and that its settings are too low.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

use super::LogRecord;
use crate::configuration::floors::TOO_LOW;

/// The processes whose errors end the server.
const PROCESSES: [&str; 2] = ["postmaster", "startup"];

/// The last messages of one run of a server. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LastWords {
    error: Arc<Mutex<Option<String>>>,
    too_low: Arc<Notify>,
}

impl LastWords {
    /// Evaluates a record.
    pub(super) fn record(&self, record: &LogRecord) {
        if record.msg.contains(TOO_LOW) && record.backend_type.as_deref() == Some("startup") {
            self.too_low.notify_one();
        }
        let ends = record.backend_type.as_deref().is_none_or(|kind| PROCESSES.contains(&kind));
        let error = matches!(record.level.as_str(), "FATAL" | "PANIC");
        if ends && error {
            let detail = record
                .more
                .iter()
                .find(|(name, _)| name == "detail")
                .map(|(_, text)| format!(" ({text})"))
                .unwrap_or_default();
            *self.error.lock() = Some(format!("{}{detail}", record.msg));
        }
    }

    /// The last error.
    pub fn get(&self) -> Option<String> {
        self.error.lock().clone()
    }

    /// Returns when the server has reported that its settings are too low for the WAL that it replays.
    pub async fn settings_too_low(&self) {
        self.too_low.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, level: &str, msg: &str) -> LogRecord {
        LogRecord {
            level: level.into(),
            backend_type: Some(kind.into()),
            msg: msg.into(),
            ..LogRecord::default()
        }
    }

    #[tokio::test]
    async fn only_errors_that_end_the_server_are_recorded() {
        let words = LastWords::default();
        words.record(&record("client backend", "FATAL", "password authentication failed"));
        words.record(&record("startup", "LOG", "starting"));
        assert_eq!(words.get(), None);
        words.record(&record("postmaster", "FATAL", "could not map anonymous shared memory"));
        assert_eq!(words.get().as_deref(), Some("could not map anonymous shared memory"));
        words.record(&record("startup", "WARNING", TOO_LOW));
        words.settings_too_low().await;
    }
}
