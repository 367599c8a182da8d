//! Parses Postgres' stderr into records: one JSON object for each message with its DETAIL, HINT,
//! STATEMENT and so on.
//!
//! Pure except for [`pump`]. Each message begins with the prefix (`config::LOG_LINE_PREFIX`). A line
//! break within a message is followed by a tab, so a message cannot imitate another one (elog.c,
//! `append_with_tabs`). A line without a prefix (from a library, `archive_command`) is a separate
//! record. `dedup` drops repeated messages.

mod dedup;
mod last_words;

use jiff::Timestamp;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::logging::{Sink, head};
use dedup::PostgresLogDedup;
pub use last_words::LastWords;

/// The maximum length of a message. A longer one is split.
const MAX_LINE: usize = 1 << 20;

/// How long the last message waits for further lines.
const IDLE_TIMEOUT: Duration = Duration::from_millis(50);

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRecord {
    /// Seconds since the epoch, as Postgres wrote them (`%n`); None without a prefix.
    pub at: Option<String>,
    /// Postgres' severity: LOG, ERROR, FATAL …; LOG without a prefix.
    pub level: String,
    /// The process that wrote it.
    pub pid: Option<u64>,
    /// The SQLSTATE, unless it is `00000`.
    pub sqlstate: Option<String>,
    /// The type of the process.
    pub backend_type: Option<String>,
    /// The session's role.
    pub user: Option<String>,
    /// The session's database.
    pub database: Option<String>,
    /// The message, with its lines without the tabs.
    pub msg: String,
    /// `detail`, `hint`, `statement`, `context` …, in the order of the log.
    pub more: Vec<(String, String)>,
}

/// Assembles lines into records.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    open: Option<LogRecord>,
    size: usize,
}

/// The kind of a line.
enum PostgresLine<'a> {
    /// The first line of a message.
    Message(LogRecord),
    /// DETAIL, HINT and the like of the same process.
    More(u64, &'a str, &'a str),
    /// A further line of the same text.
    Continued(&'a str),
    /// A line without a prefix.
    Bare(&'a str),
}

impl Assembler {
    /// Takes the next bytes and returns the complete records.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<LogRecord> {
        self.bytes.extend_from_slice(bytes);
        let mut done = vec![];
        let mut start = 0;
        while let Some(length) = self.bytes[start..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&self.bytes[start..start + length]).into_owned();
            start += length + 1;
            self.line(&line, &mut done);
        }
        self.bytes.drain(..start);
        if self.bytes.len() > MAX_LINE {
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
            self.line(&line, &mut done);
        }
        done
    }

    /// Returns the last message. An incomplete line is kept until the pipe closes.
    pub fn idle(&mut self) -> Option<LogRecord> {
        self.size = 0;
        self.open.take()
    }

    /// Returns the remaining records.
    pub fn close(&mut self) -> Vec<LogRecord> {
        let mut done = vec![];
        if !self.bytes.is_empty() {
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
            self.line(&line, &mut done);
        }
        done.extend(self.idle());
        done
    }

    fn line(&mut self, line: &str, done: &mut Vec<LogRecord>) {
        if self.size + line.len() > MAX_LINE {
            done.extend(self.idle());
        }
        self.size += line.len();
        match (classify(line), &mut self.open) {
            (PostgresLine::More(pid, name, text), Some(open)) if open.pid == Some(pid) => {
                open.more.push((name.to_ascii_lowercase(), text.to_owned()));
            }
            (PostgresLine::Continued(text), Some(open)) => {
                let last = open.more.last_mut().map_or(&mut open.msg, |(_, text)| text);
                last.push('\n');
                last.push_str(text);
            }
            (PostgresLine::Message(record), open) => done.extend(open.replace(record)),
            (
                PostgresLine::Continued(text)
                | PostgresLine::Bare(text)
                | PostgresLine::More(_, _, text),
                open,
            ) => {
                done.extend(open.replace(LogRecord {
                    level: "LOG".into(),
                    msg: text.to_owned(),
                    ..LogRecord::default()
                }));
            }
        }
        if self.open.is_none() {
            self.size = 0;
        }
    }
}

