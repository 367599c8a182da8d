//! Stops a primary whose worker does not answer. It confirms nothing any more, since its gate closes
//! when the lease expires, and a restart brings it back as a standby with a worker. The decision is
//! pure.

use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::control;
use crate::paths;
use crate::supervisor::SupervisorEvent;
use crate::view::MemberView;

/// How many consecutive requests must be unanswered. They are one lease timeout apart.
const MAX_UNANSWERED: u32 = 3;

/// Observations of a running server and its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WatchdogFacts {
    /// The worker has answered since the server started. Before that it may be starting, or waiting
    /// for a person's action.
    answered: bool,
    /// Unanswered requests since then. A count is used and not a time: if this process was stopped
    /// as well, only one more request is unanswered.
    unanswered: u32,
    /// The server is not a standby.
    primary: bool,
}

const fn must_stop(facts: WatchdogFacts) -> bool {
    let WatchdogFacts { answered, unanswered, primary } = facts;
    answered && primary && unanswered >= MAX_UNANSWERED
}

/// Checks until it is aborted when the server has ended.
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
        if must_stop(facts) {
            tracing::error!(
                seconds = (settings.lease * facts.unanswered).as_secs(),
                "the pgraft worker of this primary does not answer; stopping Postgres"
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
    fn only_a_primary_whose_worker_answered_once_is_stopped() {
        let all = [false, true]
            .into_iter()
            .flat_map(|answered| [false, true].map(|primary| (answered, primary)));
        for (answered, primary) in all {
            for unanswered in 0..10 {
                assert_eq!(
                    must_stop(WatchdogFacts { answered, unanswered, primary }),
                    answered && primary && unanswered > 2
                );
            }
        }
    }
}
