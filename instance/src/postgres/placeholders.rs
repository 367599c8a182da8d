//! Timeline history files that would lead a standby astray when it is started. Pure.
//!
//! Postgres takes the highest one for the timeline that it is to reach. Those above every timeline
//! that there is WAL of are only known by hearsay:
//!
//! - Empty ones, which the worker puts in the way before it promotes, since Postgres takes the
//!   first number that has no history file. Tried on Postgres 17.12: a restart reads over empty
//!   files *below* a proper one, on the promoted server and on those that fetched them; with one
//!   *above* the newest proper one it finds no way to it, and does not get up ("unexpected timeline
//!   ID 5 in WAL segment ...", without end).
//! - Proper ones, which a walreceiver fetched before it got any WAL of that timeline. A server
//!   whose WAL goes on behind the fork must not know of it. Tried on 17.12: it does not get up
//!   after a clean stop ("requested timeline 2 does not contain minimum recovery point ..."), and
//!   after a crash it replays its own WAL past the fork, and asks for the primary's behind it.
//!   Whoever can follow fetches the file again.

/// Of the files in `pg_wal`, the histories of timelines above every one that there is WAL of.
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
    fn only_those_above_all_wal_go() {
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
