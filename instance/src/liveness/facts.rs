//! The state of a server's WAL and of waiting commits, and what two answers in a row show. Pure.

/// One answer of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LivenessFacts {
    /// Bytes of WAL that are inserted and not flushed; 0 on a standby.
    pub unflushed: i64,
    /// The flush LSN; empty on a standby.
    pub flushed: String,
    /// How many sessions wait for standbys.
    pub waiting: i64,
    /// The flush LSN of each standby, in one text.
    pub confirmed: String,
    /// The process ids of the walsenders.
    pub senders: Vec<i32>,
    /// The `application_name` of each standby that streams.
    pub streaming: Vec<String>,
    /// `max_standby_streaming_delay` in milliseconds; negative: no limit.
    pub replay_delay_ms: i64,
}

/// The last two answers of a primary.
#[derive(Debug, Default)]
pub struct Trend {
    last: Option<LivenessFacts>,
    before: Option<LivenessFacts>,
}

impl Trend {
    /// Takes an answer into account.
    pub fn add(&mut self, facts: LivenessFacts) {
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

    /// Whether a standby of that `application_name` streamed in one of the two answers. Returns `None`
    /// before the second answer.
    pub fn streams(&self, name: &str) -> Option<bool> {
        let (before, last) = self.both()?;
        Some([before, last].into_iter().any(|facts| facts.streaming.iter().any(|n| n == name)))
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
    fn one_answer_shows_nothing() {
        let mut trend = Trend::default();
        trend.add(LivenessFacts { unflushed: 1, waiting: 1, ..LivenessFacts::default() });
        assert_eq!(
            (trend.wants_a_flush(), trend.flushes(true), trend.commits(), trend.streams("a")),
            (false, None, None, None)
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
            "no flush was requested"
        );
        assert_eq!(trend(at(8, "0/1"), at(8, "0/2")).flushes(true), Some(true), "slowly");
    }

    #[test]
    fn commits_advance_if_none_waits_or_a_standby_confirms() {
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

    #[test]
    fn a_standby_streams_if_one_of_two_answers_shows_it() {
        let at = |streaming: &[&str]| LivenessFacts {
            streaming: streaming.iter().map(|&name| name.to_owned()).collect(),
            ..LivenessFacts::default()
        };
        assert_eq!(trend(at(&["a"]), at(&[])).streams("a"), Some(true));
        assert_eq!(trend(at(&[]), at(&["b", "a"])).streams("a"), Some(true));
        assert_eq!(trend(at(&["b"]), at(&["b"])).streams("a"), Some(false));
    }
}
