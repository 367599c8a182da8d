//! Who is the primary, as far as anybody has told, and whether the own member answers: shared by
//! all connections, which hear of every change.

use pgraft_core::NodeId;
use pgraft_core::primary_view::{PrimaryUpdate, PrimaryView};
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::route::{self, RouteFacts};

/// What is known, and by whom it is seen.
pub struct Knowledge {
    now: watch::Sender<GatewayKnowledge>,
    lease: Duration,
}

/// What is known.
#[derive(Debug, Clone)]
pub struct GatewayKnowledge {
    /// The latest word.
    pub primary_view: Option<PrimaryView>,
    /// Whether the own member answers.
    pub answered: bool,
    /// Since when the own gate is closed, or the member silent.
    closed_since: Option<Instant>,
    /// Whether that is so for a lease time.
    closed_for_long: bool,
}

impl GatewayKnowledge {
    /// For [`route`].
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
    /// Nobody has said anything.
    pub fn new(lease: Duration) -> Self {
        let nothing = GatewayKnowledge {
            primary_view: None,
            answered: false,
            closed_since: Some(Instant::now()),
            closed_for_long: false,
        };
        Self { now: watch::channel(nothing).0, lease }
    }

    /// To hear of changes.
    pub fn subscribe(&self) -> watch::Receiver<GatewayKnowledge> {
        self.now.subscribe()
    }

    /// The latest word.
    pub fn primary_view(&self) -> Option<PrimaryView> {
        self.now.borrow().primary_view.clone()
    }

    /// Whether the own member answers.
    pub fn answered(&self) -> bool {
        self.now.borrow().answered
    }

    /// The own member says something.
    pub fn update(&self, news: PrimaryUpdate) {
        let open = news.gate == Some(true);
        self.change(|known| {
            known.answered = true;
            if let Some(primary_view) = news.primary_view {
                known.primary_view =
                    Some(route::merged(known.primary_view.take(), primary_view, true));
            }
            known.closed_since =
                if open { None } else { known.closed_since.or_else(|| Some(Instant::now())) };
        });
    }

    /// It does not answer.
    pub fn silent(&self) {
        self.change(|known| {
            known.answered = false;
            known.closed_since.get_or_insert_with(Instant::now);
        });
    }

    /// Another node's gateway says something.
    pub fn heard(&self, primary_view: PrimaryView) {
        self.change(|known| {
            known.primary_view =
                Some(route::merged(known.primary_view.take(), primary_view, false));
        });
    }

    /// Whoever waits is woken only by what may matter to him: not by every entry of the log.
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
