//! Probes the server as a client does: a new connection over the Unix socket, by the reserved ones,
//! and one query. Several probes may be in progress, because a slow server may answer the first one
//! after the next one was sent. Any answer counts, even an error or a closed connection.
//!
//! The query reads functions and no views: the views join shared catalogs (`pg_authid`,
//! `pg_database`), for which the query could wait while someone else holds a lock.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pgraft_core::session::Session;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::facts::LivenessFacts;
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};

/// How many probes may be in progress. An unanswered one may occupy a connection of the server.
const MAX_PROBES: usize = 3;

/// The timeout of a probe, in multiples of `raft.unresponsiveTimeout`: a server that gets no CPU may
/// answer late.
const TIMEOUT_FACTOR: u32 = 4;

const QUERY: &str = "
SELECT CASE WHEN r THEN 0 ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn())::bigint END,
       CASE WHEN r THEN '' ELSE pg_catalog.pg_current_wal_flush_lsn()::text END,
       (SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE wait_event = 'SyncRep'),
       (SELECT coalesce(pg_catalog.string_agg(a.application_name || ' ' || s.flush_lsn::text, ' ' ORDER BY a.application_name, s.pid), '')
          FROM pg_catalog.pg_stat_get_wal_senders() AS s JOIN pg_catalog.pg_stat_get_activity(NULL) AS a ON a.pid = s.pid),
       (SELECT coalesce(pg_catalog.array_agg(s.pid), '{}') FROM pg_catalog.pg_stat_get_wal_senders() AS s WHERE s.state <> 'backup'),
       (SELECT coalesce(pg_catalog.array_agg(a.application_name), '{}')
          FROM pg_catalog.pg_stat_get_wal_senders() AS s JOIN pg_catalog.pg_stat_get_activity(NULL) AS a ON a.pid = s.pid
         WHERE s.state = 'streaming'),
       (1000 * EXTRACT(epoch FROM pg_catalog.current_setting('max_standby_streaming_delay')::interval))::bigint
  FROM pg_catalog.pg_is_in_recovery() AS r";

/// The first version with [`FLUSH`]. Earlier ones flush by a commit that waits only for the local
/// disk.
const FLUSH_SINCE: i32 = 170_000;
const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(false, 'pgraft', '', true)";
const FLUSH_BY_COMMIT: &str =
    "SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'pgraft', '')";

/// The answers since the last call.
pub struct ProbeAnswers {
    /// Whether there was any answer.
    pub answered: bool,
    /// The latest result of the query.
    pub facts: Option<LivenessFacts>,
}

#[derive(Default)]
struct Inbox {
    answered: AtomicU32,
    facts: Mutex<Option<LivenessFacts>>,
}

/// Sends probes and collects the answers. Dropping it ends the probes.
pub struct Prober {
    settings: Arc<Settings>,
    inbox: Arc<Inbox>,
    probes: JoinSet<()>,
    flush: JoinSet<()>,
    /// When the first probe since the last answer was sent.
    since: Option<Instant>,
}

