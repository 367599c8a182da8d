//! Timeline history files that are none. Pure.
//!
//! The group allots each promotion its timeline. Postgres takes the first number that has no history file, so the worker puts empty files in
//! the way before it promotes. Tried on Postgres 17.12: a restart reads over empty files *below* a proper one, on the promoted server and on
//! those that fetched them; with one *above* the newest proper one it takes that for the latest timeline, finds no way to it, and does not
//! get up ("unexpected timeline ID 5 in WAL segment ...", without end). Those are what a promotion leaves that did not come to its end.

/// A file in `pg_wal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether there is nothing in it.
    pub empty: bool,
}

/// The empty history files above the newest proper one, and above every timeline that there is WAL of.
pub fn stale<'a>(files: &[File<'a>]) -> Vec<&'a str> {
    let proper = files.iter().filter(|f| !f.empty).filter_map(|f| history(f.name));
    let known = proper.chain(files.iter().filter_map(|f| segment(f.name))).max().unwrap_or(0);
    files.iter().filter(|f| f.empty && history(f.name).is_some_and(|timeline| timeline > known)).map(|f| f.name).collect()
}

/// `00000007.history`
fn history(name: &str) -> Option<u32> {
    timeline(name.strip_suffix(".history").filter(|number| number.len() == 8)?)
}

/// `0000000700000000000000A0`, and with `.partial`
fn segment(name: &str) -> Option<u32> {
    let digits = name.split('.').next().unwrap_or_default();
    (digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then(|| timeline(&digits[..8]))?
}

fn timeline(number: &str) -> Option<u32> {
    u32::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stale_of(names: &[&'static str]) -> Vec<&'static str> {
        let file = |name: &&'static str| name.strip_prefix('!').map_or(File { name, empty: false }, |name| File { name, empty: true });
        stale(&names.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn only_those_above_everything_proper_go() {
        let nothing: [&str; 0] = [];
        assert_eq!(stale_of(&["000000010000000000000002"]), nothing);
        assert_eq!(
            stale_of(&["000000010000000000000002", "!00000002.history", "!00000003.history"]),
            ["00000002.history", "00000003.history"]
        );
        assert_eq!(stale_of(&["!00000002.history", "00000003.history", "!0000000A.history"]), ["0000000A.history"]);
        assert_eq!(stale_of(&["!00000002.history", "000000020000000000000002"]), nothing, "this server is on it");
        assert_eq!(stale_of(&["!00000002.history", "000000020000000000000002.partial"]), nothing);
        assert_eq!(stale_of(&["!00000002.history.tmp", "!archive_status", "!2.history", "!x000000100000000000000zz"]), nothing);
    }
}
