//! Tells the instance manager who is the primary, and at once when that changes: its gateway sends
//! clients there.

use std::time::Duration;

use pgraft_core::failover::Phase;
use pgraft_core::primary_view::{PrimaryUpdate, PrimaryView};
use tokio::time::{Instant, sleep_until};

use super::NodeShared;

/// How long a question waits for news. The answer then is a sign of life.
const ECHO: Duration = Duration::from_secs(1);
/// How often a primary looks at its open gate, which closes without a word when the lease ends.
const OPEN_POLL: Duration = Duration::from_millis(250);
/// How often at its closed gate: clients wait for it.
const CLOSED: Duration = Duration::from_millis(5);

impl NodeShared {
    /// Answers as soon as there is something to say that is not `heard` already.
    pub(super) async fn primary_update(&self, heard: Option<PrimaryUpdate>) -> PrimaryUpdate {
        let until = Instant::now() + ECHO;
        let mut applied = self.applied.clone();
        loop {
            applied.borrow_and_update();
            let ended = async {
                match &self.failover {
                    Some(failover) => failover.end_reported.notified().await,
                    None => std::future::pending().await,
                }
            };
            let news = self.primary_view();
            let now = Instant::now();
            if now >= until || !heard.as_ref().is_some_and(|heard| news.says_the_same_as(heard)) {
                return news;
            }
            let look = match news.gate {
                None => ECHO,
                Some(true) => OPEN_POLL,
                Some(false) => CLOSED,
            };
            tokio::select! {
                biased; // in no random order: a simulation repeats itself
                changed = applied.changed() => if changed.is_err() { return news },
                () = ended => {}
                () = sleep_until(until.min(now + look)) => {}
            }
        }
    }

    fn primary_view(&self) -> PrimaryUpdate {
        let applied = self.applied.borrow().clone();
        let state = &applied.cluster;
        let is_primary = state
            .primary_term
            .as_ref()
            .is_some_and(|r| r.phase == Phase::Steady && r.primary == self.settings.node_id);
        let gate = self
            .failover
            .as_ref()
            .filter(|_| is_primary)
            .map(|f| f.gate_is_open(&state.electorate()));
        let mut primary_view =
            PrimaryView::of(state, applied.last_applied.map_or(0, |id| id.index));
        if let (Some(primary_view), Some(failover)) = (&mut primary_view, &self.failover) {
            // Its server may be starting again, and would take clients; the group has not decided
            // yet who is next.
            primary_view.settled &= !failover.primary_run_ended_in(primary_view.epoch);
        }
        PrimaryUpdate { primary_view, gate }
    }
}
