//! Every file that Postgres reads, as a whole.

use proptest::prelude::*;

use super::*;
use crate::settings::tests::{example, example_with_failover, example_with_tls};

fn upstream() -> Upstream {
    Upstream {
        node_id: pgraft_core::NodeId::new(1).unwrap(),
        host: "db-1.example".into(),
        port: 5432,
    }
}

#[test]
fn all_files_of_a_standby() {
    insta::assert_snapshot!(all_files(&example()));
}

#[test]
fn all_files_of_a_standby_with_tls() {
    insta::assert_snapshot!(all_files(&example_with_tls()));
}

#[test]
fn failover_changes_the_files_and_the_command_line() {
    let settings = example_with_failover();
    let conf = postgresql_conf(&settings, Some(&upstream()));
    assert_eq!(conf, postgresql_conf(&settings, None), "who is the primary changes nothing");
    let own = |line: &&str| {
        ["primary_conninfo", "include", "max_standby", "wal_"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let lines: Vec<&str> = conf.text.lines().filter(own).collect();
    let more: Vec<String> = command_line(&settings)
        .into_iter()
        .filter(|word| !command_line(&example()).contains(word))
        .collect();
    insta::assert_snapshot!(format!("{}\n--- command line\n{}", lines.join("\n"), more.join("\n")));
    assert_eq!(
        conf.text.lines().last(),
        lines.iter().find(|line| line.starts_with("include")).copied()
    );
}

#[test]
fn sync_replication_slots_sets_what_it_requires() {
    let mut settings = example_with_failover();
    settings.config.postgresql.parameters.insert("sync_replication_slots".into(), "on".into());
    let (text, line) = (postgresql_conf(&settings, None).text, command_line(&settings));
    for part in
        ["sync_replication_slots = 'on'\n", "hot_standby_feedback = 'on'\n", "dbname=''postgres''"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(line.contains(&"wal_level=logical".to_owned()));
    settings.failover = false;
    assert!(
        !keeps_logical_slots(&settings),
        "nobody else's slots are read where nobody takes over"
    );
}

#[test]
fn a_program_confirms_no_commits() {
    let settings = example_with_tls();
    let (clone, standby) = (
        program_conninfo(&settings, &upstream(), "clone", &[]),
        standby_conninfo(&settings, Some(&upstream())),
    );
    assert!(standby.contains("application_name='pgraft_2'") && !clone.contains("pgraft_2"));
    assert!(clone.contains("application_name='clone for node 2'"));
    // Both reach the same server in the same way.
    let rest = |text: &str| {
        let own =
            |part: &&str| !part.starts_with("application_name") && !part.starts_with("options");
        text.split("' ").filter(own).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rest(&clone), rest(&standby));
}

/// A walreceiver gets no more than 1023 bytes of it.
#[test]
fn the_conninfo_of_a_standby_is_short_enough() {
    let mut settings = example_with_tls();
    settings.failover = true;
    settings.config.postgresql.parameters.insert("sync_replication_slots".into(), "on".into());
    let upstream = Upstream { host: "x".repeat(253), ..upstream() };
    let length = standby_conninfo(&settings, Some(&upstream)).len();
    assert!(length < 1000, "{length} bytes");
}

fn all_files(settings: &Settings) -> String {
    let conf = postgresql_conf(settings, Some(&upstream()));
    format!(
        "--- postgresql.conf\n{}--- notes\n{}\n--- pg_hba.conf\n{}--- pg_ident.conf\n{}--- pgpass\n{}--- command line\n{}\n",
        conf.text,
        conf.notes.join("\n"),
        hba(settings),
        ident(settings, "postgres"),
        passfile(Some("a:b\\c")),
        command_line(settings).join("\n").replace('\t', "<tab>"),
    )
}

#[test]
fn without_a_primary_conninfo_is_empty() {
    assert!(postgresql_conf(&example(), None).text.contains("primary_conninfo = ''\n"));
    assert_eq!(passfile(None), "");
}

#[test]
fn users_can_allow_older_tls_versions() {
    let mut settings = example_with_tls();
    settings
        .config
        .postgresql
        .parameters
        .insert("ssl_min_protocol_version".into(), "TLSv1.2".into());
    assert!(
        postgresql_conf(&settings, None).text.contains("ssl_min_protocol_version = 'TLSv1.2'\n")
    );
}

#[test]
fn managed_settings_are_removed_from_auto_conf() {
    let text = "# Do not edit\nwork_mem = '8MB'\nprimary_conninfo = 'host=x'\nPort=7\nshared_preload_libraries\t= ''\n";
    assert_eq!(scrubbed_auto_conf(text).unwrap(), "# Do not edit\nwork_mem = '8MB'\n");
    assert_eq!(scrubbed_auto_conf("work_mem = '8MB'\n"), None);
}

/// The words of a line as Postgres' own reader (hba.c, `next_token`) takes them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut rest) = (vec![], line.chars().peekable());
    while let Some(first) = rest.find(|c| !c.is_whitespace()) {
        let (mut word, mut quoted, mut next) = (String::new(), false, Some(first));
        while let Some(c) = next.filter(|c| quoted || !c.is_whitespace()) {
            match c {
                '"' if quoted && rest.next_if_eq(&'"').is_some() => word.push('"'),
                '"' => quoted = !quoted,
                c => word.push(c),
            }
            next = rest.next();
        }
        words.push(word);
    }
    words
}

#[test]
fn names_stay_quoted_in_pg_ident() {
    for owner in [
        "it's",
        "a\"b",
        "\"",
        "back\\slash\\",
        "a b",
        "$$",
        "all",
        "#",
        "/^.*$",
        "; DROP ROLE x; --",
        "a,b",
    ] {
        let mut settings = example();
        settings.config.bootstrap.owner = owner.into();
        let text = ident(&settings, "postgres");
        let lines: Vec<_> = text.lines().skip(1).map(words).collect();
        let line = |role: &str| vec!["pgraft".to_owned(), "postgres".to_owned(), role.to_owned()];
        assert_eq!(lines, [line("postgres"), line(OPERATOR_ROLE), line(owner)], "{text}");
        assert!(!text.lines().any(|line| line.ends_with('\\')), "{text}");
    }
}

/// A backslash at the end of a line has Postgres read the next one as its continuation.
#[test]
fn a_trailing_backslash_does_not_join_hba_lines() {
    for line in [
        "host all all 10.0.0.0/8 trust \\",
        "# a remark\\",
        "\\",
        "  host all all 10.0.0.0/8 reject \\ \\ ",
    ] {
        let mut settings = example();
        let before = hba(&settings);
        settings.config.postgresql.pg_hba = vec![line.into()];
        let text = hba(&settings);
        assert!(!text.contains("\\\n"), "{text}");
        let closing =
            |text: &str| text.lines().filter(|l| l.starts_with("host all all all ")).count();
        assert_eq!((closing(&text), closing(&before)), (1, 1), "{text}");
    }
}

/// A role can carry another one, which would end every walsender.
#[test]
fn conninfo_carries_the_configured_sender_timeout() {
    let mut settings = example();
    let mut told = |value: Option<&str>| {
        settings.config.postgresql.parameters.remove("WAL_Sender_Timeout");
        settings
            .config
            .postgresql
            .parameters
            .extend(value.map(|v| ("WAL_Sender_Timeout".to_owned(), v.to_owned())));
        let conninfo = standby_conninfo(&settings, Some(&upstream()));
        conninfo
            .split("-c wal_sender_timeout=")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(told(None), "5s");
    assert_eq!(
        (told(Some("1min")), told(Some(" 0 ")), told(Some("10 s"))),
        ("1min".into(), "0".into(), "10\\\\ s".into())
    );
    for no_time in ["soon", "", "5 s -c role=postgres", "99999999999", "1e3s"] {
        assert_eq!(told(Some(no_time)), "5s", "{no_time}");
    }
}

/// What Postgres' own reader (guc-file.l, `DeescapeQuotedString`) makes of a quoted value.
fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
    let (mut out, mut chars) = (String::new(), inner.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next().unwrap() {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                c => out.push(c),
            },
            '\'' => out.push(chars.next().unwrap()),
            c => out.push(c),
        }
    }
    out
}

proptest! {
    #[test]
    fn a_value_is_one_line_and_reads_as_it_was(value in any::<String>()) {
        let text = quoted(&value);
        prop_assert!(!text.contains(['\n', '\r']));
        prop_assert_eq!(unquoted(&text), value);
    }

    #[test]
    fn no_parameter_of_the_users_gets_past_the_reserved_ones(name in "(port|pgraft\\.[a-z]+|wal_level|primary_conninfo|synchronous_standby_names|[Pp][Oo][Rr][Tt]|WAL_LEVEL)", value in any::<String>()) {
        let mut settings = example();
        settings.config.postgresql.parameters = [(name.clone(), value)].into();
        let rendered = postgresql_conf(&settings, None);
        prop_assert_eq!(rendered.notes.len(), 1);
        settings.config.postgresql.parameters.clear();
        prop_assert_eq!(rendered.text, postgresql_conf(&settings, None).text);
    }
}
