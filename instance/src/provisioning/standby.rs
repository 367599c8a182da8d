//! Requests a rewind or a clone that a standby needs, and maintains its slot on the primary.

use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::lost_wal::{LostWal, is_gone};
use super::{CONNECT, ProvisioningError, STARTED};
use crate::control;
use crate::peers;
use crate::postgres::{clone, rewind, source};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::status::Upstream;
use crate::supervisor::{Repair, SupervisorEvent};
use crate::upstream;

/// Whether it is streaming, its replay position, and the size of a segment.
const QUERY: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming'), \
     (pg_catalog.pg_last_wal_replay_lsn() - '0/0')::bigint, \
     pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

/// Requests a rewind if the worker reports that this server's WAL has diverged from the primary's, and
/// the primary is reachable. The server is not stopped before that, because its member votes.
pub async fn rewind_if_requested(
    settings: &Settings,
    secrets: &Secrets,
    events: &mpsc::UnboundedSender<SupervisorEvent>,
) -> Result<(), ProvisioningError> {
    let Some(primary) = rewind::requested(settings)? else { return Ok(()) };
    // instance.json may be from an earlier run.
    if control::status(&settings.paths.control_socket(), CONNECT).await?.primary
        != Some(primary.node_id)
    {
        return Ok(());
    }
    rewind::source_is_there(settings, secrets, &primary).await?;
    tracing::warn!(primary = %primary.node_id, "this server's WAL has diverged from the primary's; stopping Postgres for a rewind");
    let _ = events.send(SupervisorEvent::Needs(Repair::Rewind));
    Ok(())
}

/// One round of a standby.
pub async fn round(
    settings: &Settings,
    secrets: &Secrets,
    client: &Client,
    lost_wal: &mut LostWal,
    events: &mpsc::UnboundedSender<SupervisorEvent>,
) -> Result<(), ProvisioningError> {
    let row = client.query_one(QUERY, &[]).await?;
    let (streams, replayed, segment_size): (bool, Option<i64>, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if streams {
        // A walreceiver also reports streaming between its connection and the primary's refusal.
        return Ok(());
    }
    let Some(primary) = slot_on_primary(settings, secrets).await? else { return Ok(()) };
    let Some(replayed) = replayed else { return Ok(()) };
    let files: Vec<String> = source::ask(settings, secrets, &primary, async |client| {
        Ok(client
            .query_one(
                "SELECT pg_catalog.array_agg(name) FROM pg_catalog.pg_ls_dir('pg_wal') AS name",
                &[],
            )
            .await?
            .try_get(0)?)
    })
    .await?;
    let (replayed, segment_size) = (replayed.cast_unsigned(), segment_size.cast_unsigned());
    let lost =
        is_gone(replayed, segment_size, files.iter().map(String::as_str)).then_some(replayed);
    if lost_wal.observe(STARTED.elapsed(), lost) {
        tracing::warn!(primary = %primary.node_id, "the primary no longer has the WAL that this standby needs; stopping Postgres for a clone");
        let _ = events.send(SupervisorEvent::Needs(Repair::Clone));
    }
    Ok(())
}

/// Creates this node's slot on the primary if needed, and returns the primary. None if there is no
/// primary or this node was removed.
async fn slot_on_primary(
    settings: &Settings,
    secrets: &Secrets,
) -> Result<Option<Upstream>, ProvisioningError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    // The slot of a removed member would keep WAL on the primary for ever.
    if file.as_ref().is_some_and(|f| f.retired.contains(&settings.node)) {
        return Ok(None);
    }
    let Some(primary) =
        upstream::follow(settings.node, file.as_ref(), upstream::last(&settings.paths)?)
    else {
        return Ok(None);
    };
    let ensured = clone::ensure_slot(settings, secrets, &primary).await;
    let in_a_cluster = file.is_some_and(|f| f.primary.is_some());
    if ensured.is_err()
        && !in_a_cluster
        && let Some(other) =
            upstream::named_by_peers(settings.node, &peers::ask_all(&settings.config.peers).await)
        && upstream::remember(&settings.paths, &other)?
    {
        // This node's Raft member does not know the primary yet. `watch` sees the changed file and
        // the server's configuration is updated.
        tracing::info!(primary = %other.node_id, host = %other.host, port = other.port, "following another primary that the peers report");
    }
    ensured?;
    Ok(Some(primary))
}
