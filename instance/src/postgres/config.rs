//! Renders the files and the command line of Postgres. Pure.
//!
//! There are three layers: pgraft's defaults, the user's parameters (both in `postgresql.conf`), and
//! the command line with settings that neither `ALTER SYSTEM` nor a copied file may override.
//! Settings that change while the server runs (`primary_conninfo`) cannot be on the command line, so
//! `scrubbed_auto_conf` removes them from `postgresql.auto.conf`.

use pgraft_core::instance_config::{
    OPERATOR_ROLE, PROBE_ROLE, REPLICATION_ROLE, replication_name, reserved_parameter,
};
use pgraft_core::session::{self, Session};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::configuration::settle::names;
use crate::postgres::wal_space;
use crate::settings::{Fsync, Settings};
use crate::sql::DATABASE;
use crate::status::Upstream;

/// The minimum number of walsenders and slots: for each member of the largest group, backups and
/// clones.
const MIN_SENDERS: u32 = 16;

/// Minimum values. With fewer worker processes pgraft's worker would not start.
const MINIMUMS: [(&str, u32); 3] = [
    ("max_wal_senders", MIN_SENDERS),
    ("max_replication_slots", MIN_SENDERS),
    ("max_worker_processes", 8),
];

/// Separates the fields of a log line by tabs. Postgres itself begins a line with a tab only if it
/// continues a message.
pub const LOG_LINE_PREFIX: &str = "pgraft\t%n\t%p\t%e\t%b\t%q%u\t%d\t";

/// The default of `wal_sender_timeout`.
const SENDER_TIMEOUT: &str = "5s";

/// Additional defaults with failover. A promotion waits until the server has replayed its WAL, and
/// conflicting queries delay that for up to these times. The second one counts once the old primary is
/// gone.
const FAILOVER_DEFAULTS: [(&str, &str); 3] = [
    ("max_standby_archive_delay", "5s"),
    ("max_standby_streaming_delay", "5s"),
    ("wal_retrieve_retry_interval", "100ms"),
];

/// Defaults that users may override.
fn defaults(settings: &Settings) -> BTreeMap<&'static str, String> {
    let mut own = vec![
        ("datestyle", "iso, mdy"),
        ("dynamic_shared_memory_type", "posix"),
        ("lc_messages", "C"),
        ("log_timezone", "Etc/UTC"),
        ("max_replication_slots", "16"),
        ("max_wal_senders", "16"),
        ("password_encryption", "scram-sha-256"),
        ("timezone", "Etc/UTC"),
        ("wal_receiver_timeout", "5s"),
        ("wal_retrieve_retry_interval", "200ms"),
        ("wal_sender_timeout", SENDER_TIMEOUT),
    ];
    if settings.failover {
        own.extend(FAILOVER_DEFAULTS);
    }
    if keeps_logical_slots(settings) {
        own.push(("hot_standby_feedback", "on"));
    }
    if settings.config.tls.is_some() {
        // Supported by every libpq since 2018 and by JDBC on a current Java. Older clients need
        // TLSv1.2.
        own.push(("ssl_min_protocol_version", "TLSv1.3"));
    }
    let disk_space = [
        ("max_slot_wal_keep_size", wal_space::for_slots(settings.wal_disk)),
        ("wal_keep_size", wal_space::for_all(settings.wal_disk)),
    ];
    let disk_space = disk_space.map(|(name, megabytes)| (name, format!("{megabytes}MB")));
    own.into_iter().map(|(name, value)| (name, value.to_owned())).chain(disk_space).collect()
}

/// Whether logical replication slots survive a failover (Postgres 17 and later). The user enables it
/// with `sync_replication_slots`; pgraft sets what else it requires.
pub fn keeps_logical_slots(settings: &Settings) -> bool {
    let configured = settings
        .config
        .postgresql
        .parameters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("sync_replication_slots"));
    settings.failover
        && configured.is_some_and(|(_, value)| {
            ["on", "true", "yes", "1"].contains(&value.trim().to_ascii_lowercase().as_str())
        })
}

/// Whether Postgres accepts this as a duration: an integer with or without a unit. The primary would
/// refuse a connection with another value.
fn is_time(value: &str) -> bool {
    let unit = value.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < value.len()
        && value.len() - unit.len() < 9
        && ["", "us", "ms", "s", "min", "h", "d"].contains(&unit.trim())
}

