//! The scenarios, one file each, readable from top to bottom.

mod bad_specs;
mod ca_takeover;
mod everyday_mistakes;
mod failover;
mod failover_rw;
mod leader_lost;
mod lost_disk;
mod operator_killed;
mod partition;
mod quickstart;
mod recovery;
mod refusals;
mod rolling_restart;
mod scaling;
mod speed;
mod switchover;
mod tls;
mod two_operators;

use crate::scenario::{Place, Scenario};

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "ca-takeover",
        place: Place::Throughout,
        body: |c| Box::pin(ca_takeover::run(c)),
    },
    Scenario { name: "quickstart", place: Place::Beside, body: |c| Box::pin(quickstart::run(c)) },
    Scenario { name: "refusals", place: Place::Beside, body: |c| Box::pin(refusals::run(c)) },
    Scenario {
        name: "scaling-delete",
        place: Place::Beside,
        body: |c| Box::pin(scaling::run(c, scaling::Policy::Delete)),
    },
    Scenario {
        name: "scaling-retain",
        place: Place::Beside,
        body: |c| Box::pin(scaling::run(c, scaling::Policy::Retain)),
    },
    Scenario { name: "bad-specs", place: Place::Beside, body: |c| Box::pin(bad_specs::run(c)) },
    Scenario {
        name: "everyday-mistakes",
        place: Place::Beside,
        body: |c| Box::pin(everyday_mistakes::run(c)),
    },
    Scenario { name: "leader-lost", place: Place::Beside, body: |c| Box::pin(leader_lost::run(c)) },
    Scenario { name: "partition", place: Place::Beside, body: |c| Box::pin(partition::run(c)) },
    Scenario { name: "tls", place: Place::Beside, body: |c| Box::pin(tls::run(c)) },
    Scenario { name: "lost-disk", place: Place::Beside, body: |c| Box::pin(lost_disk::run(c)) },
    Scenario {
        name: "rolling-restart",
        place: Place::Beside,
        body: |c| Box::pin(rolling_restart::run(c)),
    },
    Scenario {
        name: "two-operators",
        place: Place::Alone,
        body: |c| Box::pin(two_operators::run(c)),
    },
    Scenario {
        name: "operator-killed",
        place: Place::Alone,
        body: |c| Box::pin(operator_killed::run(c)),
    },
    Scenario { name: "recovery", place: Place::Alone, body: |c| Box::pin(recovery::run(c)) },
    Scenario { name: "failover", place: Place::Alone, body: |c| Box::pin(failover::run(c)) },
    Scenario { name: "failover-rw", place: Place::Alone, body: |c| Box::pin(failover_rw::run(c)) },
    Scenario { name: "switchover", place: Place::Alone, body: |c| Box::pin(switchover::run(c)) },
    Scenario { name: "speed", place: Place::Alone, body: |c| Box::pin(speed::run(c)) },
];
