//! One JSON object a line on stdout: this program's own records, and Postgres's.
//!
//! ```text
//!  tracing ──┐
//!            ├──▶ queue (bounded in bytes) ──▶ writer thread ──▶ stdout
//!  Postgres ─┘
//! ```
//!
//! A reader of stdout that hangs must not hang Postgres, so nobody who logs ever waits. Only when
//! it has hung for 64 MiB of records are further ones dropped; how many is said as soon as it reads
//! again.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

const MOST_BYTES: usize = 64 << 20;

/// Where records go. Clones share the queue.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<SharedQueue>,
}

struct SharedQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    writing: bool,
}

impl Sink {
    /// Starts the writer thread.
    pub fn start(mut out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(SharedQueue { queue: Mutex::default(), changed: Condvar::new() });
        let sink = Self { shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            loop {
                let line = shared.next();
                // Nobody is left to tell when stdout is gone.
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
        });
        sink
    }

    /// Takes one record; never waits.
    pub fn record(&self, record: &Map<String, Value>) {
        let mut line = serde_json::to_string(record).unwrap_or_default();
        line.push('\n');
        let mut queue = self.shared.lock();
        if queue.bytes + line.len() > MOST_BYTES {
            queue.dropped += 1;
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line);
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, or for this long.
    pub fn flush(&self, longest: Duration) {
        let deadline = Instant::now() + longest;
        let mut queue = self.shared.lock();
        while (queue.writing || !queue.lines.is_empty()) && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            queue = self
                .shared
                .changed
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl SharedQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> String {
        let mut queue = self.lock();
        queue.writing = false;
        self.changed.notify_all();
        loop {
            if queue.dropped > 0 && queue.bytes < MOST_BYTES / 2 {
                let mut record = head(Timestamp::now(), "ERROR", "pgraft-instance");
                record.insert(
                    "msg".into(),
                    "log records were dropped because nobody read this output".into(),
                );
                record.insert("dropped".into(), queue.dropped.into());
                queue.dropped = 0;
                queue.writing = true;
                return format!("{}\n", Value::Object(record));
            }
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.writing = true;
                return line;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The first fields of every record.
pub fn head(at: Timestamp, level: &str, logger: &str) -> Map<String, Value> {
    // Milliseconds, as everybody prints them.
    let at = at
        .checked_sub(SignedDuration::from_nanos(i64::from(at.subsec_nanosecond() % 1_000_000)))
        .unwrap_or(at);
    let mut record = Map::new();
    record.insert("ts".into(), format!("{at:.3}").into());
    record.insert("level".into(), level.into());
    record.insert("logger".into(), logger.into());
    record
}

/// Makes this program's own records go to the sink. `RUST_LOG` chooses which, INFO and above by
/// default.
pub fn install(sink: Sink) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // A second call (tests) changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(LogQueue { sink }).try_init();
}

struct LogQueue {
    sink: Sink,
}

impl<S: Subscriber> Layer<S> for LogQueue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields =
            Fields(head(Timestamp::now(), event.metadata().level().as_str(), "pgraft-instance"));
        event.record(&mut fields);
        self.sink.record(&fields.0);
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
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
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Out(mpsc::Sender<Vec<u8>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A stdout that nobody reads.
    struct StuckWriter(mpsc::Receiver<()>);

    impl Write for StuckWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.recv().map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_stuck_stdout_and_memory_stays_bounded() {
        let (release, stuck) = mpsc::channel();
        let sink = Sink::start(StuckWriter(stuck));
        let mut record = Map::new();
        record.insert("msg".into(), "x".repeat(1 << 20).into());
        for _ in 0..80 {
            sink.record(&record);
        }
        sink.flush(Duration::from_millis(1));
        let queue = sink.shared.lock();
        assert!(
            queue.bytes <= MOST_BYTES && queue.dropped > 0,
            "{} bytes, {} dropped",
            queue.bytes,
            queue.dropped
        );
        drop(queue);
        drop(release);
        sink.flush(Duration::from_secs(20));
        assert_eq!(sink.shared.lock().dropped, 0, "what was dropped is said");
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let (tx, rx) = mpsc::channel();
        let sink = Sink::start(Out(tx));
        let mut record =
            head(Timestamp::from_millisecond(1_700_000_000_120).unwrap(), "LOG", "postgres");
        record.insert("msg".into(), "two\nlines".into());
        sink.record(&record);
        sink.flush(Duration::from_secs(5));
        let written = String::from_utf8(rx.try_iter().flatten().collect()).unwrap();
        assert_eq!(written.lines().count(), 1);
        let read: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(read["ts"], "2023-11-14T22:13:20.120Z");
        assert_eq!(read["msg"], "two\nlines");
    }
}
