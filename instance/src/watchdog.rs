//! Ends a primary whose worker does not answer: nothing is confirmed there any more, since the gate
//! closes by itself when the lease is over, and a new start brings the server back as a standby
//! that somebody listens for. The decision is pure.

use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::control;
use crate::paths;
use crate::supervisor::SupervisorEvent;
use crate::view::MemberView;

/// So many questions in a row without an answer, each a lease time apart.
const UNANSWERED: u32 = 3;

/// What was seen of a running server and its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WatchdogFacts {
    /// The worker has answered since the server's start: before that it may still be starting, or
    /// be kept from it by what a person must mend.
    answered: bool,
    /// Questions without an answer since then. Counted, not timed: where all of this was stopped
    /// for a while, only one more is unanswered.
    unanswered: u32,
    /// The server is no standby.
    primary: bool,
}

const fn bites(facts: WatchdogFacts) -> bool {
    let WatchdogFacts { answered, unanswered, primary } = facts;
    answered && primary && unanswered >= UNANSWERED
}

/// Asks until it is aborted, which is when the server is gone.
pub async fn run(
    view: watch::Receiver<MemberView>,
    events: mpsc::UnboundedSender<SupervisorEvent>,
) {
    let settings = Arc::clone(&view.borrow().settings);
    if !settings.failover {
        return;
    }
    let mut facts = WatchdogFacts { answered: false, unanswered: 0, primary: false };
    loop {
        let next = Instant::now() + settings.lease;
        match control::status(&settings.paths.control_socket(), settings.lease).await {
            Ok(_) => facts = WatchdogFacts { answered: true, unanswered: 0, primary: false },
            Err(_) => facts.unanswered += 1,
        }
        // Postgres removes the file when a promotion is complete.
        facts.primary = !paths::standby_signal(&settings.paths.data).exists();
        if bites(facts) {
            tracing::error!(
                seconds = (settings.lease * facts.unanswered).as_secs(),
                "the worker of this primary does not answer: the server is ended"
            );
            let _ = events.send(SupervisorEvent::WorkerSilent);
            facts.answered = false;
        }
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_primary_that_answered_once_is_bitten() {
        let all = [false, true]
            .into_iter()
            .flat_map(|answered| [false, true].map(|primary| (answered, primary)));
        for (answered, primary) in all {
            for unanswered in 0..10 {
                assert_eq!(
                    bites(WatchdogFacts { answered, unanswered, primary }),
                    answered && primary && unanswered > 2
                );
            }
        }
    }
}
