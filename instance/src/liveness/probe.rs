//! Asks the server as a client does: a new connection by the reserved ones, over the Unix socket,
//! and one statement. Several questions may be under way, since a slow server may answer the first
//! when the next is asked; any answer counts, an error too.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgraft_core::session::Session;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::facts::LivenessFacts;
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};

/// Questions at a time; each that is not answered may be one of the server's connections.
const MAX_PROBES: usize = 3;

/// A question of a server that starves is waited for longer than the server may be unresponsive.
const TIMEOUT: u32 = 4;

const QUERY: &str = "
SELECT CASE WHEN r THEN 0 ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn())::bigint END,
       CASE WHEN r THEN '' ELSE pg_catalog.pg_current_wal_flush_lsn()::text END,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE wait_event = 'SyncRep'),
       (SELECT coalesce(pg_catalog.string_agg(application_name || ' ' || flush_lsn::text, ' ' ORDER BY application_name, pid), '')
          FROM pg_catalog.pg_stat_replication),
       (SELECT coalesce(pg_catalog.array_agg(pid), '{}') FROM pg_catalog.pg_stat_replication WHERE state <> 'backup')
  FROM pg_catalog.pg_is_in_recovery() AS r";

/// Since Postgres 17; before, a commit that waits for the own disk alone.
const FLUSH_SINCE: i32 = 170_000;
const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(false, 'pgraft', '', true)";
const FLUSH_BY_COMMIT: &str =
    "SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'pgraft', '')";

/// What has come back since the last look.
pub struct ProbeAnswers {
    /// Any answer.
    pub answered: bool,
    /// The latest one that says something.
    pub facts: Option<LivenessFacts>,
}

#[derive(Default)]
struct Inbox {
    answered: AtomicU32,
    facts: Mutex<Option<LivenessFacts>>,
}

/// Asks and collects. Dropping this ends the questions.
pub struct Prober {
    settings: Arc<Settings>,
    inbox: Arc<Inbox>,
    questions: JoinSet<()>,
    flush: JoinSet<()>,
    /// When the oldest question was asked that was not answered since any answer.
    since: Option<Instant>,
}

impl Prober {
    /// Nothing is asked yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            inbox: Arc::default(),
            questions: JoinSet::new(),
            flush: JoinSet::new(),
            since: None,
        }
    }

    /// One more question, unless too many are under way.
    pub fn ask(&mut self) {
        while self.questions.try_join_next().is_some() {}
        if self.questions.len() >= MAX_PROBES {
            return;
        }
        self.since.get_or_insert_with(Instant::now);
        let (settings, inbox) = (Arc::clone(&self.settings), Arc::clone(&self.inbox));
        let patience = self.patience();
        self.questions.spawn(async move {
            let answer = timeout(patience, look(&settings, patience))
                .await
                .unwrap_or(Err(LocalSqlError::Deadline));
            match answer {
                Ok(facts) => {
                    *inbox.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
                }
                Err(error) if is_answer(&error) => {}
                Err(_) => return,
            }
            inbox.answered.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// Has WAL flushed.
    pub fn flush(&mut self) {
        let (settings, patience) = (Arc::clone(&self.settings), self.patience());
        self.flush.spawn(async move {
            // What comes of it shows in the next answers.
            if let Err(error) = timeout(patience, flush(&settings, patience))
                .await
                .unwrap_or(Err(LocalSqlError::Deadline))
            {
                tracing::debug!(%error, "the WAL was not flushed");
            }
        });
    }

    /// Whether a flush is under way.
    pub fn flush_pending(&mut self) -> bool {
        while self.flush.try_join_next().is_some() {}
        !self.flush.is_empty()
    }

    /// What has come back since the last call.
    pub fn answers(&mut self) -> ProbeAnswers {
        let answered = self.inbox.answered.swap(0, Ordering::SeqCst) > 0;
        if answered {
            self.since = None;
        }
        ProbeAnswers {
            answered,
            facts: self.inbox.facts.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }

    /// Whether an answer is waited for.
    pub const fn waits(&self) -> bool {
        self.since.is_some()
    }

    /// For how long.
    pub fn waits_since(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn patience(&self) -> Duration {
        self.settings.unresponsive * TIMEOUT
    }
}

/// Whether the server has said something, be it no.
fn is_answer(error: &LocalSqlError) -> bool {
    matches!(error, LocalSqlError::Postgres(error) if error.as_db_error().is_some())
}

async fn look(settings: &Settings, patience: Duration) -> Result<LivenessFacts, LocalSqlError> {
    let client = sql::local(settings, Session::Probe, patience).await?;
    let row = client.query_one(QUERY, &[]).await?;
    Ok(LivenessFacts {
        unflushed: row.try_get(0)?,
        flushed: row.try_get(1)?,
        waiting: row.try_get(2)?,
        confirmed: row.try_get(3)?,
        senders: row.try_get(4)?,
    })
}

async fn flush(settings: &Settings, patience: Duration) -> Result<(), LocalSqlError> {
    let client = sql::local(settings, Session::Probe, patience).await?;
    let version: String = client.query_one("SHOW server_version_num", &[]).await?.try_get(0)?;
    let statement = if version.parse::<i32>().is_ok_and(|v| v >= FLUSH_SINCE) {
        FLUSH
    } else {
        FLUSH_BY_COMMIT
    };
    client.batch_execute(statement).await?;
    Ok(())
}
