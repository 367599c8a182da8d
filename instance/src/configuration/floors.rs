//! Settings that must not be lower on a standby than on the primary whose WAL it replays. Pure except
//! for [`read`].
//!
//! `pg_control` has the values that the WAL up to there was written with. With lower values a server
//! does not start, or pauses replay for good. So a standby starts with the larger of the configured
//! value and that one. It is set on the command line, which takes precedence over files and `ALTER
//! SYSTEM`, and only if needed, so a lower value takes effect once the primary has it.

use std::collections::BTreeMap;

use crate::postgres::process::{self, ProcessError};
use crate::reaper::Reaper;
use crate::settings::Settings;

/// The settings, and their names in `pg_controldata`.
const NAMES: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_worker_processes", "max_worker_processes setting"),
];

/// The minimum values of these settings.
pub type Floors = BTreeMap<&'static str, u32>;

/// The message of a standby whose settings are too low (`RecoveryRequiresIntParameter` in
/// `xlogrecovery.c`).
pub const TOO_LOW: &str = "hot standby is not possible because of insufficient parameter settings";

/// Reads the minimum values from the control file.
pub async fn read(settings: &Settings, reaper: &Reaper) -> Result<Floors, ProcessError> {
    let mut command = process::program(settings, "pg_controldata", settings.paths.parent());
    command.arg("-D").arg(&settings.paths.data);
    let (ending, output) = process::output(reaper, command).await?;
    let floors = parse(&String::from_utf8_lossy(&output));
    if floors.is_empty() {
        Err(ProcessError::Failed { program: "pg_controldata", ending })
    } else {
        Ok(floors)
    }
}

fn parse(output: &str) -> Floors {
    let value = |label: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    NAMES.iter().filter_map(|(name, label)| Some((*name, value(label)?))).collect()
}

/// The values for the command line: the floor of each setting that is lower in the files. `wanted`
/// has the settings of the files.
pub fn needed(floors: &Floors, wanted: &BTreeMap<String, String>) -> Floors {
    floors
        .iter()
        .filter(|(name, floor)| value(name, wanted) < **floor)
        .map(|(name, floor)| (*name, *floor))
        .collect()
}

/// The values that a server started now would run with: the larger of the configured value and the
/// floor.
pub fn effective(floors: &Floors, wanted: &BTreeMap<String, String>) -> Floors {
    NAMES
        .iter()
        .map(|(name, _)| (*name, value(name, wanted).max(floors.get(name).copied().unwrap_or(0))))
        .collect()
}

/// The configured value, or Postgres' default. An unreadable value counts as 0, so the floor is used.
fn value(name: &str, wanted: &BTreeMap<String, String>) -> u32 {
    let default = match name {
        "max_connections" => 100,
        "max_locks_per_transaction" => 64,
        "max_prepared_transactions" => 0,
        "max_wal_senders" => 10,
        _ => 8,
    };
    wanted.get(name).map_or(Some(default), |text| number(text)).unwrap_or(0)
}

/// Parses an integer without a unit as Postgres does: decimal, hexadecimal or octal.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    if text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
        return u32::from_str_radix(text, 8).ok();
    }
    text.parse().ok()
}

