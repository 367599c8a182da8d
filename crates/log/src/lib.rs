//! The log format that the operator and the instance manager share: one JSON object per line, with
//! the fields `ts`, `level`, `logger` and `msg`, followed by the fields of the event. The instance
//! manager also prints Postgres' log lines in this format.
//!
//! ```json
//! {"ts":"2026-11-30T22:13:20.120Z","level":"INFO","logger":"pgraft-operator","msg":"created a pod","pod":"demo-1"}
//! ```
//!
//! `tracing_subscriber::fmt().json()` has fixed names for these fields, so this is a layer instead.
//! It does no I/O: the caller decides where a record goes.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::error::Error;
use std::fmt::{self, Debug, Display};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// One line of a log. Displayed as a JSON object with the fields in the order in which they were
/// added (a `serde_json::Map` would sort them).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JsonRecord(Vec<(String, Value)>);

/// The prefix of the targets of our own crates. Events of other crates get the field `target`.
const OWN_TARGETS: &str = "pgraft";

impl JsonRecord {
    /// The first fields of a record. The time has milliseconds.
    pub fn new(at: Timestamp, level: &str, logger: &str) -> Self {
        let at = at
            .checked_sub(SignedDuration::from_nanos(i64::from(at.subsec_nanosecond() % 1_000_000)))
            .unwrap_or(at);
        let mut record = Self::default();
        record.put("ts", format!("{at:.3}"));
        record.put("level", level);
        record.put("logger", logger);
        record
    }

    /// Adds a field, or replaces its value.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.into(),
            None => self.0.push((name.to_owned(), value.into())),
        }
    }

    /// The record as a line, with its line feed.
    pub fn line(&self) -> String {
        format!("{self}\n")
    }
}

impl Display for JsonRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.iter().enumerate() {
            let separator = if n == 0 { '{' } else { ',' };
            write!(f, "{separator}{}:{value}", Value::from(name.as_str()))?;
        }
        f.write_str(if self.0.is_empty() { "{}" } else { "}" })
    }
}

/// Makes a record of each event and passes it to `write`.
pub struct JsonLayer<W> {
    logger: &'static str,
    write: W,
}

impl<W: Fn(JsonRecord)> JsonLayer<W> {
    /// `logger` is the name of this program.
    pub const fn new(logger: &'static str, write: W) -> Self {
        Self { logger, write }
    }
}

impl<S: Subscriber, W: Fn(JsonRecord) + 'static> Layer<S> for JsonLayer<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = JsonRecord::new(Timestamp::now(), metadata.level().as_str(), self.logger);
        record.put("msg", ""); // the message comes first, whatever its place in the event
        event.record(&mut Fields(&mut record));
        if !metadata.target().starts_with(OWN_TARGETS) {
            record.put("target", metadata.target());
        }
        (self.write)(record);
    }
}

struct Fields<'a>(&'a mut JsonRecord);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.put(name, value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, value.to_string().into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn an_event_is_one_line_with_its_fields_after_the_message() {
        let lines = Arc::new(Mutex::new(vec![]));
        let to = Arc::clone(&lines);
        let layer = JsonLayer::new("test", move |record| to.lock().unwrap().push(record.line()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let error = std::io::Error::other("disk full");
            tracing::info!(target: "pgraft_log", node = 3, seconds = 6.5, done = true, %error, "two\nlines");
            tracing::warn!(target: "kube", text = "x");
        });
        let lines: Vec<String> = lines.lock().unwrap().clone();
        assert!(lines.iter().all(|line| line.matches('\n').count() == 1 && line.ends_with('\n')));
        let without_time = |line: &str| line.split_once("\",").map(|(_, rest)| rest.to_owned());
        assert_eq!(
            without_time(lines[0].trim_end()).unwrap(),
            r#""level":"INFO","logger":"test","msg":"two\nlines","node":3,"seconds":6.5,"done":true,"error":"disk full"}"#
        );
        assert_eq!(
            without_time(lines[1].trim_end()).unwrap(),
            r#""level":"WARN","logger":"test","msg":"","text":"x","target":"kube"}"#
        );
    }

    #[test]
    fn the_time_has_milliseconds() {
        let at = Timestamp::from_nanosecond(1_700_000_000_120_900_000).unwrap();
        assert_eq!(
            JsonRecord::new(at, "LOG", "postgres").to_string(),
            r#"{"ts":"2023-11-14T22:13:20.120Z","level":"LOG","logger":"postgres"}"#
        );
        assert_eq!(JsonRecord::default().to_string(), "{}");
    }
}
