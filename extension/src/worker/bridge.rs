//! Passes log messages of the member's threads to Postgres' log, through a bounded queue that the
//! main thread empties. No other thread may call Postgres.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgraft_core::log_dedup::{LineDedup, WhenFull};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry};

/// The maximum of queued messages. Further ones are dropped and counted.
const QUEUE: usize = 1024;
/// A message is not repeated within this time. An unreachable member would fill the log otherwise.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// How many messages are remembered for that.
const MAX_REMEMBERED: usize = 64;
/// Messages of openraft are for its developers; its errors are logged by this crate as well.
const FILTER: &str =
    "warn,pgraft=info,pgraft_raft=info,openraft=off,raft_log=warn,chunked_wal=warn";

/// A message for Postgres' log.
pub struct LogMessage {
    pub level: Level,
    pub text: String,
}

/// Sends the `tracing` events of this process to the returned queue.
pub fn install() -> Receiver<LogMessage> {
    let (queue, lines) = sync_channel(QUEUE);
    let bridge = Bridge {
        queue,
        dedup: Mutex::new(LineDedup::new(REPEAT_AFTER, MAX_REMEMBERED, WhenFull::ForgetOldest)),
        lost: AtomicU64::new(0),
    };
    let subscriber = Registry::default().with(EnvFilter::new(FILTER)).with(bridge);
    // It can be set once per process, and this function is called once.
    let _ = tracing::subscriber::set_global_default(subscriber);
    // raft-log uses `log`.
    let _ = tracing_log::LogTracer::builder()
        .with_max_level(tracing_log::log::LevelFilter::Warn)
        .init();
    lines
}

struct Bridge {
    queue: SyncSender<LogMessage>,
    dedup: Mutex<LineDedup>,
    lost: AtomicU64,
}

impl Bridge {
    fn is_repeated(&self, text: &str) -> bool {
        let mut dedup = self.dedup.lock().unwrap_or_else(PoisonError::into_inner);
        dedup.observe(text, "", Instant::now()).is_none()
    }
}

impl<S: Subscriber> Layer<S> for Bridge {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = MessageText(String::new());
        event.record(&mut text);
        let normalized = event.normalized_metadata();
        let level = *normalized.as_ref().unwrap_or_else(|| event.metadata()).level();
        if self.is_repeated(&text.0) {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            text.0 = format!("{} ({lost} earlier messages were dropped)", text.0);
        }
        // The member must not wait for the log.
        if let Err(TrySendError::Full(_)) = self.queue.try_send(LogMessage { level, text: text.0 })
        {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

struct MessageText(String);

impl Visit for MessageText {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }
}
