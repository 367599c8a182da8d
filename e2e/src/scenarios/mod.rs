//! The scenarios, one file each.

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

use crate::scenario::{ClusterPlacement, Scenario};

/// All scenarios, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "ca-takeover",
        place: ClusterPlacement::OnRequest,
        body: |c| Box::pin(ca_takeover::run(c)),
    },
    Scenario {
        name: "quickstart",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(quickstart::run(c)),
    },
    Scenario {
        name: "refusals",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(refusals::run(c)),
    },
    Scenario {
        name: "scaling-delete",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(scaling::run(c, scaling::Policy::Delete)),
    },
    Scenario {
        name: "scaling-retain",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(scaling::run(c, scaling::Policy::Retain)),
    },
    Scenario {
        name: "bad-specs",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(bad_specs::run(c)),
    },
    Scenario {
        name: "everyday-mistakes",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(everyday_mistakes::run(c)),
    },
    Scenario {
        name: "leader-lost",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(leader_lost::run(c)),
    },
    Scenario {
        name: "partition",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(partition::run(c)),
    },
    Scenario { name: "tls", place: ClusterPlacement::Shared, body: |c| Box::pin(tls::run(c)) },
    Scenario {
        name: "lost-disk",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(lost_disk::run(c)),
    },
    Scenario {
        name: "rolling-restart",
        place: ClusterPlacement::Shared,
        body: |c| Box::pin(rolling_restart::run(c)),
    },
    Scenario {
        name: "two-operators",
        place: ClusterPlacement::Alone,
        body: |c| Box::pin(two_operators::run(c)),
    },
    Scenario {
        name: "operator-killed",
        place: ClusterPlacement::Alone,
        body: |c| Box::pin(operator_killed::run(c)),
    },
    Scenario {
        name: "recovery",
        place: ClusterPlacement::Alone,
        body: |c| Box::pin(recovery::run(c)),
    },
    Scenario {
        name: "failover",
        place: ClusterPlacement::Alone,
        body: |c| Box::pin(failover::run(c)),
    },
    Scenario {
        name: "failover-rw",
        place: ClusterPlacement::Alone,
        body: |c| Box::pin(failover_rw::run(c)),
    },
    Scenario {
        name: "switchover",
        place: ClusterPlacement::Alone,
        body: |c| Box::pin(switchover::run(c)),
    },
    Scenario { name: "speed", place: ClusterPlacement::Alone, body: |c| Box::pin(speed::run(c)) },
];
