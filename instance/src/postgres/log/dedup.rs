//! Drops repeated log messages. While a standby cannot reach its primary, Postgres starts a
//! walreceiver ten times a second, and each logs the same. Repeated messages of walreceivers and the
//! startup process are written twice a minute, with the number of repetitions. The message that
//! `names.conf` is missing is dropped, because that is normal on a standby. Pure.

use std::time::{Duration, Instant};

use super::LogRecord;

/// The processes whose messages are deduplicated.
const PROCESSES: [&str; 2] = ["walreceiver", "startup"];
/// How often a repeated message is written.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);
/// The maximum number of messages that are remembered.
const MAX_REMEMBERED: usize = 32;

/// The recent messages of one server.
#[derive(Debug, Default)]
pub struct PostgresLogDedup(Vec<LoggedMessage>);

#[derive(Debug)]
struct LoggedMessage {
    text: String,
    at: Instant,
    repeated: u64,
}

impl PostgresLogDedup {
    /// Returns the record, unless the same message was written recently.
    pub fn let_through(&mut self, mut record: LogRecord, now: Instant) -> Option<LogRecord> {
        if record.msg.starts_with("skipping missing configuration file ")
            && record.msg.trim_end_matches('"').ends_with("/names.conf")
        {
            return None;
        }
        if !record.backend_type.as_deref().is_some_and(|kind| PROCESSES.contains(&kind)) {
            return Some(record);
        }
        let text = format!("{} {}", record.level, without_numbers(&record.msg));
        let Some(logged) = self.0.iter_mut().find(|logged| logged.text == text) else {
            self.remember(text, now);
            return Some(record);
        };
        if now.duration_since(logged.at) < REPEAT_INTERVAL {
            logged.repeated += 1;
            return None;
        }
        if logged.repeated > 0 {
            record.more.push((
                "repeated".into(),
                format!("{} times since it was last written", logged.repeated),
            ));
        }
        (logged.at, logged.repeated) = (now, 0);
        Some(record)
    }

    fn remember(&mut self, text: String, at: Instant) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(LoggedMessage { text, at, repeated: 0 });
    }
}

/// The text without positions, ports and process ids.
fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit() && !('A'..='F').contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, msg: &str) -> LogRecord {
        LogRecord {
            level: "FATAL".into(),
            backend_type: Some(kind.into()),
            msg: msg.into(),
            ..LogRecord::default()
        }
    }

    #[test]
    fn a_repeated_message_is_written_twice_a_minute() {
        let (mut quiet, start) = (PostgresLogDedup::default(), Instant::now());
        // Ten times a second for 65 seconds.
        let written: Vec<LogRecord> = (0..650)
            .filter_map(|n| {
                quiet.let_through(
                    record("walreceiver", &format!("no connection: port {n}")),
                    start + Duration::from_millis(100 * n),
                )
            })
            .collect();
        let repeated: Vec<_> =
            written.iter().map(|r| r.more.first().map(|(_, text)| text.as_str())).collect();
        assert_eq!(
            repeated,
            [
                None,
                Some("299 times since it was last written"),
                Some("299 times since it was last written")
            ]
        );
    }

    #[test]
    fn other_messages_and_processes_are_not_affected() {
        let (mut quiet, now) = (PostgresLogDedup::default(), Instant::now());
        for (kind, msg) in [
            ("walreceiver", "one"),
            ("walreceiver", "two"),
            ("startup", "three"),
            ("client backend", "one"),
        ] {
            assert!(quiet.let_through(record(kind, msg), now).is_some(), "{kind}: {msg}");
        }
        assert!(quiet.let_through(record("client backend", "one"), now).is_some());
        assert!(quiet.let_through(record("startup", "three"), now).is_none());
    }

    #[test]
    fn a_missing_names_conf_is_not_logged() {
        let mut quiet = PostgresLogDedup::default();
        let mut written = |file: &str| {
            let msg = format!("skipping missing configuration file \"{file}\"");
            quiet.let_through(record("postmaster", &msg), Instant::now()).is_some()
        };
        assert!(!written("/var/lib/pgraft/raft/names.conf"));
        assert!(written("/etc/more.conf") && written("/etc/other-names.conf"));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut quiet, now) = (PostgresLogDedup::default(), Instant::now());
        let words = |n: usize| "x".repeat(n);
        assert!((0..1000).all(|n| quiet.let_through(record("startup", &words(n)), now).is_some()));
        assert_eq!(quiet.0.len(), MAX_REMEMBERED);
    }
}
