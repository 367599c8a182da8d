//! What the instance manager needs from a server's log for the next start: the last error of a
//! process whose exit ends the server, and whether the server's settings are too low.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::LogRecord;
use crate::configuration::floors::TOO_LOW;

/// The processes whose errors end the server.
const PROCESSES: [&str; 2] = ["postmaster", "startup"];

/// The log of one run of a server. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct LastWords {
    error: Arc<Mutex<Option<String>>>,
    too_low: Arc<Notify>,
}

impl LastWords {
    /// Takes a record into account.
    pub(super) fn observe(&self, record: &LogRecord) {
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

    /// The last error that ends the server.
    pub fn get(&self) -> Option<String> {
        self.error.lock().clone()
    }

    /// Returns when the server has logged that its settings are too low for the WAL that it replays.
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
    async fn only_an_error_that_ends_the_server_is_kept() {
        let log = LastWords::default();
        log.observe(&record("client backend", "FATAL", "password authentication failed"));
        log.observe(&record("startup", "LOG", "starting"));
        assert_eq!(log.get(), None);
        log.observe(&record("postmaster", "FATAL", "could not map anonymous shared memory"));
        assert_eq!(log.get().as_deref(), Some("could not map anonymous shared memory"));
        log.observe(&record("startup", "WARNING", TOO_LOW));
        log.settings_too_low().await;
    }
}
