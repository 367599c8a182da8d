//! What the operator asks of the Raft group, in SQL to a pod's Postgres, and how the answers are
//! read. `sessions.rs` carries it.

use futures::future::BoxFuture;
use jiff::SignedDuration;
use pgraft_core::configuration::ConfigurationStatus;
use pgraft_core::failover::{LastFailover, Phase, TermEndReason};
use pgraft_core::status::WalPosition;
use pgraft_core::{Address, ClusterId, NodeId, NodeState, Role};
use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;
use tokio_postgres::{Client, Row};

use crate::cluster::certificates::secrets::identity::LoginIdentity;
use crate::cluster::observe::group::{FailoverSeen, MemberSeen, PodAnswer};
use crate::cluster::step::MembershipRequest;

/// The schema that has pgraft's functions.
const SCHEMA: &str = "select n.nspname::text from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace \
     where e.extname = 'pgraft'";

/// What is asked, with every name qualified: what a role or a database carries, and what others
/// have made in its schemas, changes no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statements {
    status: String,
    members: String,
    add: String,
    remove: String,
    switch_over: String,
}

impl Statements {
    /// Where the extension is in this schema.
    fn of(schema: &str) -> Self {
        let schema = format!("\"{}\"", schema.replace('"', "\"\""));
        Self {
            status: format!(
                "select s.cluster_id::text, s.state, s.term, {schema}.pgraft_get_leader() as leader, \
                 coalesce(f.primary_node, s.primary_node) as primary_node, s.applied_index, s.next_node_id, f.phase, coalesce(f.epoch, 0) as epoch, \
                 f.waits_for, f.last_from, f.last_to, f.last_reason, (extract(epoch from f.last_began) * 1000)::bigint as last_began, f.last_ms \
                 from {schema}.pgraft_status() s left join {schema}.pgraft_failover() f on true"
            ),
            members: format!(
                "select node_id, address, port, role, reachable, (extract(epoch from last_contact) * 1000)::bigint as last_contact, \
                 lag_bytes::bigint as lag_bytes, timeline, (flush_lsn - '0/0'::pg_lsn)::bigint as flush_lsn \
                 from {schema}.pgraft_get_members() order by node_id"
            ),
            add: format!("select {schema}.pgraft_add_node($1::integer, $2::text, $3::integer)"),
            remove: format!("select {schema}.pgraft_remove_node($1::integer)"),
            switch_over: format!("select {schema}.pgraft_switchover($1::integer)"),
        }
    }

    /// As the server of this session needs them.
    ///
    /// # Errors
    /// [`MemberSqlError`]; of time it knows nothing.
    pub async fn read(client: &Client) -> Result<Self, MemberSqlError> {
        let row = client.query_opt(SCHEMA, &[]).await?.ok_or(MemberSqlError::NoExtension)?;
        Ok(Self::of(row.try_get(0)?))
    }
}

/// A pod to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlTarget {
    /// Its node.
    pub node: NodeId,
    /// Its identity: a new pod under the same name is another server.
    pub uid: String,
    /// Where it is.
    pub ip: IpAddr,
}

/// The Raft group, as far as the operator uses it. A trait, so that tests can be the group.
pub trait RaftGroup: Send + Sync {
    /// What this pod knows.
    fn ask<'a>(
        &'a self,
        target: &'a SqlTarget,
        login: &'a LoginIdentity,
    ) -> BoxFuture<'a, Result<PodAnswer, MemberSqlError>>;
    /// What the instance manager at this address says about its configuration; None where it does
    /// not answer.
    fn configuration(&self, _ip: IpAddr) -> BoxFuture<'_, Option<ConfigurationStatus>> {
        Box::pin(async { None })
    }
    /// One call of `pgraft_add_node`, `pgraft_remove_node` or `pgraft_switchover` on this pod,
    /// never a second one.
    fn change<'a>(
        &'a self,
        target: &'a SqlTarget,
        login: &'a LoginIdentity,
        change: MembershipRequest,
        address: &'a Address,
    ) -> BoxFuture<'a, Result<(), MemberSqlError>>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum MemberSqlError {
    /// No connection, or it broke.
    #[error("{0}{cause}", cause = .0.source().map(|cause| format!(": {cause}")).unwrap_or_default())]
    Connection(#[source] tokio_postgres::Error),
    /// The certificate can't be used.
    #[error("the operator's certificate: {0}")]
    Certificate(#[from] rustls::Error),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The server said no.
    #[error("{message} ({code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// Its words, with the hint.
        message: String,
    },
    /// Somebody dropped it.
    #[error(
        "the database postgres has no extension pgraft; the instance manager of the primary creates it again"
    )]
    NoExtension,
    /// The server said something that this version does not understand.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl MemberSqlError {
    /// Whether another session may find what this one did not: the session broke, or a name has
    /// changed since it was looked up.
    pub fn ends_session(&self) -> bool {
        match self {
            Self::Late(_) | Self::Connection(_) => true,
            // invalid_schema_name, undefined_function, insufficient_privilege: the extension may be
            // in another schema by now.
            Self::Refused { code, .. } => ["3F000", "42883", "42501"].contains(&code.as_str()),
            Self::Certificate(_) | Self::NoExtension | Self::Unexpected(_) => false,
        }
    }
}

