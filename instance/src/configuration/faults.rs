//! Parses Postgres' messages about a candidate: which setting or line is at fault. Pure.

use crate::postgres::log::LogRecord;

/// The cause of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blame {
    /// A parameter.
    Parameter(String),
    /// A library in a list of libraries.
    Library(String),
    /// A line of the candidate's `pg_hba.conf`, counted from 1; None if Postgres did not name it.
    Hba(Option<usize>),
    /// A line of `postgresql.auto.conf`, counted from 1.
    Auto(usize),
    /// Unknown.
    Unknown,
}

/// One fault of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationFault {
    /// The cause.
    pub blame: Blame,
    /// Postgres' message.
    pub message: String,
}

/// The faults in the log of a run with the candidate's `postgresql.conf` and `postgresql.auto.conf`.
/// `failed` means that it ended with an error.
pub fn of_configuration(records: &[LogRecord], failed: bool) -> Vec<ConfigurationFault> {
    let mut faults: Vec<ConfigurationFault> = vec![];
    for record in records {
        let Some(blame) = blame(record, failed) else { continue };
        let hint = record
            .more
            .iter()
            .find(|(name, _)| name == "hint")
            .map(|(_, text)| format!(" ({text})"))
            .unwrap_or_default();
        let fault =
            ConfigurationFault { blame, message: format!("{}{hint}", without_place(&record.msg)) };
        if !faults.iter().any(|f| f.blame == fault.blame) {
            faults.push(fault);
        }
    }
    if failed && faults.is_empty() {
        // In any form: `superuser_reserved_connections (3) plus …` has no prefix.
        let last = records.iter().rev().find(|r| is_error(&r.level)).or_else(|| records.last());
        let message = last.map_or_else(
            || "Postgres rejected the configuration without a message".to_owned(),
            |r| r.msg.clone(),
        );
        faults.push(ConfigurationFault { blame: Blame::Unknown, message });
    }
    faults
}

fn blame(record: &LogRecord, failed: bool) -> Option<Blame> {
    let msg = record.msg.as_str();
    if let Some(line) = line_in(msg, "postgresql.auto.conf") {
        return Some(Blame::Auto(line));
    }
    if let Some(name) = between(msg, "unrecognized configuration parameter \"") {
        return Some(Blame::Parameter(name.to_ascii_lowercase()));
    }
    if let Some(name) = between(msg, "invalid configuration parameter name \"") {
        return Some(Blame::Parameter(name.to_ascii_lowercase()));
    }
    if let Some(name) = between(msg, "could not access file \"") {
        return Some(Blame::Library(name.trim_start_matches("$libdir/plugins/").to_owned()));
    }
    // An invalid value, range or context names the parameter. For a library's parameter it is a
    // warning at the start and an error at a reload.
    let named = between(msg, "parameter \"")?;
    (failed || record.level == "WARNING").then(|| Blame::Parameter(named.to_ascii_lowercase()))
}

/// The faults in the log of a check of `pg_hba.conf`.
pub fn of_hba(records: &[LogRecord]) -> Vec<ConfigurationFault> {
    let refused = records.iter().any(|r| {
        r.level == "FATAL" && r.msg.contains("could not load") && r.msg.contains("pg_hba.conf")
    });
    if !refused {
        return vec![];
    }
    let mut faults: Vec<ConfigurationFault> = vec![];
    for record in records {
        // The check runs without TLS, so Postgres warns about each `hostssl`.
        if record.msg.contains("record cannot match") {
            continue;
        }
        let context = record
            .more
            .iter()
            .find(|(name, text)| name == "context" && text.contains("pg_hba.conf"));
        if let Some(line) = context.and_then(|(_, text)| number_after(text, "line ")) {
            faults.push(ConfigurationFault {
                blame: Blame::Hba(Some(line)),
                message: record.msg.clone(),
            });
        }
    }
    if faults.is_empty() {
        let message = records
            .iter()
            .find(|r| r.msg.contains("pg_hba.conf"))
            .map_or_else(|| "could not load pg_hba.conf".to_owned(), |r| r.msg.clone());
        faults.push(ConfigurationFault { blame: Blame::Hba(None), message });
    }
    faults
}

/// Whether this severity is an error.
pub fn is_error(level: &str) -> bool {
    matches!(level, "FATAL" | "PANIC" | "ERROR")
}