/// A rendered file, and messages about settings that were left out or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The file.
    pub text: String,
    /// One message each.
    pub notes: Vec<String>,
}

/// `postgresql.conf`.
pub fn postgresql_conf(settings: &Settings, upstream: Option<&Upstream>) -> Rendered {
    let mut notes = vec![];
    let mut merged: BTreeMap<String, String> =
        defaults(settings).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    for (name, value) in &settings.config.postgresql.parameters {
        if reserved_parameter([name.as_str()]).is_some() {
            notes.push(format!(
                "parameter \"{name}\" is managed by pgraft; the configured value \"{value}\" is ignored"
            ));
            continue;
        }
        let name = name.to_ascii_lowercase();
        if name == "shared_preload_libraries" {
            // On the command line.
            continue;
        }
        let minimum = MINIMUMS.iter().find(|(of, minimum)| {
            *of == name && value.trim().parse::<u32>().is_ok_and(|n| n < *minimum)
        });
        if let Some((_, minimum)) = minimum {
            notes.push(format!(
                "parameter \"{name}\" is {minimum} instead of {value}, the minimum for a cluster"
            ));
            merged.insert(name, minimum.to_string());
            continue;
        }
        merged.insert(name, value.clone());
    }
    let conninfo = if settings.failover {
        // The extension supplies the host at every connection, by the group's state.
        standby_conninfo(settings, None)
    } else {
        upstream.map(|u| standby_conninfo(settings, Some(u))).unwrap_or_default()
    };
    merged.insert("primary_conninfo".into(), conninfo);
    merged.insert("primary_slot_name".into(), replication_name(settings.node));
    let mut text = String::from(
        "# Written by pgraft-instance. Do not edit: set postgresql.parameters in its configuration.\n",
    );
    for (name, value) in &merged {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    }
    if settings.failover {
        // Last, so that it takes precedence.
        let _ = writeln!(
            text,
            "include_if_exists {}",
            quoted(&settings.paths.names().display().to_string())
        );
    }
    Rendered { text, notes }
}

