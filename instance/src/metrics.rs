//! `/metrics`: the values of `/status` in the OpenMetrics text format. Pure. Unknown values are left
//! out, because a zero would be misleading.

use pgraft_core::{NodeState, NodeStatus, Role as MemberRole};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use std::fmt;

use crate::gateway::counters::GatewayReading;
use crate::status::{PostgresStatus, ServerRole, Status};

/// The content type of the text that `prometheus-client` writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page.
///
/// # Errors
/// If `prometheus-client` cannot format a metric; the tests format each of them.
pub fn text(status: &Status, gateway: Option<GatewayReading>) -> Result<String, fmt::Error> {
    let mut page = MetricsPage(Registry::with_prefix("pgraft"));
    page.flag("up", "Whether Postgres answers", Some(status.postgres.in_recovery.is_some()));
    page.flag("ready", "Whether /readyz succeeds", Some(status.ready));
    page.postgres(status.role, &status.postgres);
    page.flag("raft_up", "Whether the Raft member answers", Some(status.raft.is_some()));
    if let Some(raft) = &status.raft {
        page.raft(raft);
    }
    if let Some(gateway) = gateway {
        page.gateway(gateway);
    }
    let mut out = String::new();
    text::encode(&mut out, &page.0)?;
    Ok(out)
}

struct MetricsPage(Registry);

