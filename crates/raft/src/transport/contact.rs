//! How long ago a follower last heard from its leader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When a follower last heard from its leader.
pub struct LeaderContact {
    since: Instant,
    last_ms: AtomicU64,
}

impl LeaderContact {
    /// It has not heard from it yet.
    pub fn new() -> Self {
        Self { since: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    /// The leader has just sent something.
    pub fn touch(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now.max(1), Ordering::Relaxed);
    }

    /// How long ago that was; None if it never was.
    pub fn age(&self) -> Option<Duration> {
        match self.last_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(self.since.elapsed().saturating_sub(Duration::from_millis(ms))),
        }
    }
}
