//! Turns the lines of Postgres' stderr into records: one record for a message with its DETAIL, HINT,
//! STATEMENT and so on.
//!
//! Pure except for [`pump`]. Each message starts with a prefix (`config::LOG_LINE_PREFIX`). A line
//! break within a message is followed by a tab, so that a message cannot imitate another one
//! (elog.c, `append_with_tabs`). A line without a prefix, such as the output of a library or of
//! `archive_command`, is a record of its own. `dedup` leaves out repeated lines.

mod dedup;
mod last_words;

use jiff::Timestamp;
use pgraft_log::JsonRecord;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::logging::Sink;
use dedup::PostgresLogDedup;
pub use last_words::LastWords;

/// A longer message is split, so that memory stays bounded. In bytes.
const MAX_LINE: usize = 1 << 20;

/// How long the last message waits for further lines.
const IDLE: Duration = Duration::from_millis(50);

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRecord {
    /// Seconds since the Unix epoch, as Postgres wrote them (`%n`); `None` without a prefix.
    pub at: Option<String>,
    /// Postgres' severity: LOG, ERROR, FATAL and so on; LOG without a prefix.
    pub level: String,
    /// The process that wrote it.
    pub pid: Option<u64>,
    /// Five characters; `None` for `00000`.
    pub sqlstate: Option<String>,
    /// Postgres' name for the kind of process.
    pub backend_type: Option<String>,
    /// The session's role.
    pub user: Option<String>,
    /// The session's database.
    pub database: Option<String>,
    /// The message, without the tabs.
    pub msg: String,
    /// `detail`, `hint`, `statement`, `context` and so on, in their order.
    pub more: Vec<(String, String)>,
}

/// Assembles records from lines.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    open: Option<LogRecord>,
    size: usize,
}

/// One line.
enum PostgresLine<'a> {
    /// The first line of a message.
    Message(LogRecord),
    /// DETAIL, HINT and so on of the same process.
    More(u64, &'a str, &'a str),
    /// Continues the line before it.
    Continued(&'a str),
    /// A line without a prefix.
    Bare(&'a str),
}

impl Assembler {
    /// Adds bytes, and returns the records that are complete.
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

    /// The last message, if no further lines are expected. An incomplete line stays until the pipe
    /// is closed.
    pub fn idle(&mut self) -> Option<LogRecord> {
        self.size = 0;
        self.open.take()
    }

    /// The remaining records.
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
    let (severity, text) = text.split_once(":  ")?;
    (!severity.is_empty() && severity.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
        .then_some((severity, text))
}

/// The record in the format of this program's log.
fn json(record: LogRecord, logger: &str) -> JsonRecord {
    let LogRecord { at, level, pid, sqlstate, backend_type, user, database, msg, more } = record;
    let at = at
        .and_then(|at| at.replace('.', "").parse().ok())
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let mut out = JsonRecord::new(at.unwrap_or_else(Timestamp::now), &level, logger);
    out.put("msg", msg);
    if let Some(pid) = pid {
        out.put("pid", pid);
    }
    let named = [
        ("sqlstate", sqlstate),
        ("backend_type", backend_type),
        ("user", user),
        ("database", database),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            out.put(name, value);
        }
    }
    for (name, text) in more {
        out.put(&name, text);
    }
    out
}

/// Reads the pipe until its last writer has closed it. Waits only for the pipe.
pub async fn pump(pipe: pipe::Receiver, logger: &'static str, sink: Sink, words: LastWords) {
    pump_and_watch(pipe, logger, sink, |record| words.observe(record)).await;
}

/// Like [`pump`], and passes every record to `watch` first.
pub async fn pump_and_watch(
    mut pipe: pipe::Receiver,
    logger: &'static str,
    sink: Sink,
    watch: impl Fn(&LogRecord),
) {
    let (mut assembler, mut dedup) = (Assembler::default(), PostgresLogDedup::default());
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        let records = match tokio::time::timeout(IDLE, pipe.read_buf(&mut buffer)).await {
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
            sink.record(&json(record, logger));
        }
    }
    for record in assembler.close() {
        watch(&record);
        sink.record(&json(record, logger));
    }
}

#[cfg(test)]
mod tests;
