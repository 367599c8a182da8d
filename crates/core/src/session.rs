//! The settings in the startup packet of each session that pgraft opens.
//!
//! Settings of a role, a database or the configuration file apply to every session that does not
//! override them. A session of pgraft overrides all settings that would change its results or end
//! it. The startup packet takes precedence over `ALTER ROLE ... SET`, `ALTER DATABASE ... SET` and
//! the files, and applies before the first statement.
//!
//! ```text
//!  Session, major version ──▶ settings ──▶ options: "-c name=value ..." ──▶ tokio-postgres, or a conninfo's `options`
//! ```

/// The oldest and the newest major version whose settings differ from each other here.
pub const OLDEST: u32 = 15;
/// See [`OLDEST`].
pub const NEWEST: u32 = 17;

/// A kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session<'a> {
    /// The superuser on the local server, to read: readiness, status and metrics.
    Probe,
    /// The superuser on the local server, to write: roles, databases, grants, slots. Carries
    /// passwords' verifiers.
    Provisioning {
        /// Whether its commits wait for standbys.
        waits: bool,
    },
    /// The replication role on the primary: its state, and this node's slot.
    Source,
    /// The replication role on the primary: `pg_basebackup` and `pg_rewind`.
    Program {
        /// `wal_sender_timeout`.
        sender_timeout: &'a str,
    },
    /// The replication role on the primary: a walreceiver, and the worker that copies logical
    /// slots.
    Standby {
        /// `wal_sender_timeout`.
        sender_timeout: &'a str,
    },
    /// The operator.
    Operator,
}

/// A setting, and the first major version that has it.
type SessionSetting = (&'static str, &'static str, u32);

/// Settings of every session. Any role may set them.
const ALL: &[SessionSetting] = &[
    // pg_temp last, so that temporary objects cannot hide built-in ones.
    ("search_path", "pg_catalog, pg_temp", OLDEST),
    ("role", "none", OLDEST),
    ("client_encoding", "UTF8", OLDEST),
    ("client_min_messages", "warning", OLDEST),
    ("default_transaction_deferrable", "off", OLDEST),
    ("default_transaction_isolation", "read committed", OLDEST),
    ("default_transaction_read_only", "off", OLDEST),
    ("exit_on_error", "off", OLDEST),
    ("idle_in_transaction_session_timeout", "0", OLDEST),
    ("jit", "off", OLDEST),
    ("local_preload_libraries", "", OLDEST),
    ("max_parallel_workers_per_gather", "0", OLDEST),
    ("row_security", "on", OLDEST),
    ("standard_conforming_strings", "on", OLDEST),
    ("transaction_timeout", "0", 17),
    ("transform_null_equals", "off", OLDEST),
];

/// Settings of standbys: those that could end a walsender, or that affect the slot sync worker. A
/// server truncates `primary_conninfo` to 1023 bytes (`MAXCONNINFO` in walreceiver.h), so settings
/// are left out that libpqwalreceiver sets itself (`search_path`) or a walsender ignores.
const STANDBY: &[SessionSetting] = &[
    ("role", "none", OLDEST),
    ("client_encoding", "UTF8", OLDEST),
    ("local_preload_libraries", "", OLDEST),
    ("statement_timeout", "0", OLDEST),
    ("lock_timeout", "0", OLDEST),
    ("idle_session_timeout", "0", OLDEST),
    ("transaction_timeout", "0", 17),
];

/// Settings of superusers' sessions. The server would refuse a connection of another role that sets
/// them.
const SUPERUSER: &[SessionSetting] = &[
    ("event_triggers", "off", 17),
    ("session_preload_libraries", "", OLDEST),
    ("session_replication_role", "origin", OLDEST),
];

/// Settings of sessions that write: defaults for new objects, and no statements in logs and views,
/// because these carry password verifiers.
const PROVISIONING: &[SessionSetting] = &[
    ("auto_explain.log_min_duration", "-1", OLDEST),
    ("debug_print_parse", "off", OLDEST),
    ("debug_print_plan", "off", OLDEST),
    ("debug_print_rewritten", "off", OLDEST),
    ("default_table_access_method", "heap", OLDEST),
    ("default_tablespace", "", OLDEST),
    ("dynamic_library_path", "$libdir", OLDEST),
    ("log_duration", "off", OLDEST),
    ("log_min_duration_sample", "-1", OLDEST),
    ("log_min_duration_statement", "-1", OLDEST),
    ("log_min_error_statement", "panic", OLDEST),
    ("log_parameter_max_length", "0", OLDEST),
    ("log_parameter_max_length_on_error", "0", OLDEST),
    ("log_statement", "none", OLDEST),
    ("log_transaction_sample_rate", "0", OLDEST),
    ("pg_stat_statements.track", "none", OLDEST),
    ("track_activities", "off", OLDEST),
];

