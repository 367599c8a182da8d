//! Which WAL a primary's own WAL continues.

use serde::{Deserialize, Serialize};

use crate::wal::WalPosition;

/// The timelines that a primary's WAL came through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct History {
    /// The present one.
    pub timeline: u32,
    /// The earlier ones, each with the position where it was left.
    pub left: Vec<WalPosition>,
}

impl History {
    /// Whether WAL that ends there is the beginning of this one: its server can follow. What it has
    /// beyond was never confirmed.
    pub fn continues(&self, end: WalPosition) -> bool {
        end.timeline == self.timeline
            || self.left.iter().any(|left| left.timeline == end.timeline && end.lsn <= left.lsn)
    }

    /// Reads a `.history` file of Postgres: lines of timeline, position and a reason, by tabs or
    /// blanks; `#` begins a comment.
    pub fn parse(timeline: u32, text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let timeline = words.next()?.parse().ok()?;
            let (high, low) = words.next()?.split_once('/')?;
            let lsn = u64::from(u32::from_str_radix(high, 16).ok()?) << 32
                | u64::from(u32::from_str_radix(low, 16).ok()?);
            Some(WalPosition { timeline, lsn })
        };
        Self { timeline, left: text.lines().filter_map(line).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_follow() {
        let history = History::parse(
            3,
            "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t1/A0\tno recovery target specified\n",
        );
        assert_eq!(
            history.left,
            [
                WalPosition { timeline: 1, lsn: 0x300_0148 },
                WalPosition { timeline: 2, lsn: 0x1_0000_00A0 }
            ]
        );
        let ends = [
            (1, 0x300_0148, true),
            (1, 0x300_0149, false),
            (2, 5, true),
            (2, 0x1_0000_00A1, false),
            (3, u64::MAX, true),
            (4, 1, false),
        ];
        for (timeline, lsn, can) in ends {
            assert_eq!(history.continues(WalPosition { timeline, lsn }), can, "{timeline} {lsn:X}");
        }
    }
}
