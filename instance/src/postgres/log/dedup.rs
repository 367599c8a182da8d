//! Keeps a standby that can't reach its upstream from filling the log: Postgres starts a
//! walreceiver ten times a second then, and each says the same. What walreceivers and the startup
//! process say again and again is let through twice a minute, with how often it was said meanwhile.
//! That a standby has no `names.conf` is as it should be, and Postgres says so whenever it reads
//! its configuration: that is left out. Pure.

use std::time::{Duration, Instant};

use super::LogRecord;

/// Whose words are looked at.
const PROCESSES: [&str; 2] = ["walreceiver", "startup"];
/// The same is let through once in this time.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Different messages that are remembered.
const MAX_REMEMBERED: usize = 32;

/// What was said lately, by one server.
#[derive(Debug, Default)]
pub struct PostgresLogDedup(Vec<Said>);

#[derive(Debug)]
struct Said {
    what: String,
    at: Instant,
    again: u64,
}

impl PostgresLogDedup {
    /// The record, unless the same was let through a short while ago.
    pub fn let_through(&mut self, mut record: LogRecord, now: Instant) -> Option<LogRecord> {
        if record.msg.starts_with("skipping missing configuration file ")
            && record.msg.trim_end_matches('"').ends_with("/names.conf")
        {
            return None;
        }
        if !record.backend_type.as_deref().is_some_and(|kind| PROCESSES.contains(&kind)) {
            return Some(record);
        }
        let what = format!("{} {}", record.level, without_numbers(&record.msg));
        let Some(said) = self.0.iter_mut().find(|said| said.what == what) else {
            self.remember(what, now);
            return Some(record);
        };
        if now.duration_since(said.at) < AGAIN_AFTER {
            said.again += 1;
            return None;
        }
        if said.again > 0 {
            record.more.push((
                "repeated".into(),
                format!("{} times since it was written last", said.again),
            ));
        }
        (said.at, said.again) = (now, 0);
        Some(record)
    }

    fn remember(&mut self, what: String, at: Instant) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(Said { what, at, again: 0 });
    }
}

/// Positions, ports and process ids make no other message.
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
    fn the_same_is_written_twice_a_minute() {
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
                Some("299 times since it was written last"),
                Some("299 times since it was written last")
            ]
        );
    }

    #[test]
    fn other_words_and_other_processes_are_heard() {
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
    fn a_standby_may_be_without_names() {
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
