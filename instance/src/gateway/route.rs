//! Where a client goes now, and when it must leave. Pure: the time is a field of the facts.

use pgraft_core::NodeId;
use pgraft_core::primary_view::PrimaryView;
use std::time::Duration;

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct RouteFacts<'a> {
    /// This node.
    pub me: NodeId,
    /// Who is the primary, by the latest word of anybody.
    pub primary_view: Option<&'a PrimaryView>,
    /// Whether the members choose the primary. Where they do not nobody is fenced.
    pub failover: bool,
    /// For how long this node's own gate is closed, or its member silent; None while it is open.
    pub closed_for: Option<Duration>,
    /// The lease time.
    pub lease: Duration,
}

/// A primary of one epoch: the next one is another, be it on the same server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryServer {
    /// Of which it is the primary.
    pub epoch: u64,
    /// Who.
    pub node: NodeId,
    /// Its Postgres server.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Where a client goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// There.
    To(PrimaryServer),
    /// Nowhere yet.
    Wait(WaitCause),
}

/// Why nobody takes a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitCause {
    /// Neither this node's member nor any other has said who is the primary.
    #[error("no member of the cluster answers")]
    NobodyAnswers,
    /// A successor is looked for, or not ready yet.
    #[error("the primary is changing")]
    Changing,
    /// The primary has not told where its server is.
    #[error("the primary has not told yet where its server is")]
    Nowhere,
    /// This node is the primary and has no lease, or its member is silent.
    #[error("the primary has no lease: it does not hear from a majority of the members")]
    Fenced,
    /// The primary's server does not take the connection.
    #[error("the primary does not take connections")]
    Refused,
    /// The primary's server says so itself.
    #[error("the primary's server is starting up, in recovery, or shutting down")]
    NotNow,
}

/// Where a client goes now.
pub fn route(facts: &RouteFacts) -> Route {
    let Some(primary_view) = facts.primary_view else {
        return Route::Wait(WaitCause::NobodyAnswers);
    };
    if !primary_view.settled {
        return Route::Wait(WaitCause::Changing);
    }
    if facts.failover && primary_view.primary == facts.me && facts.closed_for.is_some() {
        return Route::Wait(WaitCause::Fenced);
    }
    primary_view.postgres.as_ref().map_or(Route::Wait(WaitCause::Nowhere), |at| {
        Route::To(PrimaryServer {
            epoch: primary_view.epoch,
            node: primary_view.primary,
            host: at.host().to_owned(),
            port: at.port(),
        })
    })
}

/// Whether a client of that primary must leave: it is the primary no more, or fenced for so long
/// that it hardly comes back. (A gate is closed for a moment in a switchover, too, while the last
/// commits get their answers.)
pub fn is_over(target: &PrimaryServer, facts: &RouteFacts) -> bool {
    let replaced = facts.primary_view.is_some_and(|primary_view| primary_view.epoch > target.epoch);
    let fenced = facts.failover
        && target.node == facts.me
        && facts.closed_for.is_some_and(|time| time >= facts.lease);
    replaced || fenced
}

/// The later of what is known and what is told. A word about another cluster counts only from this
/// node's own member.
pub fn merged(known: Option<PrimaryView>, told: PrimaryView, by_own_member: bool) -> PrimaryView {
    match known {
        None => told,
        Some(known) if known.cluster_id != told.cluster_id => {
            if by_own_member {
                told
            } else {
                known
            }
        }
        Some(known) => {
            // The own member may have heard more than its log says: that the primary has ended.
            let anew = by_own_member && !known.is_later_than(&told);
            if anew || told.is_later_than(&known) { told } else { known }
        }
    }
}

#[cfg(test)]
mod tests;
