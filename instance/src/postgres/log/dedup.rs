//! Leaves repeated lines of Postgres' log out. A standby that cannot reach its upstream starts a
//! walreceiver ten times per second, and each logs the same error. The same line of a walreceiver or
//! the startup process is written twice a minute, with the number of repetitions. Also leaves out
//! that a standby has no `names.conf`: this is normal, and Postgres logs it with every reload. Pure.

use std::time::{Duration, Instant};

use pgraft_core::log_dedup::{LineDedup, WhenFull};

use super::LogRecord;

/// The processes whose lines are compared.
const PROCESSES: [&str; 2] = ["walreceiver", "startup"];
/// The same line is written again after this time.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// How many distinct lines are remembered.
const MAX_REMEMBERED: usize = 32;

/// The recent lines of one server.
#[derive(Debug)]
pub struct PostgresLogDedup(LineDedup);

impl Default for PostgresLogDedup {
    fn default() -> Self {
        Self(LineDedup::new(REPEAT_AFTER, MAX_REMEMBERED, WhenFull::ForgetOldest))
    }
}

impl PostgresLogDedup {
    /// The record to write, or `None` if it is left out.
    pub fn let_through(&mut self, mut record: LogRecord, now: Instant) -> Option<LogRecord> {
        if record.msg.starts_with("skipping missing configuration file ")
            && record.msg.trim_end_matches('"').ends_with("/names.conf")
        {
            return None;
        }
        if !record.backend_type.as_deref().is_some_and(|kind| PROCESSES.contains(&kind)) {
            return Some(record);
        }
        let subject = format!("{} {}", record.level, without_numbers(&record.msg));
        let repeated = self.0.observe(&subject, "", now)?;
        if repeated > 0 {
            record.more.push(("repeated".into(), repeated.to_string()));
        }
        Some(record)
    }
}

/// LSNs, ports and process ids do not make a line different.
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
    fn a_repeated_line_is_written_twice_a_minute_with_its_count() {
        let (mut dedup, start) = (PostgresLogDedup::default(), Instant::now());
        // Ten times a second for 65 seconds.
        let written: Vec<LogRecord> = (0..650)
            .filter_map(|n| {
                dedup.let_through(
                    record("walreceiver", &format!("no connection: port {n}")),
                    start + Duration::from_millis(100 * n),
                )
            })
            .collect();
        let repeated: Vec<_> =
            written.iter().map(|r| r.more.first().map(|(_, text)| text.as_str())).collect();
        assert_eq!(repeated, [None, Some("299"), Some("299")]);
    }

    #[test]
    fn other_lines_and_other_processes_are_written() {
        let (mut dedup, now) = (PostgresLogDedup::default(), Instant::now());
        for (kind, msg) in [
            ("walreceiver", "one"),
            ("walreceiver", "two"),
            ("startup", "three"),
            ("client backend", "one"),
        ] {
            assert!(dedup.let_through(record(kind, msg), now).is_some(), "{kind}: {msg}");
        }
        assert!(dedup.let_through(record("client backend", "one"), now).is_some());
        assert!(dedup.let_through(record("startup", "three"), now).is_none());
    }

    #[test]
    fn a_missing_names_conf_is_not_written() {
        let mut dedup = PostgresLogDedup::default();
        let mut written = |file: &str| {
            let msg = format!("skipping missing configuration file \"{file}\"");
            dedup.let_through(record("postmaster", &msg), Instant::now()).is_some()
        };
        assert!(!written("/var/lib/pgraft/raft/names.conf"));
        assert!(written("/etc/more.conf") && written("/etc/other-names.conf"));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut dedup, now) = (PostgresLogDedup::default(), Instant::now());
        let text = |n: usize| "x".repeat(n);
        assert!((0..1000).all(|n| dedup.let_through(record("startup", &text(n)), now).is_some()));
        assert_eq!(dedup.0.len(), MAX_REMEMBERED);
    }
}
