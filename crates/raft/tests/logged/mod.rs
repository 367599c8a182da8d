//! What the members of this process log.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::fmt::Write as _;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const TIMEOUT: Duration = Duration::from_secs(90);

/// Everything.
pub static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps what the members log.
struct Keep;

impl<S: tracing::Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct LoggedText(String);
        impl tracing::field::Visit for LoggedText {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    write!(self.0, "{value:?}").unwrap();
                }
            }
        }
        if event.metadata().target().starts_with("pgraft_raft")
            && *event.metadata().level() <= tracing::Level::INFO
        {
            let mut text = LoggedText(String::new());
            event.record(&mut text);
            LOG.lock().unwrap().push(text.0);
        }
    }
}

/// From here on what the members of this process log is kept.
pub fn keep_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Keep)).unwrap();
    });
}

/// How many lines have all of that.
pub fn logged(parts: &[&str]) -> usize {
    LOG.lock().unwrap().iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

pub async fn until_logged(parts: &[&str]) {
    let start = Instant::now();
    while logged(parts) == 0 {
        assert!(start.elapsed() < TIMEOUT, "no line with {parts:?} in {:#?}", LOG.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
