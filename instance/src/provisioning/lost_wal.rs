//! When a standby has to be cloned again: the primary has no more the WAL that it needs next, and
//! that stays so. Pure.
//!
//! Nothing is read into error messages, which speak the language of the server that they come from:
//! what the primary has is listed.

use std::time::Duration;

/// For how long it must have been so, and how often it must have been seen.
const MAX_WAIT: Duration = Duration::from_secs(30);
const MAX_CHECKS: u32 = 3;

/// Looks in a row that all said the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// Where replay stands, since when, and how often it was seen there.
    seen: Option<(u64, Duration, u32)>,
}

impl Patience {
    /// One look: `lost` is where replay stands when the WAL from there on is gone. Returns whether
    /// it has been so for long enough.
    pub fn look(&mut self, now: Duration, lost: Option<u64>) -> bool {
        self.seen = lost.map(|lsn| match self.seen {
            Some((at, since, looks)) if at == lsn => (lsn, since, looks + 1),
            _ => (lsn, now, 1),
        });
        self.seen.is_some_and(|(_, since, looks)| {
            looks >= MAX_CHECKS && now.saturating_sub(since) >= MAX_WAIT
        })
    }
}

/// Whether the segment with this position is gone, where these are the files in `pg_wal`: there are
/// segments, on whatever timeline, and all are younger. A gap in the middle is something else, and
/// for a person to look at.
pub fn is_gone<'a>(lsn: u64, segment_size: u64, files: impl IntoIterator<Item = &'a str>) -> bool {
    let oldest = files.into_iter().filter_map(|name| segment(name, segment_size)).min();
    oldest.is_some_and(|oldest| oldest > lsn / segment_size.max(1))
}

/// The number of a segment by its file's name: `TTTTTTTTXXXXXXXXYYYYYYYY`.
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
    fn a_segment_is_gone_when_all_that_are_there_are_younger() {
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
    fn only_what_stays_so_counts() {
        let s = Duration::from_secs;
        let mut patience = Patience::default();
        assert!(![0, 10, 20].into_iter().any(|at| patience.look(s(at), Some(5))));
        assert!(patience.look(s(30), Some(5)));
        assert!(!patience.look(s(40), Some(6)), "replay goes on");
        assert!(!patience.look(s(80), Some(6)), "seen twice");
        assert!(!patience.look(s(90), None), "the segment is there");
        assert!(![100, 110, 120].into_iter().any(|at| patience.look(s(at), Some(6))));
    }
}
