//! Observes the local server and its Raft member for `/readyz` and `/status`. Reads only, and takes
//! at most [`DEADLINE`].

use pgraft_core::NodeStatus;
use pgraft_core::session::Session;
use std::time::Duration;
use tokio::time::timeout;

use crate::control;
use crate::paths;
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};
use crate::status::{PostgresStatus, ServerRole, Status, Upstream};
use crate::supervisor::SupervisorPhase;
use crate::upstream;
use crate::view::MemberView;

/// The time limit of one observation.
pub const DEADLINE: Duration = Duration::from_secs(2);

const QUERY: &str = "
SELECT r, w.status = 'streaming',
       CASE WHEN r THEN coalesce(w.received_tli, c.timeline_id)
            ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 1, 8))::bit(32)::integer END,
       CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn()::text END,
       CASE WHEN NOT r THEN pg_catalog.pg_current_wal_flush_lsn()::text END,
       ARRAY (SELECT name::pg_catalog.text FROM pg_catalog.pg_settings WHERE pending_restart),
       CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn()::text END
  FROM pg_catalog.pg_is_in_recovery() AS r
 CROSS JOIN pg_catalog.pg_control_checkpoint() AS c
  LEFT JOIN pg_catalog.pg_stat_wal_receiver AS w ON true";

/// The status, and why the node is not ready.
pub struct ServerObservation {
    /// The body of `/status`.
    pub status: Status,
    /// Why it is not ready; empty if it is.
    pub missing: Vec<String>,
}

/// Observes the node.
pub async fn observe(view: &MemberView) -> ServerObservation {
    let settings = &view.settings;
    let (server, raft) = tokio::join!(server(view), raft(settings));
    let mut missing = vec![];
    let answers = server.is_ok();
    let mut postgres = server.unwrap_or_else(|why| {
        missing.push(why);
        PostgresStatus {
            running: matches!(view.phase, SupervisorPhase::Running(_)),
            ..PostgresStatus::default()
        }
    });
    postgres.degraded = view.concern.map(|fault| fault.to_string());
    if let Some(reason) = view.reason.filter(|_| !answers) {
        missing.push(reason.to_string());
        postgres.degraded = Some(reason.to_string());
    }
    postgres.unresponsive = view.killed_for.map(|fault| fault.to_string());
    let raft = raft.unwrap_or_else(|why| {
        missing.push(why);
        None
    });
    if settings.failover && raft.as_ref().is_some_and(|r| is_fenced(&postgres, r)) {
        missing.push("this server is fenced: it does not have the lease of the primary".into());
    }
    if let Some(stale) = view.verdict.get().filter(|_| postgres.in_recovery == Some(true)) {
        missing.push(stale.to_string());
    }
    if settings.extension && paths::bootstrap_mark(&settings.paths.data).exists() {
        // Once the bootstrap node is ready, its roles, its database and its cluster exist.
        missing.push("the cluster is not bootstrapped yet".into());
    }
    let role = match postgres.in_recovery {
        None => ServerRole::Starting,
        Some(true) => ServerRole::Standby,
        Some(false) => ServerRole::Primary,
    };
    let primary = primary(settings, role);
    let configuration = view.configuration.report();
    ServerObservation {
        status: Status {
            node_id: settings.node,
            role,
            ready: missing.is_empty(),
            postgres,
            raft,
            primary,
            configuration,
        },
        missing,
    }
}

async fn server(view: &MemberView) -> Result<PostgresStatus, String> {
    let MemberView { settings, phase, configuration, .. } = view;
    if !matches!(phase, SupervisorPhase::Running(_)) {
        return Err(format!("Postgres is not running: {}", phase.as_str()));
    }
    let read = async {
        let client = sql::local(settings, Session::Probe, DEADLINE).await?;
        let row = client.query_one(QUERY, &[]).await?;
        let timeline: Option<i32> = row.try_get(2)?;
        configuration.saw_pending(settings, row.try_get(5)?);
        Ok::<_, LocalSqlError>(PostgresStatus {
            running: true,
            in_recovery: Some(row.try_get(0)?),
            streaming: Some(row.try_get::<_, Option<bool>>(1)?.unwrap_or(false)),
            timeline: timeline.map(i32::cast_unsigned),
            receive_lsn: row.try_get(3)?,
            flush_lsn: row.try_get(4)?,
            pending_restart: Some(!configuration.report().pending_restart.is_empty()),
            replay_lsn: row.try_get(6)?,
            degraded: None,
            unresponsive: None,
        })
    };
    match timeout(DEADLINE, read).await {
        Ok(seen) => seen.map_err(|e| format!("Postgres does not answer: {e}")),
        Err(_) => Err("Postgres did not answer in time".into()),
    }
}

async fn raft(settings: &Settings) -> Result<Option<NodeStatus>, String> {
    if !settings.extension {
        return Ok(None);
    }
    control::status(&settings.paths.control_socket(), DEADLINE)
        .await
        .map(Some)
        .map_err(|e| e.to_string())
}

/// Whether the primary's gate is closed: it confirms no writes and, by default, answers no reads.
fn is_fenced(postgres: &PostgresStatus, raft: &NodeStatus) -> bool {
    postgres.in_recovery == Some(false)
        && raft.failover.as_ref().is_none_or(|f| f.gate_ms.is_none())
}

/// The group's primary. Before there is one: this node if it accepts writes, otherwise the server
/// that it follows.
fn primary(settings: &Settings, role: ServerRole) -> Option<Upstream> {
    let file = upstream::instance_file(&settings.paths, settings.node).ok()?;
    let grouped = file.as_ref().and_then(|f| f.primary);
    if grouped.map_or(role == ServerRole::Primary, |primary| primary == settings.node) {
        return Some(Upstream {
            node_id: settings.node,
            host: settings.postgres.host().to_owned(),
            port: settings.postgres.port(),
        });
    }
    let last = upstream::last(&settings.paths).ok()?;
    upstream::follow(settings.node, file.as_ref(), last)
}
