//! A switchover that the members were asked for, and when they may be asked again.

use jiff::{SignedDuration, Timestamp};
use pgraft_core::NodeId;

/// The switchover that this process has asked for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverAttempt {
    /// Who was to be the primary.
    pub target: NodeId,
    /// When.
    pub at: Timestamp,
    /// How often in a row the members refused.
    pub refusals: u32,
    /// SQLSTATE and words of the refusal; None when they did not refuse, or nothing was heard of
    /// it.
    pub refused: Option<(String, String)>,
}

/// The first pause after a switchover that was asked for. A target that does not catch up costs the
/// writers a second each time.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(2);
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(5);

impl SwitchoverAttempt {
    /// What is remembered after the members were asked once more.
    pub fn again(
        before: Option<&Self>,
        target: NodeId,
        at: Timestamp,
        refused: Option<(String, String)>,
    ) -> Self {
        let so_far = before.filter(|b| b.target == target).map_or(0, |b| b.refusals);
        let refusals = if refused.is_some() { so_far.saturating_add(1) } else { 0 };
        Self { target, at, refusals, refused }
    }

    /// Whether it is too early to ask again.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let pause = FIRST_PAUSE
            .checked_mul(1_i32 << self.refusals.min(16))
            .unwrap_or(MAX_PAUSE)
            .min(MAX_PAUSE);
        now.duration_since(self.at) < pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;

    #[test]
    fn who_is_refused_is_asked_again_later_and_later() {
        let start: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let no = || Some(("PGR08".to_owned(), "no".to_owned()));
        let pause = |attempt: &SwitchoverAttempt| {
            (0..1000)
                .find(|s| !attempt.is_fresh(attempt.at + SignedDuration::from_secs(*s)))
                .unwrap()
        };
        let mut attempt = SwitchoverAttempt::again(None, id(3), start, None);
        assert_eq!(pause(&attempt), 2, "accepted: the next look shows it");
        let pauses: Vec<i64> = (0..10)
            .map(|_| {
                attempt = SwitchoverAttempt::again(Some(&attempt), id(3), start, no());
                pause(&attempt)
            })
            .collect();
        assert_eq!(pauses, [4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(
            pause(&SwitchoverAttempt::again(Some(&attempt), id(2), start, no())),
            4,
            "another target begins anew"
        );
        assert!(!attempt.is_fresh(start + MAX_PAUSE));
    }
}