/// The settings in a file like `postgresql.conf`, by name in lower case. The last one of a name wins.
pub fn settings_of(text: &str) -> BTreeMap<String, String> {
    let setting = |line: &str| {
        let line = line.trim();
        let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
        let (name, value) = line.split_at(end);
        let value = value.trim_start().trim_start_matches('=').trim().trim_matches('\'');
        (!name.starts_with('#')).then(|| (name.to_ascii_lowercase(), value.to_owned()))
    };
    text.lines().filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUTPUT: &str = "pg_control version number:            1300
wal_log_hints setting:                on
max_connections setting:              400
max_worker_processes setting:         8
max_wal_senders setting:              16
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
";

    fn wanted(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        values.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn only_lower_values_are_raised_on_the_command_line() {
        let floors = parse(OUTPUT);
        assert_eq!(floors.len(), 5);
        assert_eq!(
            needed(&floors, &wanted(&[("max_connections", "60"), ("max_wal_senders", "16")])),
            Floors::from([("max_connections", 400)])
        );
        assert_eq!(
            needed(&floors, &wanted(&[("max_connections", "500"), ("max_wal_senders", "20")])),
            Floors::new()
        );
        assert_eq!(
            needed(&floors, &wanted(&[("max_connections", "0x190"), ("max_wal_senders", "0x11")])),
            Floors::new()
        );
        let defaults = Floors::from([("max_connections", 400), ("max_wal_senders", 16)]);
        assert_eq!(needed(&floors, &BTreeMap::new()), defaults);
        let runs =
            effective(&floors, &wanted(&[("max_connections", "60"), ("max_wal_senders", "20")]));
        assert_eq!(
            (runs["max_connections"], runs["max_wal_senders"], runs["max_worker_processes"]),
            (400, 20, 8)
        );
    }

    #[test]
    fn the_settings_of_a_file_are_read() {
        let text = "# a\nMax_Connections = '60'\nwork_mem='8MB'\nmax_wal_senders 5\nmax_connections = 70\n";
        assert_eq!(
            settings_of(text),
            wanted(&[("max_connections", "70"), ("work_mem", "8MB"), ("max_wal_senders", "5")])
        );
    }

    #[derive(Debug, Clone)]
    enum Move {
        Want(u32),
        /// A server is started again: as a standby, or as the primary that goes on.
        Restart(usize, bool),
        /// A standby replays to the end.
        Replay(usize),
        Promote(usize),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            (1..500_u32).prop_map(Move::Want),
            (0..5_usize, any::<bool>()).prop_map(|(n, primary)| Move::Restart(n, primary)),
            (0..5_usize).prop_map(Move::Replay),
            (0..5_usize).prop_map(Move::Promote),
        ]
    }

    #[derive(Clone, Copy)]
    struct ServerLimits {
        runs_with: u32,
        controldata: u32,
    }

    proptest! {
        /// Any order of wanted values, restarts, promotions and replay: no server ever starts with
        /// less than its control file says, and one that has replayed a raise runs with it after
        /// one more restart.
        #[test]
        fn no_server_is_ever_below_its_control_file(count in prop::sample::select(vec![1_usize, 3, 5]), moves in prop::collection::vec(any_move(), 0..80)) {
            let start = |want: u32, controldata: u32| {
                let floors = Floors::from([("max_connections", controldata)]);
                needed(&floors, &wanted(&[("max_connections", &want.to_string())])).get("max_connections").copied().unwrap_or(want)
            };
            let (mut want, mut primary) = (100, 0);
            let mut servers = vec![ServerLimits { runs_with: 100, controldata: 100 }; count];
            for step in moves {
                match step {
                    Move::Want(value) => want = value,
                    Move::Restart(n, as_primary) if n < count => {
                        let server = &mut servers[n];
                        if as_primary && n == primary {
                            // Where the bootstrap node stays the primary it is no standby, and may
                            // have less.
                            *server = ServerLimits { runs_with: want, controldata: want };
                        } else {
                            server.runs_with = start(want, server.controldata);
                            prop_assert!(server.runs_with >= server.controldata);
                            prop_assert!(server.runs_with >= want);
                        }
                    }
                    Move::Replay(n) if n < count && n != primary => {
                        servers[n].controldata = servers[primary].controldata;
                        if servers[n].runs_with < servers[n].controldata {
                            // Replay pauses, and the manager starts the server again.
                            servers[n].runs_with = start(want, servers[n].controldata);
                        }
                        prop_assert!(servers[n].runs_with >= servers[n].controldata);
                    }
                    Move::Promote(n) if n < count => {
                        primary = n;
                        servers[n].controldata = servers[n].runs_with;
                    }
                    _ => {}
                }
            }
        }
    }
}
