//! When a failed round is repeated, and whether it is logged. Pure.

use std::time::Duration;

/// While the server is starting.
pub const SHORT_DELAY: Duration = Duration::from_millis(100);
/// Afterwards, for temporary errors.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The maximum, for errors that a person has to resolve.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// How often a temporary error is retried with the short delay.
const MAX_SHORT_DELAYS: u32 = 30;

/// What follows a failed round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextRound {
    /// The time until the next round.
    pub pause: Duration,
    /// Whether the failure is logged.
    pub logged: bool,
}

/// Decides after this many consecutive failures. Temporary errors are retried every second and logged
/// occasionally; other errors are logged each time and retried with an increasing delay.
pub fn after(failures: u32, is_transient: bool) -> NextRound {
    if is_transient {
        let pause = if failures < MAX_SHORT_DELAYS { SHORT_DELAY } else { RETRY_DELAY };
        return NextRound { pause, logged: failures % MAX_SHORT_DELAYS == MAX_SHORT_DELAYS - 1 };
    }
    let pause = RETRY_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(MAX_DELAY);
    NextRound { pause, logged: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_errors_are_retried_often_and_rarely_logged() {
        assert!(
            (1..MAX_SHORT_DELAYS - 1)
                .all(|n| after(n, true) == NextRound { pause: SHORT_DELAY, logged: false })
        );
        assert!(after(MAX_SHORT_DELAYS - 1, true).logged);
        assert_eq!(after(MAX_SHORT_DELAYS, true).pause, RETRY_DELAY);
        assert_eq!(after(u32::MAX, true).pause, RETRY_DELAY);
    }

    #[test]
    fn other_errors_are_logged_and_retried_less_often() {
        let pauses: Vec<u64> = (1..=8)
            .map(|n| after(n, false))
            .inspect(|next| assert!(next.logged))
            .map(|next| next.pause.as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(after(u32::MAX, false).pause, MAX_DELAY);
    }
}
