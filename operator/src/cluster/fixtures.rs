//! For tests: a cluster as it is wanted, and a world in which all is well.

use jiff::Timestamp;
use pgraft_core::failover::{LastFailover, Phase, TermEndReason};
use pgraft_core::status::WalPosition;
use pgraft_core::{Address, ClusterId, NodeId, Role};
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

use super::plan::wanted_secrets;
use super::render::{objects, template};
use super::validate::{Defaults, validate};
use crate::cluster::observe::group::{FailoverSeen, GroupView, MemberSeen};
use crate::cluster::observe::observed::{
    ObjectSeen, Observed, Owned, PodPhase, PodSeen, SecretSeen, VolumeSeen,
};
use crate::cluster::plan::failures::Failures;
use crate::cluster::spec::ClusterSpec;
use pgraft_api::cluster::PgRaftCluster;
use pgraft_api::names::{self, PodRole};

pub fn id(n: u32) -> NodeId {
    NodeId::new(i64::from(n)).unwrap()
}

pub fn cluster_id() -> ClusterId {
    ClusterId(Uuid::from_u128(7))
}

/// A PgRaftCluster `demo` in `default` with this spec.
pub fn cr(spec: &serde_json::Value) -> PgRaftCluster {
    let object = json!({
        "apiVersion": "pgraft.io/v1alpha1", "kind": "PgRaftCluster",
        "metadata": {"name": "demo", "namespace": "default", "uid": "uid-of-demo", "generation": 1}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

pub fn parsed(spec: &serde_json::Value) -> ClusterSpec {
    validate(&cr(spec), &Defaults { image: "pgraft/postgres:test".into() }).unwrap()
}

pub fn wanted(replicas: usize) -> ClusterSpec {
    parsed(&json!({"replicas": replicas, "storage": {"size": "1Gi"}}))
}

/// As [`wanted`], with members that choose their primary.
pub fn with_failover(replicas: usize) -> ClusterSpec {
    parsed(
        &json!({"replicas": replicas, "storage": {"size": "1Gi"}, "failover": {"enabled": true}}),
    )
}

/// All is well with the primary, which has not changed yet.
pub fn first_primary_term() -> FailoverSeen {
    FailoverSeen { phase: Phase::Steady, epoch: 1, waits_for: Vec::new(), last: None }
}

/// The primary was another one until this epoch.
pub fn changed(epoch: u64, from: u32, to: u32, reason: TermEndReason) -> FailoverSeen {
    let began_ms = 1_767_322_000_000;
    let last = LastFailover {
        epoch,
        from: id(from),
        to: Some(id(to)),
        reason,
        began_ms,
        ended_ms: Some(began_ms + 812),
    };
    FailoverSeen { epoch, last: Some(last), ..first_primary_term() }
}

pub fn member(n: u32, role: Role) -> MemberSeen {
    let address = Address::new(&names::host("demo", "default", id(n)), 7001).unwrap();
    MemberSeen {
        id: id(n),
        address,
        role,
        reachable: Some(true),
        last_contact: None,
        wal: Some(WalPosition { timeline: 1, lsn: 0x0300_0148 }),
        lag_bytes: Some(0),
    }
}

pub fn group(members: &[MemberSeen], next_node_id: u32) -> GroupView {
    let available =
        members.iter().filter(|m| m.role == Role::Voter && m.reachable == Some(true)).count();
    let mut group = GroupView {
        cluster_id: cluster_id(),
        term: 1,
        leader: Some(id(1)),
        primary: Some(id(1)),
        failover: None,
        next_node_id,
        members: members.to_vec(),
        authoritative: false,
        available,
        foreign: Vec::new(),
        silent: Vec::new(),
    };
    group.authoritative = available >= group.required();
    group
}

pub fn pod(primary: bool) -> PodSeen {
    PodSeen {
        uid: "uid-of-pod".into(),
        phase: PodPhase::Ready,
        terminating: false,
        ip: Some("198.18.0.1".parse().unwrap()),
        role: Some(if primary { PodRole::Primary } else { PodRole::Replica }),
        routed: Some(true),
        template: None,
        configuration: None,
        outdated: false,
        owned: Owned::Yes,
    }
}

pub fn volume() -> VolumeSeen {
    VolumeSeen {
        uid: "uid-of-volume".into(),
        terminating: false,
        retired: false,
        requested: 1 << 30,
        capacity: 1 << 30,
        owned: Owned::No,
    }
}

pub fn secret() -> SecretSeen {
    SecretSeen { uid: "uid-of-secret".into(), owned: Owned::No }
}

/// Nothing at all.
pub fn empty() -> Observed {
    Observed {
        now: "2026-01-02T03:04:05Z".parse::<Timestamp>().unwrap(),
        pods: BTreeMap::new(),
        unready: BTreeMap::new(),
        volumes: BTreeMap::new(),
        objects: BTreeMap::new(),
        secrets: BTreeMap::new(),
        tls: None,
        group: None,
        known: None,
        switched_to: None,
        switchover_attempt: None,
        away: BTreeMap::new(),
        configurations: BTreeMap::new(),
        failing: Failures::default(),
    }
}

/// Voters 1 to `members` with their pods and volumes, and all objects as `want` has them.
pub fn healthy(want: &ClusterSpec, members: u32) -> Observed {
    let all: Vec<MemberSeen> = (1..=members).map(|n| member(n, Role::Voter)).collect();
    let mut seen = empty();
    seen.pods = (1..=members).map(|n| (id(n), pod(n == 1))).collect();
    seen.volumes = (1..=members).map(|n| (id(n), volume())).collect();
    seen.group = Some(group(&all, members + 1));
    seen.known = Some(cluster_id());
    if let Some(group) = seen.group.as_mut().filter(|_| want.lease_timeout.is_some()) {
        group.failover = Some(first_primary_term());
    }
    settle(want, &mut seen);
    seen
}

/// Secrets, objects and pods as they should be.
pub fn settle(want: &ClusterSpec, seen: &mut Observed) {
    seen.secrets = wanted_secrets(want).map(|kind| (kind, secret())).collect();
    seen.pods.values_mut().for_each(|pod| pod.template = Some(template(want)));
    let members = seen.group.as_ref().map_or(0, |g| g.members.len());
    seen.objects = objects(want, members)
        .iter()
        .map(|o| (o.key(), ObjectSeen::AsApplied(o.fingerprint())))
        .collect();
}
