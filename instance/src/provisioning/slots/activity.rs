//! When each slot was last active, as far as one run of the server has observed. Pure.
//!
//! A member that comes and goes between two rounds is noticed by its slot's `restart_lsn`, which
//! has moved.

use std::collections::BTreeMap;
use std::time::Duration;

/// The last activity of each slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotActivity {
    slots: BTreeMap<String, LastActivity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastActivity {
    at: Duration,
    restart_lsn: Option<i64>,
}

impl SlotActivity {
    /// Records one observation of all slots: the name, whether it is active, its `restart_lsn`. A
    /// slot that is new here counts as active: when it was used before is unknown.
    pub fn observe<'a>(
        &mut self,
        now: Duration,
        slots: impl Iterator<Item = (&'a str, bool, Option<i64>)>,
    ) {
        let observed = slots.map(|(name, active, restart_lsn)| {
            let before = self.slots.get(name).filter(|b| !active && b.restart_lsn == restart_lsn);
            let at = before.map_or(now, |before| before.at);
            (name.to_owned(), LastActivity { at, restart_lsn })
        });
        self.slots = observed.collect();
    }

    /// How long a slot has been inactive.
    pub fn absence(&self, name: &str, now: Duration) -> Duration {
        self.slots.get(name).map_or(Duration::ZERO, |slot| now.saturating_sub(slot.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_begins_when_a_slot_was_last_used() {
        let s = Duration::from_secs;
        let mut activity = SlotActivity::default();
        let mut absence = |at, active, restart_lsn| {
            activity.observe(s(at), [("pgraft_2", active, Some(restart_lsn))].into_iter());
            activity.absence("pgraft_2", s(at)).as_secs()
        };
        assert_eq!(absence(100, false, 5), 0, "the first observation");
        assert_eq!(absence(110, false, 5), 10);
        assert_eq!(absence(120, true, 5), 0, "in use");
        assert_eq!(absence(150, false, 5), 30);
        assert_eq!(absence(160, false, 6), 0, "used between two observations");
        assert_eq!(absence(170, false, 6), 10);
        assert_eq!(activity.absence("pgraft_3", s(170)), Duration::ZERO);
    }
}
