//! The log of the instance manager on standard output: its own events and Postgres' log lines, as
//! JSON records (`pgraft-log`).
//!
//! ```text
//!  tracing ──┐
//!            ├──▶ queue (bounded in bytes) ──▶ writer thread ──▶ stdout
//!  Postgres ─┘
//! ```
//!
//! A stuck reader of stdout must not block Postgres or the supervisor, so logging never waits.
//! Records are dropped when 64 MiB of them wait; their number is logged as soon as the reader
//! continues. (`tracing-appender` drops lines too, but bounds their number and not their size.)

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use pgraft_log::{JsonLayer, JsonRecord};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The value of `logger` in the records of this program.
const LOGGER: &str = "pgraft-instance";
/// How many bytes of records may wait for the writer thread.
const MAX_BYTES: usize = 64 << 20;

/// The way to stdout. Clones share the queue.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<SharedQueue>,
}

#[derive(Default)]
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
        let shared = Arc::<SharedQueue>::default();
        let sink = Self { shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            loop {
                let line = shared.next();
                // There is no place to report that stdout is closed.
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
        });
        sink
    }

    /// Queues a record. Never waits.
    pub fn record(&self, record: &JsonRecord) {
        let line = record.line();
        let mut queue = self.shared.queue.lock();
        if queue.bytes + line.len() > MAX_BYTES {
            queue.dropped += 1;
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line);
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, for at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.queue.lock();
        while (queue.writing || !queue.lines.is_empty()) && Instant::now() < deadline {
            self.shared.changed.wait_until(&mut queue, deadline);
        }
    }
}

impl SharedQueue {
    /// The next line, once there is one.
    fn next(&self) -> String {
        let mut queue = self.queue.lock();
        queue.writing = false;
        self.changed.notify_all();
        loop {
            if queue.dropped > 0 && queue.bytes < MAX_BYTES / 2 {
                let mut record = JsonRecord::new(Timestamp::now(), "ERROR", LOGGER);
                record
                    .put("msg", "dropped log records because the reader of this output was stuck");
                record.put("dropped", queue.dropped);
                queue.dropped = 0;
                queue.writing = true;
                return record.line();
            }
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.writing = true;
                return line;
            }
            self.changed.wait(&mut queue);
        }
    }
}

/// Sends this program's events to the sink. `RUST_LOG` filters them; the default is INFO and above.
pub fn install(sink: Sink) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let layer = JsonLayer::new(LOGGER, move |record| sink.record(&record));
    // Fails if it was called before, as in tests.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
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
    fn a_stuck_stdout_blocks_no_caller_and_memory_stays_bounded() {
        let (release, stuck) = mpsc::channel();
        let sink = Sink::start(StuckWriter(stuck));
        let mut record = JsonRecord::default();
        record.put("msg", "x".repeat(1 << 20));
        for _ in 0..80 {
            sink.record(&record);
        }
        sink.flush(Duration::from_millis(1));
        let queue = sink.shared.queue.lock();
        assert!(
            queue.bytes <= MAX_BYTES && queue.dropped > 0,
            "{} bytes, {} dropped",
            queue.bytes,
            queue.dropped
        );
        drop(queue);
        drop(release);
        sink.flush(Duration::from_secs(20));
        assert_eq!(sink.shared.queue.lock().dropped, 0, "the dropped records are reported");
    }

    #[test]
    fn a_record_is_one_line() {
        let (tx, rx) = mpsc::channel();
        let sink = Sink::start(Out(tx));
        let mut record = JsonRecord::default();
        record.put("msg", "two\nlines");
        sink.record(&record);
        sink.flush(Duration::from_secs(5));
        let written = String::from_utf8(rx.try_iter().flatten().collect()).unwrap();
        assert_eq!(written, "{\"msg\":\"two\\nlines\"}\n");
    }
}
