//! The scenarios, one file each, readable from top to bottom.

mod bad_specs;
mod failover;
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
mod tls;
mod two_operators;

use crate::scenario::Scenario;

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario { name: "quickstart", alone: false, body: |c| Box::pin(quickstart::run(c)) },
    Scenario { name: "refusals", alone: false, body: |c| Box::pin(refusals::run(c)) },
    Scenario { name: "scaling-delete", alone: false, body: |c| Box::pin(scaling::run(c, scaling::Policy::Delete)) },
    Scenario { name: "scaling-retain", alone: false, body: |c| Box::pin(scaling::run(c, scaling::Policy::Retain)) },
    Scenario { name: "bad-specs", alone: false, body: |c| Box::pin(bad_specs::run(c)) },
    Scenario { name: "leader-lost", alone: false, body: |c| Box::pin(leader_lost::run(c)) },
    Scenario { name: "partition", alone: false, body: |c| Box::pin(partition::run(c)) },
    Scenario { name: "tls", alone: false, body: |c| Box::pin(tls::run(c)) },
    Scenario { name: "lost-disk", alone: false, body: |c| Box::pin(lost_disk::run(c)) },
    Scenario { name: "rolling-restart", alone: false, body: |c| Box::pin(rolling_restart::run(c)) },
    Scenario { name: "two-operators", alone: true, body: |c| Box::pin(two_operators::run(c)) },
    Scenario { name: "operator-killed", alone: true, body: |c| Box::pin(operator_killed::run(c)) },
    Scenario { name: "recovery", alone: true, body: |c| Box::pin(recovery::run(c)) },
    Scenario { name: "failover", alone: true, body: |c| Box::pin(failover::run(c)) },
    Scenario { name: "speed", alone: true, body: |c| Box::pin(speed::run(c)) },
];
