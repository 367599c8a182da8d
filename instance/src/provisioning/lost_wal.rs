//! Decides when a standby must be cloned: the primary no longer has the WAL that it needs next, for
//! long enough. Pure.
//!
//! The decision uses the list of the primary's WAL files, because error messages may be translated.

use std::time::Duration;

/// How long the WAL must be missing, and how often that must be observed.
const MIN_DURATION: Duration = Duration::from_secs(30);
const MIN_CHECKS: u32 = 3;

/// Consecutive observations of missing WAL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostWal {
    /// The replay position, since when it has not moved, and how often that was observed.
    seen: Option<(u64, Duration, u32)>,
}

impl LostWal {
    /// Records one observation: `lost` is the replay position if the WAL from there on is missing.
    /// Returns whether it has been missing for long enough.
    pub fn observe(&mut self, now: Duration, lost: Option<u64>) -> bool {
        self.seen = lost.map(|lsn| match self.seen {
            Some((at, since, checks)) if at == lsn => (lsn, since, checks + 1),
            _ => (lsn, now, 1),
        });
        self.seen.is_some_and(|(_, since, checks)| {
            checks >= MIN_CHECKS && now.saturating_sub(since) >= MIN_DURATION
        })
    }
}

/// Whether the segment with this position is missing from these files of `pg_wal`: there are segments
/// of any timeline, and all are later. A gap in the middle is not handled here.
pub fn is_gone<'a>(lsn: u64, segment_size: u64, files: impl IntoIterator<Item = &'a str>) -> bool {
    let oldest = files.into_iter().filter_map(|name| segment(name, segment_size)).min();
    oldest.is_some_and(|oldest| oldest > lsn / segment_size.max(1))
}

/// The number of a segment from its file name `TTTTTTTTXXXXXXXXYYYYYYYY`.
fn segment(name: &str, size: u64) -> Option<u64> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).ok();
    Some(part(8)? * ((1 << 32) / size.max(1)) + part(16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn a_segment_is_missing_if_all_others_are_later() {
        let files = [
            "000000030000000000000010",
            "000000030000000000000011",
            "00000003.history",
            "archive_status",
        ];
        assert!(is_gone(0x0FFF_FFFF, 16 * MB, files));
        assert!(!is_gone(0x1000_0000, 16 * MB, files), "the beginning of the oldest");
        assert!(!is_gone(0x1234_5678, 16 * MB, files));
        assert!(!is_gone(0, 16 * MB, ["00000003.history"]), "nothing is known");
        assert!(
            !is_gone(0x0FFF_FFFF, 16 * MB, files.into_iter().chain(["00000001000000000000000F"])),
            "it is there on its own timeline"
        );
        assert!(is_gone(0x2_4000_0000 - 1, 1024 * MB, ["000000010000000200000001"]));
        assert!(!is_gone(0x2_4000_0000, 1024 * MB, ["000000010000000200000001"]));
    }

    #[test]
    fn only_lasting_loss_counts() {
        let s = Duration::from_secs;
        let mut lost_wal = LostWal::default();
        assert!(![0, 10, 20].into_iter().any(|at| lost_wal.observe(s(at), Some(5))));
        assert!(lost_wal.observe(s(30), Some(5)));
        assert!(!lost_wal.observe(s(40), Some(6)), "replay goes on");
        assert!(!lost_wal.observe(s(80), Some(6)), "seen twice");
        assert!(!lost_wal.observe(s(90), None), "the segment is there");
        assert!(![100, 110, 120].into_iter().any(|at| lost_wal.observe(s(at), Some(6))));
    }
}