/// Removes ` in file "…" line 3`: the user has not written that file.
fn without_place(msg: &str) -> &str {
    msg.find(" in file \"").map_or(msg, |at| &msg[..at])
}

fn line_in(msg: &str, file: &str) -> Option<usize> {
    let (_, rest) = msg.split_once(file)?;
    number_after(rest, "line ")
}

fn number_after(text: &str, word: &str) -> Option<usize> {
    let (_, rest) = text.split_once(word)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn between<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once('"').map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(level: &str, msg: &str, more: &[(&str, &str)]) -> LogRecord {
        let more = more.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
        LogRecord { level: level.into(), msg: msg.into(), more, ..LogRecord::default() }
    }

    fn of(records: &[LogRecord]) -> Vec<(Blame, String)> {
        of_configuration(records, true).into_iter().map(|f| (f.blame, f.message)).collect()
    }

    #[test]
    fn parses_each_message_of_postgres() {
        let end =
            record("FATAL", "configuration file \"/w/check/postgresql.conf\" contains errors", &[]);
        let cases = [
            (
                record(
                    "LOG",
                    "unrecognized configuration parameter \"Nosuch\" in file \"/w/postgresql.conf\" line 12",
                    &[],
                ),
                Blame::Parameter("nosuch".into()),
                "unrecognized configuration parameter \"Nosuch\"",
            ),
            (
                record(
                    "LOG",
                    "invalid value for parameter \"shared_buffers\": \"12 parsecs\"",
                    &[("hint", "Valid units are \"B\".")],
                ),
                Blame::Parameter("shared_buffers".into()),
                "invalid value for parameter \"shared_buffers\": \"12 parsecs\" (Valid units are \"B\".)",
            ),
            (
                record(
                    "LOG",
                    "1 kB is outside the valid range for parameter \"work_mem\" (64 kB .. 2147483647 kB)",
                    &[],
                ),
                Blame::Parameter("work_mem".into()),
                "1 kB is outside the valid range for parameter \"work_mem\" (64 kB .. 2147483647 kB)",
            ),
            (
                record(
                    "FATAL",
                    "could not access file \"nosuchlib\": No such file or directory",
                    &[],
                ),
                Blame::Library("nosuchlib".into()),
                "could not access file \"nosuchlib\": No such file or directory",
            ),
            (
                record(
                    "LOG",
                    "syntax error in file \"/w/check/postgresql.auto.conf\" line 3, near token \"=\"",
                    &[],
                ),
                Blame::Auto(3),
                "syntax error",
            ),
        ];
        for (record, blame, message) in cases {
            assert_eq!(of(&[record, end.clone()]), [(blame, message.to_owned())]);
        }
    }

    #[test]
    fn an_unnamed_fault_has_the_last_error_as_message() {
        let bare = record(
            "LOG",
            "postgres: superuser_reserved_connections (3) plus reserved_connections (0) must be less than max_connections (3)",
            &[],
        );
        assert_eq!(of(std::slice::from_ref(&bare)), [(Blame::Unknown, bare.msg.clone())]);
        assert_eq!(of_configuration(&[bare], false), []);
    }

    #[test]
    fn a_warning_about_a_librarys_parameter_is_a_fault() {
        let warning = record(
            "WARNING",
            "invalid configuration parameter name \"auto_explain.nosuch\", removing it",
            &[],
        );
        assert_eq!(of_configuration(&[warning], false).len(), 1);
        let warning = record(
            "WARNING",
            "invalid value for parameter \"auto_explain.log_format\": \"x\"",
            &[],
        );
        assert_eq!(
            of_configuration(&[warning], false)[0].blame,
            Blame::Parameter("auto_explain.log_format".into())
        );
    }

    #[test]
    fn reads_the_line_of_pg_hba_from_the_context() {
        let context = [("context", "line 9 of configuration file \"/w/check/pg_hba.conf\"")];
        let lines = [
            record("LOG", "hostssl record cannot match because SSL is disabled", &context),
            record("LOG", "invalid authentication method \"scram\"", &context),
            record("FATAL", "could not load /w/check/pg_hba.conf", &[]),
        ];
        let fault = ConfigurationFault {
            blame: Blame::Hba(Some(9)),
            message: "invalid authentication method \"scram\"".into(),
        };
        assert_eq!(of_hba(&lines), [fault]);
        assert_eq!(of_hba(&lines[..2]), [], "only what Postgres does not load is a fault");
    }
}
