//! Where a client goes now, and when it must leave. Pure: times are among the facts.

use pgraft_core::NodeId;
use pgraft_core::primary_view::PrimaryView;
use std::time::Duration;

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct RouteFacts<'a> {
    /// This node.
    pub me: NodeId,
    /// The latest primary view that any member has reported.
    pub primary_view: Option<&'a PrimaryView>,
    /// `pgraft.failover`. Without it no primary is fenced.
    pub failover: bool,
    /// How long this node's gate has been closed, or its member silent; `None` while the gate is
    /// open.
    pub closed_for: Option<Duration>,
    /// The lease timeout.
    pub lease: Duration,
}

/// The primary of one epoch. In the next epoch it is a different primary, even on the same server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryServer {
    /// Its epoch.
    pub epoch: u64,
    /// Its node.
    pub node: NodeId,
    /// The host of its Postgres server.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Where a client goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this primary.
    To(PrimaryServer),
    /// Nowhere yet: the client is held.
    Wait(WaitCause),
}

/// Why a client is held. The text completes the message of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitCause {
    /// No member has reported a primary view yet.
    #[error("no member of the cluster answers")]
    NoAnswer,
    /// There is no primary yet, or it is not ready.
    #[error("the primary is changing")]
    Changing,
    /// The primary has not registered the address of its server.
    #[error("the primary has not registered its address yet")]
    NoAddress,
    /// This node is the primary and has no lease, or its member is silent.
    #[error("the primary has no lease from a majority of the members")]
    Fenced,
    /// The primary's server does not accept the connection.
    #[error("the primary does not accept connections")]
    Refused,
    /// The primary's server answers with SQLSTATE 57P03.
    #[error("the primary is starting up, in recovery, or shutting down")]
    NotNow,
}

/// Where a client goes now.
pub fn route(facts: &RouteFacts) -> Route {
    let Some(primary_view) = facts.primary_view else {
        return Route::Wait(WaitCause::NoAnswer);
    };
    if !primary_view.settled {
        return Route::Wait(WaitCause::Changing);
    }
    if facts.failover && primary_view.primary == facts.me && facts.closed_for.is_some() {
        return Route::Wait(WaitCause::Fenced);
    }
    primary_view.postgres.as_ref().map_or(Route::Wait(WaitCause::NoAddress), |at| {
        Route::To(PrimaryServer {
            epoch: primary_view.epoch,
            node: primary_view.primary,
            host: at.host().to_owned(),
            port: at.port(),
        })
    })
}

/// Whether a client of that primary must leave: it is no longer the primary, or has been fenced for
/// a lease timeout. (In a switchover the gate closes for a moment, too, while the last commits are
/// confirmed.)
pub fn is_over(target: &PrimaryServer, facts: &RouteFacts) -> bool {
    let replaced = facts.primary_view.is_some_and(|primary_view| primary_view.epoch > target.epoch);
    let fenced = facts.failover
        && target.node == facts.me
        && facts.closed_for.is_some_and(|time| time >= facts.lease);
    replaced || fenced
}

/// The later of two primary views. A view of another cluster counts only if this node's own member
/// reports it.
pub fn merged(
    known: Option<PrimaryView>,
    reported: PrimaryView,
    by_own_member: bool,
) -> PrimaryView {
    match known {
        None => reported,
        Some(known) if known.cluster_id != reported.cluster_id => {
            if by_own_member {
                reported
            } else {
                known
            }
        }
        Some(known) => {
            // The member may know more than its log contains: that the primary has ended.
            let updated = by_own_member && !known.is_later_than(&reported);
            if updated || reported.is_later_than(&known) { reported } else { known }
        }
    }
}

#[cfg(test)]
mod tests;
