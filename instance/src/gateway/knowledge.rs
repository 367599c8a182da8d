//! The latest primary view that any member has reported, and whether this node's member answers.
//! All connections share it and are woken when it changes.

use pgraft_core::NodeId;
use pgraft_core::primary_view::{PrimaryUpdate, PrimaryView};
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::route::{self, RouteFacts};

/// The knowledge of one gateway.
pub struct Knowledge {
    now: watch::Sender<GatewayKnowledge>,
    lease: Duration,
}

/// A snapshot of it.
#[derive(Debug, Clone)]
pub struct GatewayKnowledge {
    /// The latest primary view.
    pub primary_view: Option<PrimaryView>,
    /// Whether this node's member answers.
    pub member_answers: bool,
    /// Since when this node's gate has been closed, or its member silent.
    closed_since: Option<Instant>,
    /// Whether that has lasted for a lease timeout.
    closed_for_long: bool,
}

impl GatewayKnowledge {
    /// The facts for [`route`].
    pub fn facts(&self, me: NodeId, failover: bool, lease: Duration) -> RouteFacts<'_> {
        RouteFacts {
            me,
            primary_view: self.primary_view.as_ref(),
            failover,
            closed_for: self.closed_since.map(|since| since.elapsed()),
            lease,
        }
    }
}

impl Knowledge {
    /// Knows no primary yet.
    pub fn new(lease: Duration) -> Self {
        let nothing = GatewayKnowledge {
            primary_view: None,
            member_answers: false,
            closed_since: Some(Instant::now()),
            closed_for_long: false,
        };
        Self { now: watch::channel(nothing).0, lease }
    }

    /// A receiver that is notified of changes.
    pub fn subscribe(&self) -> watch::Receiver<GatewayKnowledge> {
        self.now.subscribe()
    }

    /// The latest primary view.
    pub fn primary_view(&self) -> Option<PrimaryView> {
        self.now.borrow().primary_view.clone()
    }

    /// Whether this node's member answers.
    pub fn member_answers(&self) -> bool {
        self.now.borrow().member_answers
    }

    /// Takes an answer of this node's member into account.
    pub fn update(&self, update: PrimaryUpdate) {
        let open = update.gate == Some(true);
        self.change(|known| {
            known.member_answers = true;
            if let Some(primary_view) = update.primary_view {
                known.primary_view =
                    Some(route::merged(known.primary_view.take(), primary_view, true));
            }
            known.closed_since =
                if open { None } else { known.closed_since.or_else(|| Some(Instant::now())) };
        });
    }

    /// This node's member does not answer.
    pub fn member_is_silent(&self) {
        self.change(|known| {
            known.member_answers = false;
            known.closed_since.get_or_insert_with(Instant::now);
        });
    }

    /// Takes the primary view of another node's gateway into account.
    pub fn merge(&self, primary_view: PrimaryView) {
        self.change(|known| {
            known.primary_view =
                Some(route::merged(known.primary_view.take(), primary_view, false));
        });
    }

    /// Notifies the receivers only of changes that can affect a route, not of every log entry.
    fn change(&self, change: impl FnOnce(&mut GatewayKnowledge)) {
        self.now.send_if_modified(|known| {
            let before =
                (known.primary_view.clone(), known.closed_since.is_some(), known.closed_for_long);
            change(known);
            known.closed_for_long =
                known.closed_since.is_some_and(|since| since.elapsed() >= self.lease);
            let same_primary_view = match (&before.0, &known.primary_view) {
                (Some(old), Some(new)) => new.says_the_same_as(old),
                (old, new) => old.is_none() && new.is_none(),
            };
            !same_primary_view
                || (before.1, before.2) != (known.closed_since.is_some(), known.closed_for_long)
        });
    }
}
