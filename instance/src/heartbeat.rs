//! Whether the driver's loop is running: the loop beats, `/livez` checks.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the loop beats.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Without a beat for this long the loop is considered hung.
const MAX_AGE: Duration = Duration::from_secs(15);

/// Clones share the beat.
#[derive(Clone)]
pub struct HeartbeatFile(Arc<Mutex<Instant>>);

impl Default for HeartbeatFile {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl HeartbeatFile {
    /// Records a beat.
    pub fn beat(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Whether the last beat is recent.
    pub fn is_fresh(&self) -> bool {
        self.0.lock().elapsed() < MAX_AGE
    }
}
