//! Positions in the WAL, and how PostgreSQL writes them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A log sequence number in bytes. Its text is PostgreSQL's: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{0}\"")]
pub struct InvalidLsn(String);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |digits: &str| {
            let only_digits = digits.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| only_digits).map(u64::from)
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidLsn(text.chars().take(32).collect()))
    }
}

/// The end of a server's WAL: what a primary has flushed, or a standby has received and flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WalPosition {
    /// Timeline of the last record. The first field, because positions are ordered by it first.
    pub timeline: u32,
    /// Log sequence number in bytes.
    pub lsn: u64,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", Lsn(self.lsn), self.timeline)
    }
}

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalProgress {
    /// The end of its WAL.
    pub end: WalPosition,
    /// The LSN up to which a standby has replayed; None on a primary.
    pub replayed: Option<u64>,
}

impl WalProgress {
    /// How many bytes of WAL up to the LSN `end` the server has not received or not replayed.
    pub fn lacks(&self, end: u64) -> u64 {
        end.saturating_sub(
            self.replayed.map_or(self.end.lsn, |replayed| replayed.min(self.end.lsn)),
        )
    }
}

impl From<WalPosition> for WalProgress {
    fn from(end: WalPosition) -> Self {
        Self { end, replayed: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_lsn_is_written_as_postgres_writes_it() {
        assert_eq!(Lsn(0x0600_0030_0006_0000).to_string(), "6000030/60000");
        assert_eq!(Lsn(0x300_0060).to_string(), "0/3000060");
        assert_eq!(
            WalPosition { timeline: 3, lsn: 0x1_0000_00A0 }.to_string(),
            "1/A0 on timeline 3"
        );
    }

    #[test]
    fn other_text_is_not_an_lsn() {
        for text in ["", "0", "/", "1/", "/1", "x/1", "1/x", "+1/1", "100000000/0", "0/100000000"] {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn(text.to_owned())));
        }
        assert_eq!("ffffffff/FFFFFFFF".parse(), Ok(Lsn(u64::MAX)));
    }

    #[test]
    fn a_standby_lacks_what_it_has_not_replayed() {
        let end = WalPosition { timeline: 1, lsn: 100 };
        assert_eq!(WalProgress::from(end).lacks(130), 30);
        assert_eq!(WalProgress { end, replayed: Some(70) }.lacks(130), 60);
        assert_eq!(WalProgress { end, replayed: Some(120) }.lacks(130), 30);
        assert_eq!(WalProgress::from(end).lacks(90), 0);
    }

    proptest! {
        #[test]
        fn an_lsn_survives_its_text(lsn in any::<u64>()) {
            prop_assert_eq!(Lsn(lsn).to_string().parse(), Ok(Lsn(lsn)));
        }
    }
}