impl From<tokio_postgres::Error> for MemberSqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else { return Self::Connection(error) };
        let hint = db.hint().map(|hint| format!(" {hint}")).unwrap_or_default();
        Self::Refused {
            code: db.code().code().to_owned(),
            message: format!("{}{hint}", db.message()),
        }
    }
}

/// What the pod behind this session knows.
///
/// # Errors
/// [`MemberSqlError`]; of time it knows nothing.
pub async fn ask(
    client: &Client,
    statements: &Statements,
    node: NodeId,
) -> Result<PodAnswer, MemberSqlError> {
    // Both questions are on the wire at once.
    let (status, members) = futures::try_join!(
        client.query_one(&statements.status, &[]),
        client.query(&statements.members, &[])
    )?;
    answer(node, &status, &members)
}

/// One call, of the pod behind this session.
///
/// # Errors
/// As [`ask`].
pub async fn change(
    client: &Client,
    statements: &Statements,
    change: MembershipRequest,
    address: &Address,
) -> Result<(), MemberSqlError> {
    match change {
        MembershipRequest::Add(node) => {
            let port = i32::from(address.port());
            client.execute(&statements.add, &[&node.as_i32(), &address.host(), &port]).await?;
        }
        MembershipRequest::Remove(node) => {
            client.execute(&statements.remove, &[&node.as_i32()]).await?;
        }
        MembershipRequest::SwitchOver(node) => {
            client.execute(&statements.switch_over, &[&node.as_i32()]).await?;
        }
    }
    Ok(())
}

fn answer(node: NodeId, status: &Row, members: &[Row]) -> Result<PodAnswer, MemberSqlError> {
    let cluster_id: Option<String> = status.try_get("cluster_id")?;
    let state: String = status.try_get("state")?;
    let id =
        |column: &str| -> Result<Option<NodeId>, MemberSqlError> { optional_id(status, column) };
    Ok(PodAnswer {
        node,
        cluster_id: cluster_id.map(|text| read::<ClusterId>(&text)).transpose()?,
        state: read::<NodeState>(&state)?,
        term: unsigned(status, "term")?,
        leader: status.try_get::<_, Option<i64>>("leader")?.map(node_id).transpose()?,
        primary: id("primary_node")?,
        failover: failover(status)?,
        applied_index: unsigned(status, "applied_index")?,
        next_node_id: status
            .try_get::<_, Option<i32>>("next_node_id")?
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        members: members.iter().map(member).collect::<Result<_, _>>()?,
    })
}

/// None where the bootstrap node stays the primary.
fn failover(row: &Row) -> Result<Option<FailoverSeen>, MemberSqlError> {
    let Some(phase) = row.try_get::<_, Option<String>>("phase")? else { return Ok(None) };
    let waits_for = row.try_get::<_, Option<Vec<i32>>>("waits_for")?.unwrap_or_default();
    Ok(Some(FailoverSeen {
        phase: read::<Phase>(&phase)?,
        epoch: unsigned(row, "epoch")?,
        waits_for: waits_for
            .into_iter()
            .map(|n| node_id(i64::from(n)))
            .collect::<Result<_, _>>()?,
        last: last_failover(row)?,
    }))
}