fn classify(line: &str) -> PostgresLine<'_> {
    if let Some(text) = line.strip_prefix('\t') {
        return PostgresLine::Continued(text);
    }
    prefixed(line).unwrap_or(PostgresLine::Bare(line))
}

fn prefixed(line: &str) -> Option<PostgresLine<'_>> {
    let mut fields = line.strip_prefix("pgraft\t")?.splitn(5, '\t');
    let (at, pid, sqlstate, backend) =
        (fields.next()?, fields.next()?.parse().ok()?, fields.next()?, fields.next()?);
    let rest = fields.next()?;
    let (user, database, rest) = if severity(rest).is_some() {
        (None, None, rest)
    } else {
        let mut session = rest.splitn(3, '\t');
        (Some(session.next()?), Some(session.next()?), session.next()?)
    };
    let (severity, text) = severity(rest)?;
    if matches!(
        severity,
        "DETAIL" | "HINT" | "QUERY" | "CONTEXT" | "LOCATION" | "BACKTRACE" | "STATEMENT"
    ) {
        return Some(PostgresLine::More(pid, severity, text));
    }
    let some = |text: &str| (!text.is_empty() && text != "[unknown]").then(|| text.to_owned());
    Some(PostgresLine::Message(LogRecord {
        at: Some(at.to_owned()),
        level: severity.to_owned(),
        pid: Some(pid),
        sqlstate: some(sqlstate).filter(|s| s != "00000"),
        backend_type: some(backend),
        user: user.and_then(some),
        database: database.and_then(some),
        msg: text.to_owned(),
        more: vec![],
    }))
}

/// Splits `LOG:  text`.
fn severity(text: &str) -> Option<(&str, &str)> {
    let (word, text) = text.split_once(":  ")?;
    (!word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
        .then_some((word, text))
}

/// The JSON of a record.
fn printed(record: LogRecord, logger: &str) -> Map<String, Value> {
    let LogRecord { at, level, pid, sqlstate, backend_type, user, database, msg, more } = record;
    let at = at
        .and_then(|at| at.replace('.', "").parse().ok())
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let mut out = head(at.unwrap_or_else(Timestamp::now), &level, logger);
    out.insert("msg".into(), msg.into());
    out.extend(pid.map(|pid| ("pid".to_owned(), pid.into())));
    let named = [
        ("sqlstate", sqlstate),
        ("backend_type", backend_type),
        ("user", user),
        ("database", database),
    ];
    out.extend(
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))),
    );
    out.extend(more.into_iter().map(|(name, text)| (name, text.into())));
    out
}

/// Reads the pipe until it is closed.
pub async fn pump(pipe: pipe::Receiver, logger: &'static str, sink: Sink, words: LastWords) {
    pump_and_watch(pipe, logger, sink, |record| words.record(record)).await;
}

/// Reads the pipe like [`pump`], and passes each record to `watch`.
pub async fn pump_and_watch(
    mut pipe: pipe::Receiver,
    logger: &'static str,
    sink: Sink,
    watch: impl Fn(&LogRecord),
) {
    let (mut assembler, mut dedup) = (Assembler::default(), PostgresLogDedup::default());
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        let records = match tokio::time::timeout(IDLE_TIMEOUT, pipe.read_buf(&mut buffer)).await {
            Err(_) => {
                let last: Vec<LogRecord> = assembler.idle().into_iter().collect();
                if last.is_empty() {
                    match pipe.read_buf(&mut buffer).await {
                        Ok(n) if n > 0 => assembler.feed(&buffer),
                        _ => break,
                    }
                } else {
                    last
                }
            }
            Ok(Ok(n)) if n > 0 => assembler.feed(&buffer),
            Ok(_) => break,
        };
        buffer.clear();
        for record in &records {
            watch(record);
        }
        for record in
            records.into_iter().filter_map(|record| dedup.let_through(record, Instant::now()))
        {
            sink.record(&printed(record, logger));
        }
    }
    for record in assembler.close() {
        watch(&record);
        sink.record(&printed(record, logger));
    }
}

#[cfg(test)]
mod tests;
