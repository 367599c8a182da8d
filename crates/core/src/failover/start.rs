//! Whether a server starts as a primary or as a standby. The instance manager, the model of
//! `tests/failover` and the simulation call the same function.

/// How a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartMode {
    /// Without `standby.signal`: it takes writes, once its gate is open.
    Primary,
    /// With `standby.signal`.
    Standby,
}

/// The primary, according to `instance.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordedPrimary {
    /// There is no `instance.json`: this node is in no cluster yet.
    NoCluster,
    /// This node.
    ThisNode,
    /// Another node, or none.
    AnotherNode,
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StartFacts {
    /// Whether the members choose the primary.
    pub failover: bool,
    /// Whether `initdb` made this data directory for a cluster that does not exist yet.
    pub bootstrapping: bool,
    /// Whether `standby.signal` exists: the server has not been promoted since it was a standby.
    pub standby_signal: bool,
    /// The primary that the node knows of.
    pub primary: RecordedPrimary,
}

/// Decides how to start the server.
///
/// A server starts as a primary only on the bootstrap node before its cluster exists, or, without
/// failover, where `instance.json` names the node and its promotion was complete. With failover a
/// restarted server always starts as a standby: its member promotes it when the group appoints it.
pub const fn start_mode(facts: StartFacts) -> StartMode {
    let StartFacts { failover, bootstrapping, standby_signal, primary } = facts;
    match primary {
        _ if standby_signal => StartMode::Standby,
        RecordedPrimary::NoCluster if bootstrapping => StartMode::Primary,
        RecordedPrimary::ThisNode if !failover => StartMode::Primary,
        _ => StartMode::Standby,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = StartFacts> {
        let primaries =
            [RecordedPrimary::NoCluster, RecordedPrimary::ThisNode, RecordedPrimary::AnotherNode];
        (0..8u8).flat_map(move |bits| {
            primaries.into_iter().map(move |primary| StartFacts {
                failover: bits & 1 == 1,
                bootstrapping: bits >> 1 & 1 == 1,
                standby_signal: bits >> 2 & 1 == 1,
                primary,
            })
        })
    }

    #[test]
    fn with_failover_only_a_bootstrap_node_starts_as_a_primary() {
        let primaries: Vec<StartFacts> = all()
            .filter(|facts| facts.failover && start_mode(*facts) == StartMode::Primary)
            .collect();
        let bootstrap = StartFacts {
            failover: true,
            bootstrapping: true,
            standby_signal: false,
            primary: RecordedPrimary::NoCluster,
        };
        assert_eq!(primaries, [bootstrap]);
    }

    #[test]
    fn without_failover_the_recorded_primary_starts_as_one() {
        for facts in all().filter(|facts| !facts.failover) {
            let expected = match facts.primary {
                _ if facts.standby_signal => StartMode::Standby,
                RecordedPrimary::ThisNode => StartMode::Primary,
                RecordedPrimary::NoCluster if facts.bootstrapping => StartMode::Primary,
                RecordedPrimary::NoCluster | RecordedPrimary::AnotherNode => StartMode::Standby,
            };
            assert_eq!(start_mode(facts), expected, "{facts:?}");
        }
    }
}
