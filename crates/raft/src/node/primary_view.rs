//! Tells the instance manager which server is the primary, and at once if that changes: its gateway
//! routes clients there.

use std::time::Duration;

use pgraft_core::failover::Phase;
use pgraft_core::primary_view::{PrimaryUpdate, PrimaryView};
use tokio::time::{Instant, sleep_until};

use super::NodeShared;

/// How long a question waits for a change. The answer after that is a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// How often a primary checks its open gate, which closes by itself when the lease ends.
const OPEN_POLL: Duration = Duration::from_millis(250);
/// How often it checks its closed gate: clients wait for it.
const CLOSED_POLL: Duration = Duration::from_millis(5);

/// Answers as soon as there is something that is not in `known` already.
pub async fn primary_update(node: &NodeShared, known: Option<PrimaryUpdate>) -> PrimaryUpdate {
    let until = Instant::now() + KEEPALIVE;
    let mut applied = node.applied.clone();
    let mut ended = node.failover.as_ref().map(|failover| failover.voter.ended());
    loop {
        applied.borrow_and_update();
        if let Some(ended) = &mut ended {
            ended.borrow_and_update();
        }
        let update = primary_view(node);
        let now = Instant::now();
        if now >= until || !known.as_ref().is_some_and(|known| update.says_the_same_as(known)) {
            return update;
        }
        let run_ended = async {
            match &mut ended {
                Some(ended) => drop(ended.changed().await),
                None => std::future::pending().await,
            }
        };
        let pause = match update.gate {
            None => KEEPALIVE,
            Some(true) => OPEN_POLL,
            Some(false) => CLOSED_POLL,
        };
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            changed = applied.changed() => if changed.is_err() { return update },
            () = run_ended => {}
            () = sleep_until(until.min(now + pause)) => {}
        }
    }
}

fn primary_view(node: &NodeShared) -> PrimaryUpdate {
    let applied = node.applied.borrow().clone();
    let state = &applied.cluster;
    let is_primary = state
        .primary_term
        .as_ref()
        .is_some_and(|term| term.phase == Phase::Steady && term.primary == node.settings.node_id);
    let failover = node.failover.as_ref();
    let gate = failover
        .filter(|_| is_primary)
        .map(|failover| failover.primary.open_until(&state.electorate()).is_some());
    let mut primary_view = PrimaryView::of(state, applied.last_applied.map_or(0, |id| id.index));
    if let (Some(primary_view), Some(failover)) = (&mut primary_view, failover) {
        // Its server may be starting again and would accept clients, but the group has not chosen
        // the next primary yet.
        primary_view.settled &= !failover.voter.primary_run_ended_in(primary_view.epoch);
    }
    PrimaryUpdate { primary_view, gate }
}