fn last_failover(row: &Row) -> Result<Option<LastFailover>, MemberSqlError> {
    let Some((from, began_ms)) =
        optional_id(row, "last_from")?.zip(row.try_get::<_, Option<i64>>("last_began")?)
    else {
        return Ok(None);
    };
    let reason: String = row.try_get("last_reason")?;
    let took: Option<i64> = row.try_get("last_ms")?;
    Ok(Some(LastFailover {
        // It began the epoch that it is now.
        epoch: unsigned(row, "epoch")?,
        from,
        to: optional_id(row, "last_to")?,
        reason: read::<TermEndReason>(&reason)?,
        began_ms,
        ended_ms: took.map(|ms| began_ms.saturating_add(ms)),
    }))
}

fn wal(row: &Row) -> Result<Option<WalPosition>, MemberSqlError> {
    let timeline = row.try_get::<_, Option<i32>>("timeline")?.and_then(|n| u32::try_from(n).ok());
    let lsn = row.try_get::<_, Option<i64>>("flush_lsn")?.and_then(|n| u64::try_from(n).ok());
    Ok(timeline.zip(lsn).map(|(timeline, lsn)| WalPosition { timeline, lsn }))
}

fn member(row: &Row) -> Result<MemberSeen, MemberSqlError> {
    let host: String = row.try_get("address")?;
    let port: i32 = row.try_get("port")?;
    let role: String = row.try_get("role")?;
    Ok(MemberSeen {
        id: node_id(i64::from(row.try_get::<_, i32>("node_id")?))?,
        address: Address::new(&host, i64::from(port))
            .map_err(|e| MemberSqlError::Unexpected(e.to_string()))?,
        role: read::<Role>(&role)?,
        reachable: row.try_get("reachable")?,
        last_contact: row
            .try_get::<_, Option<i64>>("last_contact")?
            .map(SignedDuration::from_millis),
        wal: wal(row)?,
        lag_bytes: row.try_get::<_, Option<i64>>("lag_bytes")?.and_then(|n| u64::try_from(n).ok()),
    })
}

fn optional_id(row: &Row, column: &str) -> Result<Option<NodeId>, MemberSqlError> {
    row.try_get::<_, Option<i32>>(column)?.map(|n| node_id(i64::from(n))).transpose()
}

fn unsigned(row: &Row, column: &str) -> Result<u64, MemberSqlError> {
    Ok(row.try_get::<_, Option<i64>>(column)?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

fn node_id(id: i64) -> Result<NodeId, MemberSqlError> {
    NodeId::new(id).map_err(|e| MemberSqlError::Unexpected(e.to_string()))
}

/// A word, read as the core's serde names it.
fn read<T: serde::de::DeserializeOwned>(word: &str) -> Result<T, MemberSqlError> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|e| MemberSqlError::Unexpected(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_ours_has_its_schema() {
        for (schema, quoted) in
            [("pg_catalog", "\"pg_catalog\""), ("My \"pgraft\"", "\"My \"\"pgraft\"\"\"")]
        {
            let Statements { status, members, add, remove, switch_over } = Statements::of(schema);
            for statement in [status, members, add, remove, switch_over] {
                let calls = statement.matches("pgraft_").count();
                assert!(
                    calls > 0 && statement.matches(&format!("{quoted}.pgraft_")).count() == calls,
                    "{statement}"
                );
            }
        }
    }

    #[test]
    fn a_name_that_is_not_found_is_looked_up_again() {
        let refused =
            |code: &str| MemberSqlError::Refused { code: code.into(), message: String::new() };
        assert!(["3F000", "42883", "42501"].into_iter().all(|code| refused(code).ends_session()));
        assert!(["PGR01", "57P03", "42704"].into_iter().all(|code| !refused(code).ends_session()));
        assert!(
            MemberSqlError::Late(Duration::from_secs(2)).ends_session()
                && !MemberSqlError::NoExtension.ends_session()
        );
        assert_eq!(
            MemberSqlError::NoExtension.to_string(),
            "the database postgres has no extension pgraft; the instance manager of the primary creates it again"
        );
    }
}