impl Session<'_> {
    /// The settings on a server of that major version.
    pub fn settings(self, major: u32) -> Vec<(&'static str, String)> {
        // Statement, lock and idle timeouts: 0 is none.
        let (statement, lock, idle) = match self {
            Self::Probe => ("2s", "2s", "0"),
            Self::Provisioning { .. } => ("60s", "10s", "0"),
            Self::Source => ("10s", "10s", "0"),
            Self::Program { .. } | Self::Standby { .. } => ("0", "0", "0"),
            Self::Operator => ("15s", "10s", "60s"),
        };
        let timeouts = [
            ("statement_timeout", statement, OLDEST),
            ("lock_timeout", lock, OLDEST),
            ("idle_session_timeout", idle, OLDEST),
        ];
        let mut settings: Vec<SessionSetting> = if matches!(self, Self::Standby { .. }) {
            STANDBY.to_vec()
        } else {
            ALL.iter().copied().chain(timeouts).collect()
        };
        match self {
            Self::Probe => settings.extend(SUPERUSER),
            Self::Provisioning { waits } => {
                settings.extend(SUPERUSER);
                settings.extend(PROVISIONING);
                // Without failover this must work without a standby.
                settings.extend(if waits {
                    [("synchronous_commit", "on", OLDEST)].as_slice()
                } else {
                    [
                        ("synchronous_commit", "local", OLDEST),
                        ("pgraft.durability", "quorum", OLDEST),
                    ]
                    .as_slice()
                });
            }
            Self::Source | Self::Program { .. } | Self::Standby { .. } | Self::Operator => {}
        }
        let known = settings
            .into_iter()
            .filter(|(_, _, since)| *since <= major)
            .map(|(name, value, _)| (name, value.to_owned()));
        let sender = match self {
            Self::Program { sender_timeout } | Self::Standby { sender_timeout } => {
                Some(("wal_sender_timeout", sender_timeout.to_owned()))
            }
            Self::Probe | Self::Provisioning { .. } | Self::Source | Self::Operator => None,
        };
        known.chain(sender).collect()
    }

    /// The settings as `options` of the startup packet.
    pub fn options(self, major: u32) -> String {
        let option = |(name, value): (&str, String)| format!("-c {name}={}", escaped(&value));
        self.settings(major).into_iter().map(option).collect::<Vec<_>>().join(" ")
    }
}

/// Escapes blanks, which separate the options, and backslashes.
fn escaped(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| {
            (c == '\\' || c.is_ascii_whitespace() || c == '\u{b}')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const KINDS: [Session<'static>; 7] = [
        Session::Probe,
        Session::Provisioning { waits: true },
        Session::Provisioning { waits: false },
        Session::Source,
        Session::Program { sender_timeout: "5s" },
        Session::Standby { sender_timeout: "5s" },
        Session::Operator,
    ];

    fn value(session: Session<'_>, name: &str) -> Option<String> {
        session.settings(NEWEST).into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    #[test]
    fn the_settings_of_a_standby_are_short() {
        let options = Session::Standby { sender_timeout: "5s" }.options(NEWEST);
        assert!(options.len() < 200, "{}: {options}", options.len());
        for name in [
            "role",
            "statement_timeout",
            "idle_session_timeout",
            "transaction_timeout",
            "wal_sender_timeout",
            "local_preload_libraries",
        ] {
            assert!(options.contains(&format!("-c {name}=")), "{name}: {options}");
        }
    }

    #[test]
    fn the_table() {
        for session in
            KINDS.into_iter().filter(|session| !matches!(session, Session::Standby { .. }))
        {
            for (name, wanted) in [
                ("search_path", "pg_catalog, pg_temp"),
                ("role", "none"),
                ("default_transaction_isolation", "read committed"),
                ("default_transaction_read_only", "off"),
                ("idle_in_transaction_session_timeout", "0"),
                ("transaction_timeout", "0"),
                ("local_preload_libraries", ""),
            ] {
                assert_eq!(value(session, name).as_deref(), Some(wanted), "{session:?} {name}");
            }
            for name in ["statement_timeout", "lock_timeout", "idle_session_timeout"] {
                assert!(value(session, name).is_some(), "{session:?} {name}");
            }
            let superuser = matches!(session, Session::Probe | Session::Provisioning { .. });
            for (name, _, _) in SUPERUSER {
                assert_eq!(
                    value(session, name).is_some(),
                    superuser,
                    "{session:?} {name}: others may not set it"
                );
            }
            let names: Vec<_> =
                session.settings(NEWEST).into_iter().map(|(name, _)| name).collect();
            assert_eq!(
                names.len(),
                names.iter().collect::<BTreeSet<_>>().len(),
                "{session:?} sets one twice"
            );
            assert!(session.options(NEWEST).len() < 2000, "a startup packet has an end");
        }
    }

    #[test]
    fn only_what_carries_secrets_hides_its_statements() {
        for session in KINDS {
            let carries = matches!(session, Session::Provisioning { .. });
            assert_eq!(value(session, "log_statement").is_some(), carries, "{session:?}");
            assert_eq!(value(session, "track_activities").is_some(), carries, "{session:?}");
        }
        assert_eq!(
            value(Session::Provisioning { waits: true }, "synchronous_commit").as_deref(),
            Some("on")
        );
        assert_eq!(
            value(Session::Provisioning { waits: false }, "synchronous_commit").as_deref(),
            Some("local")
        );
    }

    #[test]
    fn what_a_version_does_not_have_is_left_out() {
        for session in KINDS {
            let (old, new) = (session.options(OLDEST), session.options(NEWEST));
            assert!(
                !old.contains("transaction_timeout=") || old.contains("idle_in_transaction"),
                "{old}"
            );
            assert!(
                !old.contains("-c transaction_timeout=")
                    && new.contains("-c transaction_timeout=0"),
                "{session:?}"
            );
            assert!(!old.contains("event_triggers"), "{session:?}");
        }
    }

    #[test]
    fn escapes_blanks_and_backslashes() {
        assert_eq!(escaped("a b\\c\n"), "a\\ b\\\\c\\\n");
        let options = Session::Program { sender_timeout: "5 s" }.options(OLDEST);
        assert!(
            options.starts_with("-c search_path=pg_catalog,\\ pg_temp -c role=none "),
            "{options}"
        );
        assert!(
            options.contains("-c default_transaction_isolation=read\\ committed ")
                && options.ends_with("-c wal_sender_timeout=5\\ s")
        );
        assert!(options.contains("-c local_preload_libraries= "), "{options}");
    }
}