impl Prober {
    /// A prober that has sent no probe yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            inbox: Arc::default(),
            probes: JoinSet::new(),
            flush: JoinSet::new(),
            since: None,
        }
    }

    /// Sends another probe, unless too many are in progress.
    pub fn probe(&mut self) {
        while self.probes.try_join_next().is_some() {}
        if self.probes.len() >= MAX_PROBES {
            return;
        }
        self.since.get_or_insert_with(Instant::now);
        let (settings, inbox) = (Arc::clone(&self.settings), Arc::clone(&self.inbox));
        let limit = self.timeout();
        self.probes.spawn(async move {
            let answer = timeout(limit, query(&settings, limit))
                .await
                .unwrap_or(Err(LocalSqlError::Deadline));
            match answer {
                Ok(facts) => {
                    *inbox.facts.lock() = Some(facts);
                }
                Err(error) if is_answer(&error) => {}
                Err(_) => return,
            }
            inbox.answered.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// Requests a flush of the WAL. Its effect shows in the next answers.
    pub fn flush(&mut self) {
        let (settings, limit) = (Arc::clone(&self.settings), self.timeout());
        self.flush.spawn(async move {
            if let Err(error) = timeout(limit, flush(&settings, limit))
                .await
                .unwrap_or(Err(LocalSqlError::Deadline))
            {
                tracing::debug!(%error, "could not flush the WAL");
            }
        });
    }

    /// Whether a flush is in progress.
    pub fn flush_pending(&mut self) -> bool {
        while self.flush.try_join_next().is_some() {}
        !self.flush.is_empty()
    }

    /// The answers since the last call.
    pub fn answers(&mut self) -> ProbeAnswers {
        let answered = self.inbox.answered.swap(0, Ordering::SeqCst) > 0;
        if answered {
            self.since = None;
        }
        ProbeAnswers { answered, facts: self.inbox.facts.lock().take() }
    }

    /// Whether a probe is unanswered.
    pub const fn waits(&self) -> bool {
        self.since.is_some()
    }

    /// For how long a probe has been unanswered.
    pub fn waits_since(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn timeout(&self) -> Duration {
        self.settings.unresponsive * TIMEOUT_FACTOR
    }
}

/// Whether the error shows that the server is alive: it sent an error, in any format, or accepted
/// the connection and closed it. A postmaster that cannot fork sends an error of protocol 2, which
/// tokio-postgres cannot parse.
fn is_answer(error: &LocalSqlError) -> bool {
    let LocalSqlError::Postgres(error) = error else { return false };
    if error.as_db_error().is_some() || error.is_closed() {
        return true;
    }
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_none_or(|io| is_after_accept(io.kind()))
}

/// Whether an I/O error of that kind occurs only on an established connection. A connection that
/// the kernel refuses, or cannot queue, is no answer of the postmaster.
const fn is_after_accept(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Other
    )
}

async fn query(settings: &Settings, limit: Duration) -> Result<LivenessFacts, LocalSqlError> {
    let client = sql::local(settings, Session::Probe, limit).await?;
    let row = client.query_one(QUERY, &[]).await?;
    Ok(LivenessFacts {
        unflushed: row.try_get(0)?,
        flushed: row.try_get(1)?,
        waiting: row.try_get(2)?,
        confirmed: row.try_get(3)?,
        senders: row.try_get(4)?,
        streaming: row.try_get(5)?,
        replay_delay_ms: row.try_get(6)?,
    })
}

async fn flush(settings: &Settings, limit: Duration) -> Result<(), LocalSqlError> {
    let client = sql::local(settings, Session::Probe, limit).await?;
    let version: String = client.query_one("SHOW server_version_num", &[]).await?.try_get(0)?;
    let statement = if version.parse::<i32>().is_ok_and(|v| v >= FLUSH_SINCE) {
        FLUSH
    } else {
        FLUSH_BY_COMMIT
    };
    client.batch_execute(statement).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use crate::settings::tests::example_with_failover;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// Whether a probe counts as answered within 300 ms if the server sends these bytes and closes
    /// the connection, or (`None`) stays silent.
    async fn is_answered(reply: Option<&'static [u8]>) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let settings = example_with_failover();
        let paths = Paths { socket: dir.path().into(), ..settings.paths.clone() };
        let settings = Settings { paths, unresponsive: Duration::from_mins(1), ..settings };
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                client.read_buf(&mut vec![]).await.unwrap();
                let Some(reply) = reply else { return client };
                client.write_all(reply).await.unwrap();
            }
        });
        let mut prober = Prober::new(Arc::new(settings));
        prober.probe();
        let answered = timeout(Duration::from_millis(300), async {
            while !prober.answers().answered {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let answered = answered.await.is_ok();
        server.abort();
        answered
    }

    #[tokio::test]
    async fn an_error_or_a_closed_connection_is_an_answer() {
        let fork = b"Ecould not fork new process for connection: Cannot allocate memory\n\0";
        let full = b"E\0\0\0\x25SFATAL\0C53300\0Mtoo many clients\0\0";
        for (reply, want) in
            [(Some(&fork[..]), true), (Some(full), true), (Some(b""), true), (None, false)]
        {
            assert_eq!(is_answered(reply).await, want, "{reply:?}");
        }
    }

    #[test]
    fn a_refused_connection_is_no_answer() {
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::NotFound,
            io::ErrorKind::WouldBlock,
            io::ErrorKind::TimedOut,
            io::ErrorKind::PermissionDenied,
        ] {
            assert!(!is_after_accept(kind), "{kind}");
        }
        assert!(!is_answer(&LocalSqlError::Deadline));
    }
}
