//! What a primary says of its WAL and of commits that wait, and what follows from two answers in a
//! row. Pure.

/// One answer of a primary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LivenessFacts {
    /// Bytes of WAL that are inserted and not flushed.
    pub unflushed: i64,
    /// Up to where WAL is flushed.
    pub flushed: String,
    /// Sessions that wait for standbys.
    pub waiting: i64,
    /// Up to where each standby has confirmed, in one text.
    pub confirmed: String,
    /// The walsenders.
    pub senders: Vec<i32>,
}

/// The last two answers.
#[derive(Debug, Default)]
pub struct Trend {
    last: Option<LivenessFacts>,
    before: Option<LivenessFacts>,
}

impl Trend {
    /// Takes an answer into account.
    pub fn heed(&mut self, facts: LivenessFacts) {
        self.before = self.last.replace(facts);
    }

    fn both(&self) -> Option<(&LivenessFacts, &LivenessFacts)> {
        self.before.as_ref().zip(self.last.as_ref())
    }

    /// Whether WAL has been waiting to be flushed from one answer to the next. Perhaps no flush was
    /// requested yet, so the caller requests one.
    pub fn wants_a_flush(&self) -> bool {
        self.both().is_some_and(|(before, last)| {
            before.unflushed > 0 && last.unflushed > 0 && before.flushed == last.flushed
        })
    }

    /// Whether WAL can be flushed. `pending`: a flush was requested earlier and has not returned.
    /// Returns `None` before the second answer.
    pub fn flushes(&self, pending: bool) -> Option<bool> {
        let (before, last) = self.both()?;
        Some(!pending || before.flushed != last.flushed)
    }

    /// Whether commits advance: no session waits for standbys, or standbys confirm. Returns `None`
    /// before the second answer.
    pub fn commits(&self) -> Option<bool> {
        let (before, last) = self.both()?;
        Some(before.waiting == 0 || last.waiting == 0 || before.confirmed != last.confirmed)
    }

    /// The walsenders, as of the last answer.
    pub fn senders(&self) -> &[i32] {
        self.last.as_ref().map_or(&[], |facts| &facts.senders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(before: LivenessFacts, last: LivenessFacts) -> Trend {
        Trend { before: Some(before), last: Some(last) }
    }

    #[test]
    fn one_answer_says_nothing() {
        let mut trend = Trend::default();
        trend.heed(LivenessFacts { unflushed: 1, waiting: 1, ..LivenessFacts::default() });
        assert_eq!(
            (trend.wants_a_flush(), trend.flushes(true), trend.commits()),
            (false, None, None)
        );
    }

    #[test]
    fn wal_that_moves_is_flushed() {
        let at = |unflushed: i64, flushed: &str| LivenessFacts {
            unflushed,
            flushed: flushed.into(),
            ..LivenessFacts::default()
        };
        assert!(trend(at(8, "0/1"), at(8, "0/1")).wants_a_flush());
        assert!(!trend(at(8, "0/1"), at(8, "0/2")).wants_a_flush(), "it is flushed");
        assert!(!trend(at(0, "0/1"), at(8, "0/1")).wants_a_flush(), "it was just written");
        assert_eq!(trend(at(8, "0/1"), at(8, "0/1")).flushes(true), Some(false));
        assert_eq!(
            trend(at(8, "0/1"), at(8, "0/1")).flushes(false),
            Some(true),
            "nobody has asked for it"
        );
        assert_eq!(trend(at(8, "0/1"), at(8, "0/2")).flushes(true), Some(true), "slowly");
    }

    #[test]
    fn commits_advance_while_nobody_waits_or_a_standby_confirms() {
        let at = |waiting: i64, confirmed: &str| LivenessFacts {
            waiting,
            confirmed: confirmed.into(),
            ..LivenessFacts::default()
        };
        assert_eq!(trend(at(0, "a"), at(3, "a")).commits(), Some(true));
        assert_eq!(trend(at(3, "a"), at(0, "a")).commits(), Some(true));
        assert_eq!(trend(at(3, "a"), at(3, "b")).commits(), Some(true));
        assert_eq!(trend(at(3, "a"), at(3, "a")).commits(), Some(false));
    }
}
