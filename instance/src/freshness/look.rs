//! Collects the facts for [`StandbyFreshness`]: from the local server, the local Raft member, and,
//! if no WAL arrives, from the other nodes.

use pgraft_core::failover::Phase;
use pgraft_core::session::Session;
use pgraft_core::{NodeId, NodeStatus};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{FreshnessFacts, FreshnessVerdict, StandbyFreshness};
use crate::control;
use crate::paths;
use crate::peers;
use crate::postgres::source;
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::sql::{self, LocalSqlError};
use crate::status::{ServerRole, Status};
use crate::upstream;
use crate::view::MemberView;

const POLL_INTERVAL: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(5);

/// How often the other nodes are asked while no WAL arrives.
const PEER_POLL_INTERVAL: Duration = Duration::from_secs(5);

const QUERY: &str = "
SELECT w.status = 'streaming'
         AND (t.ms = 0 OR pg_catalog.clock_timestamp() - w.last_msg_receipt_time < 2 * t.ms * interval '1 millisecond'),
       (greatest(pg_catalog.pg_last_wal_receive_lsn(), w.latest_end_lsn) - '0/0')::bigint,
       (pg_catalog.pg_last_wal_replay_lsn() - '0/0')::bigint,
       r AND CASE WHEN r THEN pg_catalog.pg_get_wal_replay_pause_state() <> 'not paused' END,
       (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'recovery_min_apply_delay')
  FROM pg_catalog.pg_is_in_recovery() AS r
 CROSS JOIN (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_receiver_timeout') AS t (ms)
  LEFT JOIN pg_catalog.pg_stat_wal_receiver AS w ON true";

/// The local server's state.
struct StandbyServer {
    streaming: bool,
    end: Option<u64>,
    replayed: Option<u64>,
    paused: bool,
    delay: Duration,
}

/// Checks until it is aborted when the server has ended.
pub async fn run(view: watch::Receiver<MemberView>) {
    let verdict = view.borrow().verdict.clone();
    verdict.set(None);
    let (mut freshness, begin, mut asked) = (StandbyFreshness::default(), Instant::now(), None);
    loop {
        sleep(POLL_INTERVAL).await;
        let settings = std::sync::Arc::clone(&view.borrow().settings);
        // Postgres removes the file when a promotion is complete.
        if !paths::standby_signal(&settings.paths.data).exists() {
            publish(&verdict, None);
            continue;
        }
        // A server that does not answer is not ready for that reason.
        let Ok(Ok(server)) = timeout(DEADLINE, read(&settings)).await else { continue };
        let member = member(&settings).await;
        let primary = match &member {
            None => false,
            Some(_) if server.streaming => {
                asked = None;
                true
            }
            Some(status) => match asked {
                Some((at, seen)) if begin.elapsed().saturating_sub(at) < PEER_POLL_INTERVAL => seen,
                _ => {
                    let seen = has_primary(&settings, status).await;
                    asked = Some((begin.elapsed(), seen));
                    seen
                }
            },
        };
        let StandbyServer { streaming, end, replayed, paused, delay } = server;
        let facts = FreshnessFacts {
            now: begin.elapsed(),
            primary,
            streaming,
            paused,
            end,
            replayed,
            delay,
        };
        publish(&verdict, freshness.look(&facts, &settings.standby));
    }
}

fn publish(verdict: &FreshnessVerdict, stale: Option<super::Stale>) {
    match (verdict.set(stale), stale) {
        (before, Some(stale)) if before != Some(stale) => {
            tracing::warn!("not ready for reads: {stale}");
        }
        (Some(_), None) => tracing::info!("this standby is up to date again and ready for reads"),
        _ => {}
    }
}

/// Reads the server's state. The connection is closed each time, because a smart shutdown would wait
/// for it.
async fn read(settings: &Settings) -> Result<StandbyServer, LocalSqlError> {
    let client = sql::local(settings, Session::Probe, DEADLINE).await?;
    let row = client.query_one(QUERY, &[]).await?;
    let position =
        |column| row.try_get::<_, Option<i64>>(column).map(|lsn| lsn.map(i64::cast_unsigned));
    Ok(StandbyServer {
        streaming: row.try_get::<_, Option<bool>>(0)?.unwrap_or(false),
        end: position(1)?,
        replayed: position(2)?,
        paused: row.try_get::<_, Option<bool>>(3)?.unwrap_or(false),
        delay: Duration::from_millis(row.try_get::<_, i64>(4)?.cast_unsigned()),
    })
}

/// The local member's status if this node is a member of a cluster.
async fn member(settings: &Settings) -> Option<NodeStatus> {
    if !settings.extension {
        return None;
    }
    let status = control::status(&settings.paths.control_socket(), DEADLINE).await.ok()?;
    status.members.iter().any(|m| m.node_id == settings.node).then_some(status)
}

/// Whether the group has a primary that serves, as seen by any node.
async fn has_primary(settings: &Settings, raft: &NodeStatus) -> bool {
    let Some(primary) = raft.primary.filter(|primary| *primary != settings.node) else {
        return false;
    };
    if raft.failover.as_ref().is_some_and(|f| f.phase != Phase::Steady) {
        return false;
    }
    let answers = peers::ask_all(&settings.config.peers).await;
    let ask_itself = !settings.failover || settings.config.peers.is_empty();
    serves(settings.node, primary, &answers) || (ask_itself && lets_in(settings, primary).await)
}

/// Whether the primary reports itself ready, or another standby receives WAL from it.
fn serves(this: NodeId, primary: NodeId, answers: &[Status]) -> bool {
    answers.iter().filter(|s| s.node_id != this).any(|s| {
        let follows = s.primary.as_ref().is_some_and(|p| p.node_id == primary)
            && s.postgres.streaming == Some(true);
        if s.node_id == primary {
            s.role == ServerRole::Primary && s.ready
        } else {
            s.role == ServerRole::Standby && follows
        }
    })
}

/// Whether that node accepts this node's connection as a primary. With failover a fenced primary
/// would do so, too.
async fn lets_in(settings: &Settings, primary: NodeId) -> bool {
    let upstream = upstream::instance_file(&settings.paths, settings.node).and_then(|file| {
        Ok(upstream::follow(settings.node, file.as_ref(), upstream::last(&settings.paths)?))
    });
    let (Ok(Some(upstream)), Ok(secrets)) = (upstream, Secrets::read(&settings.paths.secrets))
    else {
        return false;
    };
    upstream.node_id == primary
        && source::ask(settings, &secrets, &upstream, async |_| Ok(())).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(node: u32, role: &str, ready: bool, primary: u32, streaming: bool) -> Status {
        serde_json::from_value(json!({
            "node_id": node, "role": role, "ready": ready, "raft": null, "primary": {"node_id": primary, "host": "h", "port": 5432},
            "postgres": {"running": true, "in_recovery": role == "standby", "streaming": streaming, "timeline": 1, "receive_lsn": null,
                "flush_lsn": null, "pending_restart": false},
        }))
        .unwrap()
    }

    #[test]
    fn another_standby_that_streams_proves_that_the_primary_serves() {
        let id = |n| NodeId::new(n).unwrap();
        let cases = [
            (vec![], false),
            (vec![status(1, "primary", true, 1, false)], true),
            (vec![status(1, "primary", false, 1, false)], false), // fenced
            (vec![status(1, "standby", true, 3, true)], false),
            (vec![status(3, "standby", true, 1, true)], true),
            (vec![status(3, "standby", true, 1, false)], false),
            (vec![status(3, "standby", true, 2, true)], false),
            (vec![status(2, "standby", true, 1, true)], false), // this node itself
        ];
        for (answers, want) in cases {
            assert_eq!(serves(id(2), id(1), &answers), want, "{answers:?}");
        }
    }
}
