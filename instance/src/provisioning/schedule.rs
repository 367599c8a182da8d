//! When a round that failed is tried again, and whether it is logged. Pure.

use std::time::Duration;

/// While a server is starting.
pub const SHORT_DELAY: Duration = Duration::from_millis(100);
/// Afterwards, where nothing but time is needed.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);
/// At most, for what a person has to change.
const SELDOM: Duration = Duration::from_secs(30);

/// How often it is tried soon.
const MAX_ATTEMPTS: u32 = 30;

/// What follows a round that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextRound {
    /// Until the next one.
    pub pause: Duration,
    /// Whether this one is logged.
    pub logged: bool,
}

/// After so many failures in a row. What passes by itself is tried every second and logged now and
/// then; what does not pass is logged each time, and tried less and less often.
pub fn after(failures: u32, passes: bool) -> NextRound {
    if passes {
        let pause = if failures < MAX_ATTEMPTS { SHORT_DELAY } else { RETRY_DELAY };
        return NextRound { pause, logged: failures % MAX_ATTEMPTS == MAX_ATTEMPTS - 1 };
    }
    let pause = RETRY_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(SELDOM);
    NextRound { pause, logged: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_starting_is_asked_often_and_in_silence() {
        assert!(
            (1..MAX_ATTEMPTS - 1)
                .all(|n| after(n, true) == NextRound { pause: SHORT_DELAY, logged: false })
        );
        assert!(after(MAX_ATTEMPTS - 1, true).logged);
        assert_eq!(after(MAX_ATTEMPTS, true).pause, RETRY_DELAY);
        assert_eq!(after(u32::MAX, true).pause, RETRY_DELAY);
    }

    #[test]
    fn what_is_refused_is_said_and_tried_less_and_less() {
        let pauses: Vec<u64> = (1..=8)
            .map(|n| after(n, false))
            .inspect(|next| assert!(next.logged))
            .map(|next| next.pause.as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(after(u32::MAX, false).pause, SELDOM);
    }
}
