//! Timeline history files that would mislead a standby at its start. Pure.
//!
//! Postgres recovers to the timeline of the highest history file. Files of timelines above all
//! existing WAL are misleading:
//!
//! - Empty files, which the worker creates before a promotion because Postgres takes the first
//!   number without a history file. On Postgres 17.12 a restart ignores empty files *below* a valid
//!   one. With an empty file *above* the newest valid one it does not start ("unexpected timeline ID
//!   5 in WAL segment ...", endlessly).
//! - Valid files, which a walreceiver fetched before any WAL of that timeline. If the server's own WAL
//!   goes beyond the fork, 17.12 does not start after a clean stop ("requested timeline 2 does not
//!   contain minimum recovery point ..."); after a crash it replays its own WAL past the fork and
//!   requests the primary's WAL from there. A standby that can follow fetches the file again.

/// The history files in `pg_wal` of timelines above all existing WAL.
pub fn stale<'a>(files: &[&'a str]) -> Vec<&'a str> {
    let Some(known) = files.iter().filter_map(|name| segment(name)).max() else { return vec![] };
    files
        .iter()
        .filter(|name| history(name).is_some_and(|timeline| timeline > known))
        .copied()
        .collect()
}

/// `00000007.history`
fn history(name: &str) -> Option<u32> {
    timeline(name.strip_suffix(".history").filter(|number| number.len() == 8)?)
}

/// `0000000700000000000000A0`, and with `.partial`
fn segment(name: &str) -> Option<u32> {
    let digits = name.split('.').next().unwrap_or_default();
    (digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| timeline(&digits[..8]))?
}

fn timeline(number: &str) -> Option<u32> {
    u32::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_history_files_above_all_wal_are_stale() {
        let nothing: [&str; 0] = [];
        assert_eq!(stale(&["000000010000000000000002"]), nothing);
        assert_eq!(
            stale(&["000000010000000000000002", "00000002.history", "00000003.history"]),
            ["00000002.history", "00000003.history"]
        );
        assert_eq!(
            stale(&[
                "00000002.history",
                "00000003.history",
                "000000030000000000000002",
                "0000000A.history"
            ]),
            ["0000000A.history"]
        );
        assert_eq!(
            stale(&["00000002.history", "000000020000000000000002"]),
            nothing,
            "this server is on it"
        );
        assert_eq!(stale(&["00000002.history", "000000020000000000000002.partial"]), nothing);
        assert_eq!(stale(&["00000002.history"]), nothing, "where there is no WAL nothing is known");
        let others = [
            "000000010000000000000002",
            "00000002.history.tmp",
            "archive_status",
            "2.history",
            "x000000100000000000000zz",
        ];
        assert_eq!(stale(&others), nothing);
    }
}
