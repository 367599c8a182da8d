//! What is said about each cluster, from its status as it is at the scrape.

use kube::ResourceExt;
use kube::runtime::reflector::Store;
use pgraft_core::Role;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

use crate::cluster::Context;
use pgraft_api::cluster::{PgRaftCluster, PgRaftClusterStatus};

/// All clusters that are watched.
pub struct Clusters {
    /// They.
    pub store: Store<PgRaftCluster>,
    /// What is remembered of them.
    pub context: Arc<Context>,
}

impl fmt::Debug for Clusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clusters").finish_non_exhaustive()
    }
}

/// One sample: the label besides namespace and cluster, and the value.
type ClusterSample = (Option<(&'static str, String)>, i64);

/// A gauge: name, help, and what it reads from a cluster.
type ClusterFigure =
    (&'static str, &'static str, fn(&PgRaftCluster, &PgRaftClusterStatus) -> Vec<ClusterSample>);

const FIGURES: &[ClusterFigure] = &[
    ("replicas_desired", "Members that are wanted", |cr, _| one(cr.spec.replicas)),
    ("replicas_ready", "Members that count and whose pod is ready", |_, s| one(s.ready_replicas)),
    ("members", "Members of the Raft group, by role", |_, s| {
        let of = |role: Role| {
            i64::try_from(s.members.iter().filter(|m| m.role == role).count()).unwrap_or(i64::MAX)
        };
        [Role::Voter, Role::Learner, Role::Leaving]
            .into_iter()
            .map(|role| (Some(("role", role.to_string())), of(role)))
            .collect()
    }),
    ("quorum_voters_required", "Voters that must agree to a change", |_, s| {
        s.quorum.as_ref().map_or_else(Vec::new, |q| one(q.required))
    }),
    ("quorum_voters_available", "Voters that answer", |_, s| {
        s.quorum.as_ref().map_or_else(Vec::new, |q| one(q.available))
    }),
    ("leader_node_id", "The Raft leader's node id; absent where none is known", |_, s| {
        s.members.iter().filter(|m| m.leader).map(|m| (None, m.id)).take(1).collect()
    }),
    (
        "primary_node_id",
        "The node id of the member that takes writes; absent where none is known",
        |_, s| s.members.iter().filter(|m| m.primary).map(|m| (None, m.id)).take(1).collect(),
    ),
    ("term", "Raft's term", |_, s| s.term.map(|term| (None, term)).into_iter().collect()),
    (
        "condition",
        "1 where the condition is True, 0 where it is False, -1 where it is Unknown",
        |_, s| {
            let value = |status: &str| match status {
                "True" => 1,
                "False" => 0,
                _ => -1,
            };
            s.conditions
                .iter()
                .map(|c| (Some(("type", c.type_.clone())), value(&c.status)))
                .collect()
        },
    ),
    (
        "member_lag_bytes",
        "Bytes of WAL that the primary has and a member has not, as the leader last heard",
        |_, s| {
            s.members
                .iter()
                .filter_map(|m| Some((Some(("node", m.id.to_string())), m.lag_bytes?)))
                .collect()
        },
    ),
];

fn one(value: i32) -> Vec<ClusterSample> {
    vec![(None, i64::from(value))]
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = self.store.state();
        all.sort_by_cached_key(|cr| (cr.namespace(), cr.name_any()));
        let nothing = PgRaftClusterStatus::default();
        for (name, help, read) in FIGURES {
            let name = format!("pgraft_cluster_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for cr in &all {
                for (label, value) in read(cr, cr.status.as_ref().unwrap_or(&nothing)) {
                    ConstGauge::new(value).encode(metric.encode_family(&labels(cr, label))?)?;
                }
            }
        }
        let help = "How often this operator has seen another member come to lead";
        let mut metric = encoder.encode_descriptor(
            "pgraft_cluster_leader_changes",
            help,
            None,
            MetricType::Counter,
        )?;
        for cr in &all {
            let changes = self.context.memories.leader_changes(&cr.uid().unwrap_or_default());
            ConstCounter::new(changes).encode(metric.encode_family(&labels(cr, None))?)?;
        }
        Ok(())
    }
}

fn labels(cr: &PgRaftCluster, more: Option<(&'static str, String)>) -> Vec<(&'static str, String)> {
    let own = [("namespace", cr.namespace().unwrap_or_default()), ("cluster", cr.name_any())];
    own.into_iter().chain(more).collect()
}

#[cfg(test)]
mod tests;
