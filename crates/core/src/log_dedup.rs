//! Keeps repeated lines out of a log: which line is written, and how often it was left out since it
//! was last written. Pure: the time is an argument. Used for the log of a member's connections, for
//! Postgres' log as the instance manager prints it, and for the worker's lines in Postgres' log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What happens to a new subject when as many subjects as allowed are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Its line is written, and the subject whose line is the oldest is forgotten.
    ForgetOldest,
    /// Its line is left out: anyone on the network can invent subjects.
    LeaveOut,
}

/// Remembers the last line about each subject.
#[derive(Debug)]
pub struct LineDedup {
    repeat_after: Duration,
    capacity: usize,
    when_full: WhenFull,
    last: BTreeMap<String, LastLine>,
}

#[derive(Debug)]
struct LastLine {
    text: String,
    at: Instant,
    left_out: u64,
}

impl LineDedup {
    /// Writes the same line about a subject again after `repeat_after`. Remembers at most `capacity`
    /// subjects.
    pub fn new(repeat_after: Duration, capacity: usize, when_full: WhenFull) -> Self {
        Self { repeat_after, capacity, when_full, last: BTreeMap::new() }
    }

    /// Whether to write this line about this subject. `Some`: write it; it was left out this many
    /// times since it was last written. `None`: leave it out.
    pub fn observe(&mut self, subject: &str, text: &str, now: Instant) -> Option<u64> {
        let is_old = |line: &LastLine| now.duration_since(line.at) >= self.repeat_after;
        if let Some(line) = self.last.get_mut(subject) {
            if line.text == text {
                if !is_old(line) {
                    line.left_out += 1;
                    return None;
                }
                line.at = now;
                return Some(std::mem::take(&mut line.left_out));
            }
        } else if self.last.len() >= self.capacity {
            self.last.retain(|_, line| !is_old(line));
            if self.last.len() >= self.capacity {
                let oldest = self.last.iter().min_by_key(|(_, line)| line.at);
                match (self.when_full, oldest.map(|(subject, _)| subject.clone())) {
                    (WhenFull::ForgetOldest, Some(oldest)) => self.last.remove(&oldest),
                    _ => return None,
                };
            }
        }
        let line = LastLine { text: text.to_owned(), at: now, left_out: 0 };
        self.last.insert(subject.to_owned(), line);
        Some(0)
    }

    /// Forgets the subject: its next line is written.
    pub fn forget(&mut self, subject: &str) {
        self.last.remove(subject);
    }

    /// How many subjects are remembered.
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// Whether no subject is remembered.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPEAT_AFTER: Duration = Duration::from_secs(30);

    fn dedup(when_full: WhenFull) -> LineDedup {
        LineDedup::new(REPEAT_AFTER, 3, when_full)
    }

    #[test]
    fn a_repeated_line_is_written_once_per_interval_with_its_count() {
        let (mut dedup, start) = (dedup(WhenFull::ForgetOldest), Instant::now());
        let written: Vec<_> = (0..650)
            .filter_map(|n| dedup.observe("a", "x", start + n * Duration::from_millis(100)))
            .collect();
        assert_eq!(written, [0, 299, 299]);
    }

    #[test]
    fn a_different_line_or_a_forgotten_subject_is_written_at_once() {
        let (mut dedup, now) = (dedup(WhenFull::ForgetOldest), Instant::now());
        assert_eq!(dedup.observe("a", "x", now), Some(0));
        assert_eq!(dedup.observe("a", "x", now), None);
        assert_eq!(dedup.observe("b", "x", now), Some(0));
        assert_eq!(dedup.observe("a", "y", now), Some(0));
        assert_eq!(dedup.observe("a", "x", now), Some(0));
        dedup.forget("a");
        assert_eq!(dedup.observe("a", "x", now), Some(0));
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_or_leaves_new_subjects_out() {
        let start = Instant::now();
        for (when_full, fourth, first_again) in
            [(WhenFull::ForgetOldest, Some(0), Some(0)), (WhenFull::LeaveOut, None, None)]
        {
            let mut dedup = dedup(when_full);
            for (n, subject) in (0..).zip(["a", "b", "c"]) {
                assert_eq!(
                    dedup.observe(subject, "x", start + n * Duration::from_secs(1)),
                    Some(0)
                );
            }
            let now = start + Duration::from_secs(3);
            assert_eq!(dedup.observe("d", "x", now), fourth, "{when_full:?}");
            assert_eq!(dedup.observe("a", "x", now), first_again, "{when_full:?}");
            assert_eq!(dedup.observe("e", "x", start + 2 * REPEAT_AFTER), Some(0), "room again");
        }
    }

    proptest! {
        #[test]
        fn a_line_is_left_out_only_if_it_was_written_recently(
            lines in prop::collection::vec((0..6_u8, 0..2_u8, 0..20_u64), 1..100),
        ) {
            let mut dedup = dedup(WhenFull::ForgetOldest);
            let mut now = Instant::now();
            let mut written: Vec<(u8, u8, Instant)> = vec![];
            for (subject, text, seconds) in lines {
                now += Duration::from_secs(seconds);
                let recent = written.iter().rev().find(|(s, ..)| *s == subject);
                let recent = recent.is_some_and(|(_, t, at)| *t == text && now - *at < REPEAT_AFTER);
                match dedup.observe(&subject.to_string(), &text.to_string(), now) {
                    Some(_) => written.push((subject, text, now)),
                    None => prop_assert!(recent),
                }
                prop_assert!(dedup.len() <= 3);
            }
        }
    }
}