impl MetricsPage {
    fn number(&mut self, name: &str, help: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.0.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
        }
    }

    fn flag(&mut self, name: &str, help: &str, value: Option<bool>) {
        self.number(name, help, value.map(u64::from));
    }

    fn postgres(&mut self, role: ServerRole, server: &PostgresStatus) {
        let known = server.in_recovery;
        self.flag(
            "is_primary",
            "Whether Postgres is a primary",
            known.map(|_| role == ServerRole::Primary),
        );
        self.flag("in_recovery", "Whether Postgres is a standby", known);
        self.flag(
            "streaming",
            "Whether a standby receives WAL",
            server.streaming.filter(|_| role == ServerRole::Standby),
        );
        self.number(
            "timeline",
            "Timeline of the WAL that is written or received",
            server.timeline.map(u64::from),
        );
        let end = server.flush_lsn.as_deref().or(server.receive_lsn.as_deref()).and_then(bytes);
        self.number(
            "wal_position_bytes",
            "End of the WAL that the server has flushed, in bytes",
            end,
        );
        let replayed = server.replay_lsn.as_deref().and_then(bytes);
        self.number(
            "replay_position_bytes",
            "End of the WAL that a standby has replayed, in bytes",
            replayed,
        );
        self.flag(
            "pending_restart",
            "Whether a changed setting needs a restart",
            server.pending_restart,
        );
    }

    fn gateway(&mut self, reading: GatewayReading) {
        let GatewayReading { open, held, total, cut, refused } = reading;
        self.number(
            "gateway_connections",
            "Clients of the read-write gateway that are forwarded to the primary",
            Some(open),
        );
        self.number(
            "gateway_held",
            "Clients of the read-write gateway that are held until there is a primary",
            Some(held),
        );
        let counters = [
            ("gateway_clients", "Clients that connected to the read-write gateway", total),
            ("gateway_cut", "Clients that were disconnected because the primary changed", cut),
            ("gateway_refused", "Clients that were rejected with an error", refused),
        ];
        for (name, help, value) in counters {
            self.0.register(name, help, ConstCounter::new(value));
        }
    }

    fn raft(&mut self, raft: &NodeStatus) {
        self.flag(
            "is_leader",
            "Whether this member is the Raft leader",
            Some(raft.state == NodeState::Leader),
        );
        self.flag(
            "has_leader",
            "Whether this member knows a Raft leader",
            Some(raft.leader.is_some()),
        );
        self.number("term", "Term of the Raft leader", Some(raft.term));
        self.number("epoch", "Epoch of the primary", Some(raft.epoch));
        self.number(
            "commit_index",
            "Index of the last log entry known to be committed",
            Some(raft.commit_index),
        );
        self.number(
            "applied_index",
            "Index of the last applied log entry",
            Some(raft.applied_index),
        );
        self.number("quorum", "Number of voters that must agree", u64::try_from(raft.quorum).ok());
        let roles = Family::<[(&str, &str); 1], Gauge>::default();
        for (name, role) in [
            ("voter", MemberRole::Voter),
            ("learner", MemberRole::Learner),
            ("leaving", MemberRole::Leaving),
        ] {
            let count = raft.members.iter().filter(|m| m.role == role).count();
            roles.get_or_create(&[("role", name)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.0.register("members", "Members by role, as this member sees them", roles);
        let (reachable, lag) = (
            Family::<[(&str, String); 1], Gauge>::default(),
            Family::<[(&str, String); 1], Gauge>::default(),
        );
        for member in &raft.members {
            let node = [("node", member.node_id.to_string())];
            if let Some(yes) = member.reachable {
                reachable.get_or_create(&node).set(yes.into());
            }
            if let Some(bytes) = member.lag_bytes {
                lag.get_or_create(&node).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        self.0.register(
            "member_reachable",
            "Whether the member answered recently (leader only)",
            reachable,
        );
        self.0.register(
            "member_lag_bytes",
            "Bytes of WAL that the primary has and the member has not replayed (leader only)",
            lag,
        );
    }
}

/// `16/B374D848`, as Postgres writes a position.
fn bytes(lsn: &str) -> Option<u64> {
    let (high, low) = lsn.split_once('/')?;
    Some((u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_primary_that_is_the_raft_leader() {
        let member = |id: u32, leads: bool| {
            json!({"node_id": id, "address": {"host": "h", "port": 7001}, "role": "voter", "is_leader": leads, "is_primary": leads, "postgres": null,
                "zone": "", "reachable": id < 3, "last_contact_ms": null, "match_index": null, "wal": null, "lag_bytes": if leads { 0 } else { 4096 }})
        };
        let status: Status = serde_json::from_value(json!({
            "node_id": 1, "role": "primary", "ready": true, "primary": null,
            "postgres": {"running": true, "in_recovery": false, "streaming": false, "timeline": 2, "receive_lsn": null, "flush_lsn": "1/10", "pending_restart": false},
            "raft": {"node_id": 1, "cluster_id": null, "state": "leader", "term": 7, "leader": 1, "epoch": 1, "primary": 1, "commit_index": 9,
                "applied_index": 8, "voters": 3, "quorum": 2, "next_node_id": 4, "members": [member(1, true), member(3, false)]},
        }))
        .unwrap();
        let text =
            text(&status, Some(GatewayReading { open: 5, held: 1, total: 9, cut: 2, refused: 3 }))
                .unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        for line in [
            "pgraft_up 1",
            "pgraft_is_primary 1",
            "pgraft_is_leader 1",
            "pgraft_term 7",
            "pgraft_applied_index 8",
            "pgraft_wal_position_bytes 4294967312",
            "pgraft_members{role=\"voter\"} 2",
            "pgraft_members{role=\"learner\"} 0",
            "pgraft_member_reachable{node=\"3\"} 0",
            "pgraft_member_lag_bytes{node=\"3\"} 4096",
            "pgraft_gateway_connections 5",
            "pgraft_gateway_clients_total 9",
        ] {
            assert!(samples.contains(&line), "{line}: {text}");
        }
        assert!(!text.contains("pgraft_streaming"), "a primary receives no WAL");
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        {
            assert!(
                include_str!("../../docs/monitoring.md").contains(name),
                "docs/monitoring.md does not describe {name}"
            );
        }
    }

    #[test]
    fn unknown_values_are_left_out() {
        let status = json!({"node_id": 1, "role": "starting", "ready": false, "primary": null, "raft": null,
            "postgres": {"running": false, "in_recovery": null, "streaming": null, "timeline": null, "receive_lsn": null, "flush_lsn": null, "pending_restart": null}});
        let text = text(&serde_json::from_value(status).unwrap(), None).unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, ["pgraft_up 0", "pgraft_ready 0", "pgraft_raft_up 0"]);
    }
}
