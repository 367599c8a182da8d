//! Waiting for a condition.

use std::time::{Duration, Instant};

/// The limit of every wait.
pub const TIMEOUT: Duration = Duration::from_mins(3);

/// Calls `check` until it returns a value.
///
/// # Panics
///
/// If it has not returned one within [`TIMEOUT`].
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
