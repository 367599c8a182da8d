//! Whether the driver's loop still goes round: it beats, `/livez` looks.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the loop beats.
pub const BEAT: Duration = Duration::from_secs(1);

/// A loop that did not beat for so long hangs.
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
    /// The loop is here.
    pub fn beat(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Whether it was lately.
    pub fn is_fresh(&self) -> bool {
        self.0.lock().elapsed() < MAX_AGE
    }
}
