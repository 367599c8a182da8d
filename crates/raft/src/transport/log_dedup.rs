//! Logs a problem with a peer once, not with every connection that fails for the same reason.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgraft_core::log_dedup::{LineDedup, WhenFull};
use tokio::time::Instant;

/// The same problem of the same peer is logged again after this time.
const REPEAT_AFTER: Duration = Duration::from_hours(1);
/// How many peers are remembered. Problems of further ones are not logged.
const MAX_PEERS: usize = 256;

/// The last problem of each peer.
pub struct LogDedup(Mutex<LineDedup>);

impl Default for LogDedup {
    fn default() -> Self {
        Self(Mutex::new(LineDedup::new(REPEAT_AFTER, MAX_PEERS, WhenFull::LeaveOut)))
    }
}

impl LogDedup {
    /// Logs the problem as a warning, or at level DEBUG if it is a repetition.
    pub fn say(&self, peer: &str, problem: &str) {
        let now = Instant::now().into_std();
        let written = self.lines().observe(peer, problem, now).is_some();
        if written {
            tracing::warn!("{problem}");
        } else {
            tracing::debug!("{problem}");
        }
    }

    /// The peer has no problem: its next one is logged at once.
    pub fn forget(&self, peer: &str) {
        self.lines().forget(peer);
    }

    fn lines(&self) -> MutexGuard<'_, LineDedup> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
