//! The defaults of all settings. The extension's settings, the instance manager's configuration
//! file, the `PgRaftCluster` and their documentation take them from here.

use std::time::Duration;

/// The port of Postgres.
pub const POSTGRES_PORT: u16 = 5432;

/// `pgraft.port`, `raft.port`: the port of the Raft member.
pub const RAFT_PORT: u16 = 7001;

/// The port of the instance manager's HTTP server in a pod.
pub const HTTP_PORT: u16 = 8008;

/// `pgraft.heartbeat_interval`, `raft.heartbeatInterval`: how often the Raft leader sends
/// heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);

/// `pgraft.election_timeout`, `raft.electionTimeout`: how long a voter waits for the leader before
/// it starts an election.
pub const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// `pgraft.lease_timeout`, `raft.leaseTimeout`: the length of the primary's lease.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// `raft.unresponsiveTimeout`: how long a server may be unresponsive before it is killed, in lease
/// timeouts.
pub const UNRESPONSIVE_LEASES: u32 = 3;

/// `pgraft.join_timeout`: how long a new node may stay unreachable before it is removed again.
pub const JOIN_TIMEOUT: Duration = Duration::from_mins(10);

/// `standby.maxLag`: how long a standby may be behind the primary and still be ready for reads.
pub const MAX_LAG: Duration = Duration::from_secs(30);

/// `gateway.holdTime`: how long a client waits for a primary before it gets an error.
pub const HOLD_TIME: Duration = Duration::from_secs(10);

/// `gateway.maxConnections`: how many clients a gateway serves at a time.
pub const MAX_CONNECTIONS: usize = 1000;

/// `bootstrap.database` and `bootstrap.owner`: the first database and the role that owns it.
pub const DATABASE: &str = "app";

/// A duration as a setting writes it: in the largest unit that needs no fraction, `200ms`, `10min`.
pub fn setting(value: Duration) -> String {
    let ms = value.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    units
        .into_iter()
        .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit))
        .map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_in_its_largest_unit() {
        let defaults = [HEARTBEAT_INTERVAL, ELECTION_TIMEOUT, LEASE_TIMEOUT, JOIN_TIMEOUT, MAX_LAG];
        assert_eq!(defaults.map(setting), ["200ms", "1s", "2s", "10min", "30s"]);
        let other = [0, 1500, 90_000, 7_200_000, 86_400_000].map(Duration::from_millis);
        assert_eq!(other.map(setting), ["0ms", "1500ms", "90s", "2h", "1d"]);
    }

    #[test]
    fn an_election_waits_for_several_heartbeats() {
        assert!(ELECTION_TIMEOUT >= 3 * HEARTBEAT_INTERVAL);
        assert!(LEASE_TIMEOUT >= ELECTION_TIMEOUT);
    }
}
