//! The SQL functions that only read. All but `pgraft_log()` read shared memory. The functions that
//! change the cluster are in `pg/functions.rs`.

#![allow(
    unsafe_code,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    reason = "pgrx's macros expand to it"
)]

use pgraft_core::control::{Request, Response};
use pgraft_core::status::FailoverStatus;
use pgraft_core::{MemberStatus, NodeId, NodeStatus};
use pgrx::datum::{Interval, Uuid};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::pg::command;
use crate::pg::ereport::error;
use crate::shmem::{self, Published, gate};

/// Microseconds between the Unix epoch and Postgres' epoch, 2000-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// Entries that `pgraft_log()` shows.
const LOG_ROWS: usize = 1000;

#[pg_extern]
fn pgraft_get_leader() -> Option<i64> {
    shmem::leader().map(i64::from)
}

#[pg_extern]
fn pgraft_is_leader() -> bool {
    shmem::is_leader()
}

#[pg_extern]
fn pgraft_get_term() -> i64 {
    big(shmem::term())
}

#[pg_extern]
fn pgraft_get_nodes()
-> TableIterator<'static, (name!(node_id, i32), name!(address, String), name!(port, i32))> {
    let row = |m: MemberStatus| {
        (m.node_id.as_i32(), m.address.host().to_owned(), i32::from(m.address.port()))
    };
    TableIterator::new(status().members.into_iter().map(row))
}

#[pg_extern]
fn pgraft_status() -> TableIterator<
    'static,
    (
        name!(cluster_id, Option<Uuid>),
        name!(node_id, i32),
        name!(state, String),
        name!(term, i64),
        name!(leader, Option<i32>),
        name!(epoch, i64),
        name!(primary_node, Option<i32>),
        name!(commit_index, i64),
        name!(applied_index, i64),
        name!(gate, Option<String>),
        name!(lease_remaining, Option<Interval>),
        name!(sync_standbys, Option<String>),
        name!(sync_required, Option<i32>),
        name!(voters, i32),
        name!(quorum, i32),
        name!(next_node_id, i32),
    ),
> {
    let s = status();
    let alive = shmem::is_fresh();
    let failover = s.failover.as_ref();
    let primary_here = s.primary == Some(s.node_id);
    TableIterator::once((
        s.cluster_id.map(|id| Uuid::from_bytes(*id.0.as_bytes())),
        s.node_id.as_i32(),
        if alive { s.state.to_string() } else { "stopped".to_owned() },
        big(s.term),
        s.leader.filter(|_| alive).map(NodeId::as_i32),
        big(s.epoch),
        s.primary.map(NodeId::as_i32),
        big(s.commit_index),
        big(s.applied_index),
        // As this backend sees it, not as the worker last published it.
        failover
            .filter(|_| primary_here)
            .map(|_| if gate::is_open() { "open" } else { "closed" }.to_owned()),
        gate::remaining()
            .filter(|_| primary_here)
            .and_then(|ms| Interval::new(0, 0, big(ms).saturating_mul(1000)).ok()),
        failover
            .map(|f| f.sync_standbys.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        failover.map(|f| small(f.sync_required)),
        small(s.voters),
        small(s.quorum),
        s.next_node_id.cast_signed(),
    ))
}

#[pg_extern]
fn pgraft_failover() -> TableIterator<
    'static,
    (
        name!(phase, String),
        name!(epoch, i64),
        name!(primary_node, Option<i32>),
        name!(timeline, i32),
        name!(step, String),
        name!(waits_for, Vec<i32>),
        name!(last_from, Option<i32>),
        name!(last_to, Option<i32>),
        name!(last_reason, Option<String>),
        name!(last_began, Option<i64>),
        name!(last_ms, Option<i64>),
    ),
> {
    let s = status();
    let (epoch, primary) = (big(s.epoch), s.primary.map(NodeId::as_i32));
    let row = move |f: FailoverStatus| {
        let last = f.last.as_ref();
        (
            f.phase.to_string(),
            epoch,
            primary,
            f.timeline.cast_signed(),
            f.step,
            f.waits_for.into_iter().map(NodeId::as_i32).collect(),
            last.map(|l| l.from.as_i32()),
            last.and_then(|l| l.to).map(NodeId::as_i32),
            last.map(|l| l.reason.to_string()),
            last.map(|l| l.began_ms.saturating_mul(1000) - POSTGRES_EPOCH_US),
            last.and_then(|l| Some(l.ended_ms? - l.began_ms)),
        )
    };
    TableIterator::new(s.failover.map(row))
}

#[pg_extern]
fn pgraft_get_members() -> TableIterator<
    'static,
    (
        name!(node_id, i32),
        name!(address, String),
        name!(port, i32),
        name!(role, String),
        name!(is_leader, bool),
        name!(is_primary, bool),
        name!(reachable, Option<bool>),
        name!(last_contact, Option<Interval>),
        name!(match_index, Option<i64>),
        name!(lag_bytes, Option<i64>),
        name!(timeline, Option<i32>),
        name!(flush_lsn, Option<i64>),
        name!(zone, String),
    ),
> {
    let status = status();
    let alive = shmem::is_fresh();
    let row = move |m: MemberStatus| {
        (
            m.node_id.as_i32(),
            m.address.host().to_owned(),
            i32::from(m.address.port()),
            m.role.to_string(),
            m.is_leader && alive,
            m.is_primary,
            m.reachable.filter(|_| alive),
            m.last_contact_ms
                .filter(|_| alive)
                .and_then(|ms| Interval::new(0, 0, big(ms).saturating_mul(1000)).ok()),
            m.match_index.filter(|_| alive).map(big),
            m.lag_bytes.filter(|_| alive).map(big),
            m.wal.filter(|_| alive).map(|w| w.timeline.cast_signed()),
            m.wal.filter(|_| alive).map(|w| w.lsn.cast_signed()),
            m.zone,
        )
    };
    TableIterator::new(status.members.into_iter().map(row))
}

#[pg_extern]
fn pgraft_log() -> TableIterator<
    'static,
    (
        name!(index, i64),
        name!(term, i64),
        name!(kind, String),
        name!(data, pgrx::JsonB),
        name!(committed, bool),
        name!(applied_at, Option<i64>),
    ),
> {
    let entries = match command::ask(&Request::Log { limit: LOG_ROWS }) {
        Ok(Response::Log { entries }) => entries,
        Ok(_) => not_running("it sent an unexpected response"),
        Err(why) => not_running(&why),
    };
    TableIterator::new(entries.into_iter().map(|e| {
        let data = serde_json::from_str(&e.data).unwrap_or_default();
        (
            big(e.index),
            big(e.term),
            e.kind,
            pgrx::JsonB(data),
            e.committed,
            e.applied_at.map(|us| us - POSTGRES_EPOCH_US),
        )
    }))
}

/// The status that the worker published last, also if the worker has stopped since: what it has
/// applied stays valid.
fn status() -> NodeStatus {
    match command::published() {
        Published::Status(status) => *status,
        Published::Stopped(why) => not_running(&why),
        Published::Nothing => not_running("it has not started yet"),
    }
}

fn not_running(why: &str) -> ! {
    error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("the pgraft worker is not running: {why}"),
        "See the server log for details. Correct the pgraft.* settings and restart the server, or wait for the worker to restart.",
    )
}

fn big(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn small(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