/// The server's command line, without the program's name.
pub fn command_line(settings: &Settings) -> Vec<String> {
    let Settings { node, postgres, extension, config, paths, .. } = settings;
    let mut set: Vec<(&str, String)> = vec![
        ("config_file", paths.conf().display().to_string()),
        ("hba_file", paths.hba().display().to_string()),
        ("ident_file", paths.ident().display().to_string()),
        ("listen_addresses", config.postgresql.listen_addresses.clone()),
        ("port", config.postgresql.port.to_string()),
        ("unix_socket_directories", quoted_list_item(&config.socket_directory)),
        ("cluster_name", replication_name(*node)),
        ("hot_standby", "on".into()),
        ("wal_level", if keeps_logical_slots(settings) { "logical" } else { "replica" }.into()),
        ("wal_log_hints", "on".into()),
        // With failover a crashed primary is restarted as a standby, and another one takes over.
        ("restart_after_crash", if settings.failover { "off" } else { "on" }.into()),
        // Durability must not be turned off.
        ("fsync", if settings.fsync == Fsync::On { "on" } else { "off" }.into()),
        ("full_page_writes", "on".into()),
        ("data_sync_retry", "off".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("log_line_prefix", LOG_LINE_PREFIX.into()),
    ];
    if let Some(tls) = &config.tls {
        set.extend([
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", tls.cert_file.clone()),
            ("ssl_key_file", tls.key_file.clone()),
            ("ssl_ca_file", tls.ca_file.clone()),
        ]);
    }
    let libraries = preload_libraries(settings);
    if !libraries.is_empty() {
        set.push(("shared_preload_libraries", libraries));
    }
    if *extension {
        set.extend([
            ("pgraft.node_id", node.to_string()),
            ("pgraft.listen_address", config.raft.listen_address.clone()),
            ("pgraft.port", config.raft.port.to_string()),
            ("pgraft.advertise_address", postgres.host().to_owned()),
            ("pgraft.data_dir", paths.raft.display().to_string()),
            ("pgraft.heartbeat_interval", config.raft.heartbeat_interval.clone()),
            ("pgraft.election_timeout", config.raft.election_timeout.clone()),
            (
                "pgraft.allow_plaintext",
                if config.raft.allow_plaintext { "on" } else { "off" }.to_owned(),
            ),
        ]);
        if settings.failover {
            set.push(("pgraft.failover", "on".to_owned()));
            set.extend(
                config.raft.lease_timeout.clone().map(|time| ("pgraft.lease_timeout", time)),
            );
        }
        if let Some(tls) = &config.tls {
            set.extend([
                ("pgraft.tls_cert_file", tls.cert_file.clone()),
                ("pgraft.tls_key_file", tls.key_file.clone()),
                ("pgraft.tls_ca_file", tls.ca_file.clone()),
            ]);
        }
    }
    let mut line = vec!["-D".to_owned(), paths.data.display().to_string()];
    for (name, value) in set {
        line.push("-c".into());
        line.push(format!("{name}={value}"));
    }
    line
}

/// `pgraft` and the user's libraries.
pub fn preload_libraries(settings: &Settings) -> String {
    let own = settings.extension.then(|| "pgraft".to_owned());
    let user = settings
        .config
        .postgresql
        .parameters
        .get("shared_preload_libraries")
        .map(|list| names(list))
        .unwrap_or_default();
    let user = user.into_iter().filter(|name| name != "pgraft").map(|name| quoted_list_item(&name));
    own.into_iter().chain(user).collect::<Vec<_>>().join(",")
}

/// `primary_conninfo`. The application name is the one that commits wait for.
fn standby_conninfo(settings: &Settings, upstream: Option<&Upstream>) -> String {
    // The slot synchronization worker needs a database; walreceiver ignores it.
    let sender_timeout = &sender_timeout(settings);
    // Only Postgres 17 and later synchronize slots.
    let slots = keeps_logical_slots(settings);
    let options =
        Session::Standby { sender_timeout }.options(if slots { 17 } else { session::OLDEST });
    let mut more = vec![("options", options.as_str())];
    more.extend(slots.then_some(("dbname", DATABASE)));
    conninfo(settings, upstream, &replication_name(settings.node), &more)
}

/// The connection string of a program of this node. Its application name is not a member's, because a
/// clone that reports positions must not confirm commits.
pub fn program_conninfo(
    settings: &Settings,
    upstream: &Upstream,
    program: &str,
    more: &[(&'static str, &str)],
) -> String {
    // Settings of newer versions do not affect a walsender, and pg_rewind sets them itself.
    let options =
        Session::Program { sender_timeout: &sender_timeout(settings) }.options(session::OLDEST);
    let more: Vec<_> = more.iter().copied().chain([("options", options.as_str())]).collect();
    conninfo(settings, Some(upstream), &format!("{program} for node {}", settings.node), &more)
}

/// `wal_sender_timeout` of the files; the role's setting may differ.
fn sender_timeout(settings: &Settings) -> String {
    let configured = settings
        .config
        .postgresql
        .parameters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("wal_sender_timeout"));
    let configured = configured.map(|(_, value)| value.trim()).filter(|value| is_time(value));
    configured.unwrap_or(SENDER_TIMEOUT).to_owned()
}

fn conninfo(
    settings: &Settings,
    upstream: Option<&Upstream>,
    name: &str,
    more: &[(&'static str, &str)],
) -> String {
    let mut parts: Vec<(&str, String)> = upstream
        .into_iter()
        .flat_map(|u| [("host", u.host.clone()), ("port", u.port.to_string())])
        .collect();
    parts.extend([
        ("user", REPLICATION_ROLE.to_owned()),
        ("passfile", settings.paths.passfile().display().to_string()),
        ("application_name", name.to_owned()),
    ]);
    parts.extend(more.iter().map(|(k, v)| (*k, (*v).to_owned())));
    if let Some(tls) = &settings.config.tls {
        // The primary's certificate must match the host name or address.
        parts.extend([
            ("sslmode", "verify-full".to_owned()),
            ("sslcert", tls.cert_file.clone()),
            ("sslkey", tls.key_file.clone()),
            ("sslrootcert", tls.ca_file.clone()),
        ]);
    }
    // Detect a lost host within seconds instead of the kernel's defaults.
    let fixed = [
        ("connect_timeout", "5"),
        ("keepalives_idle", "5"),
        ("keepalives_interval", "1"),
        ("keepalives_count", "5"),
        ("tcp_user_timeout", "5000"),
        ("gssencmode", "disable"),
    ];
    parts.extend(fixed.map(|(k, v)| (k, v.to_owned())));
    let parts: Vec<String> = parts
        .iter()
        .map(|(k, v)| format!("{k}='{}'", v.replace('\\', "\\\\").replace('\'', "\\'")))
        .collect();
    parts.join(" ")
}

/// The passfile, with the replication role's password for every host.
pub fn passfile(replication: Option<&str>) -> String {
    replication
        .map(|p| {
            format!("*:*:*:{REPLICATION_ROLE}:{}\n", p.replace('\\', "\\\\").replace(':', "\\:"))
        })
        .unwrap_or_default()
}

/// `pg_hba.conf`. pgraft's lines come first, so the user's lines neither block pgraft's roles nor
/// allow them other connections.
pub fn hba(settings: &Settings) -> String {
    // A trailing backslash would join the line with the next one, which may be pgraft's.
    let line = |line: &str| {
        line.trim_end_matches(|c: char| c == '\\' || c.is_whitespace()).trim_start().to_owned()
            + "\n"
    };
    let user: String = settings.config.postgresql.pg_hba.iter().map(|text| line(text)).collect();
    let everybody = if settings.config.tls.is_some() {
        // Local connections, such as those of a port-forward, need no TLS.
        "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\nhostssl all all all scram-sha-256\n"
    } else {
        "host all all all scram-sha-256\n"
    };
    [&own_hba(settings), &user, everybody].concat()
}

/// The lines before the user's.
pub fn own_hba(settings: &Settings) -> String {
    let tls = settings.config.tls.is_some();
    let own = if tls {
        // A standby needs the password and a certificate; the operator needs a certificate only.
        format!(
            "hostssl replication {REPLICATION_ROLE} all scram-sha-256 clientcert=verify-ca
hostssl postgres {REPLICATION_ROLE} all scram-sha-256 clientcert=verify-ca
hostssl postgres {OPERATOR_ROLE} all cert
host all,replication {REPLICATION_ROLE},{OPERATOR_ROLE} all reject
"
        )
    } else {
        format!(
            "host replication {REPLICATION_ROLE} all scram-sha-256
host postgres {REPLICATION_ROLE} all scram-sha-256
host postgres {OPERATOR_ROLE} all scram-sha-256
"
        )
    };
    let head = "# Written by pgraft-instance. Do not edit: set postgresql.pgHba in its configuration.\nlocal all all peer map=pgraft\n";
    // The role does not exist. Without this line each probe of a gateway would log an error.
    let probe = format!("host {PROBE_ROLE} {PROBE_ROLE} all scram-sha-256\n");
    [head, &own, &probe].concat()
}

/// `pg_ident.conf`. Over the Unix socket only the operating system user of Postgres can connect, as
/// superuser, owner or operator.
pub fn ident(settings: &Settings, os_user: &str) -> String {
    let roles = ["postgres", OPERATOR_ROLE, &settings.config.bootstrap.owner];
    let lines = roles.map(|role| format!("pgraft {} {}\n", hba_word(os_user), hba_word(role)));
    format!("# Written by pgraft-instance.\n{}", lines.concat())
}

/// `postgresql.auto.conf` without settings that pgraft manages; None if it has none. A base backup
/// copies the file, and `ALTER SYSTEM` would take precedence over the rendered file.
pub fn scrubbed_auto_conf(text: &str) -> Option<String> {
    let keeps = |line: &&str| {
        let name = line
            .trim_start()
            .split(|c: char| c == '=' || c.is_whitespace())
            .next()
            .unwrap_or_default();
        reserved_parameter([name]).is_none()
            && !name.eq_ignore_ascii_case("shared_preload_libraries")
    };
    let kept: String = text.split_inclusive('\n').filter(keeps).collect();
    (kept != text).then_some(kept)
}

/// Quotes a value for `postgresql.conf`.
pub fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('\'');
    for c in value.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// Quotes an item of a list, so a comma or a space in it does not separate items.
fn quoted_list_item(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

/// Quotes a word for `pg_hba.conf` or `pg_ident.conf`, so it is not a keyword.
fn hba_word(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
