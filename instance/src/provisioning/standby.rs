//! What a standby can't go on without, and its slot on the primary.

use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::lost_wal::{Patience, is_gone};
use super::{CONNECT, ProvisioningError, STARTED};
use crate::control;
use crate::peers;
use crate::postgres::{clone, rewind, source};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::status::Upstream;
use crate::supervisor::{Repair, SupervisorEvent};
use crate::upstream;

/// Whether it receives, where replay stands in bytes, and how large a segment is.
const QUERY: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming'), \
     (pg_catalog.pg_last_wal_replay_lsn() - '0/0')::bigint, \
     pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

/// Asks for a rewind where the worker says that this server's WAL has diverged from the primary's,
/// once that primary is there: a member that is stopped for a repair does not vote.
pub async fn rewind_if_asked(
    settings: &Settings,
    secrets: &Secrets,
    events: &mpsc::UnboundedSender<SupervisorEvent>,
) -> Result<(), ProvisioningError> {
    let Some(primary) = rewind::asked_for(settings)? else { return Ok(()) };
    // Not by the word of an earlier run.
    if control::status(&settings.paths.control_socket(), CONNECT).await?.primary
        != Some(primary.node_id)
    {
        return Ok(());
    }
    rewind::source_is_there(settings, secrets, &primary).await?;
    tracing::warn!(primary = %primary.node_id, "this server's WAL has diverged from the primary's: it is stopped to be rewound");
    let _ = events.send(SupervisorEvent::Needs(Repair::Rewind));
    Ok(())
}

/// One round of a standby.
pub async fn round(
    settings: &Settings,
    secrets: &Secrets,
    client: &Client,
    patience: &mut Patience,
    events: &mpsc::UnboundedSender<SupervisorEvent>,
) -> Result<(), ProvisioningError> {
    let row = client.query_one(QUERY, &[]).await?;
    let (streams, replayed, segment_size): (bool, Option<i64>, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if streams {
        // Or says so for the moment between its connection and the primary's refusal: nothing is to
        // be learned from it.
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
    if patience.look(STARTED.elapsed(), lost) {
        tracing::warn!(primary = %primary.node_id, "the primary has no more the WAL that this server needs: it is stopped to be cloned");
        let _ = events.send(SupervisorEvent::Needs(Repair::Clone));
    }
    Ok(())
}

/// The primary, which has this node's slot when this returns; None where there is none, or this
/// node is no member any more.
async fn slot_on_primary(
    settings: &Settings,
    secrets: &Secrets,
) -> Result<Option<Upstream>, ProvisioningError> {
    let file = upstream::instance_file(&settings.paths, settings.node)?;
    // A removed member makes no slot that would keep the primary's WAL for nobody.
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
        // No Raft member tells this node yet that the primary has moved; `watch` sees the file, and
        // the server's configuration follows.
        tracing::info!(primary = %other.node_id, host = %other.host, port = other.port, "the peers name another primary");
    }
    ensured?;
    Ok(Some(primary))
}
