//! Puts together what a member knows: a pure function of Raft's metrics, the applied state and the
//! last probes.

use std::collections::BTreeMap;

use openraft::{Instant as _, RaftMetrics, ServerState};
use pgraft_core::membership::majority;
use pgraft_core::status::WalProgress;
use pgraft_core::{ClusterId, MemberStatus, NodeId, NodeState, NodeStatus, Role};

use crate::store::AppliedState;
use crate::types::{TypeConfig, core_membership, node_id};

/// Milliseconds after which a silent member counts as unreachable, in election timeouts.
const SILENT_AFTER_TIMEOUTS: u64 = 2;

/// Raft's metrics, as far as a status needs them.
#[derive(Debug, Clone, PartialEq)]
pub struct RaftFacts {
    pub term: u64,
    pub state: ServerState,
    pub leader: Option<NodeId>,
    pub commit_index: u64,
    /// Leader only: the last index that each member has on disk.
    pub matched: BTreeMap<NodeId, u64>,
    /// Leader only: milliseconds since each member last acknowledged.
    pub acked_ms: BTreeMap<NodeId, u64>,
    /// Milliseconds since the leader was sure of its lead: heard by a follower, confirmed by a
    /// majority for the leader itself.
    pub contact_ms: Option<u64>,
    pub election_timeout_ms: u64,
}

/// What a probe of one member has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeFacts {
    pub age_ms: u64,
    pub wal: Option<WalProgress>,
}

/// The status of a member that has not looked around yet.
pub fn unknown(me: NodeId) -> NodeStatus {
    NodeStatus {
        node_id: me,
        cluster_id: None,
        state: NodeState::Uninitialized,
        term: 0,
        leader: None,
        epoch: 0,
        primary: None,
        commit_index: 0,
        applied_index: 0,
        voters: 0,
        quorum: 0,
        next_node_id: 1,
        failover: None,
        members: Vec::new(),
    }
}

/// The status. `own_wal` is this server's own position, `cluster` the one that its directory
/// belongs to.
pub fn compose(
    me: NodeId,
    cluster: Option<ClusterId>,
    raft: &RaftFacts,
    applied: &AppliedState,
    probes: &BTreeMap<NodeId, ProbeFacts>,
    own_wal: Option<WalProgress>,
) -> NodeStatus {
    let state = &applied.cluster;
    let silent_after = raft.election_timeout_ms.saturating_mul(SILENT_AFTER_TIMEOUTS);
    let leading = raft.state == ServerState::Leader;
    // A leader that no majority confirms, and one that a follower no longer hears, is none: its
    // next command would not be committed.
    let leader = raft.leader.filter(|_| raft.contact_ms.is_some_and(|age| age <= silent_after));
    let wal_of = |id: NodeId| if id == me { own_wal } else { probes.get(&id).and_then(|p| p.wal) };
    let primary_wal = state.primary().and_then(wal_of);
    let members = state
        .members
        .iter()
        .map(|(&id, member)| {
            let heard = [raft.acked_ms.get(&id).copied(), probes.get(&id).map(|p| p.age_ms)]
                .into_iter()
                .flatten()
                .min();
            let last_contact_ms = if id == me { Some(0) } else { heard };
            let wal = wal_of(id);
            MemberStatus {
                node_id: id,
                address: member.address.clone(),
                role: member.role,
                is_leader: leader == Some(id),
                is_primary: state.primary() == Some(id),
                postgres: member.info.as_ref().map(|t| t.postgres.clone()),
                zone: member.info.as_ref().map(|t| t.zone.clone()).unwrap_or_default(),
                reachable: leading.then(|| last_contact_ms.is_some_and(|age| age <= silent_after)),
                last_contact_ms: last_contact_ms.filter(|_| leading),
                match_index: raft.matched.get(&id).copied().filter(|_| leading),
                wal: wal.filter(|_| leading).map(|w| w.end),
                lag_bytes: primary_wal
                    .zip(wal)
                    .filter(|_| leading)
                    .map(|(p, w)| w.lacks(p.end.lsn)),
            }
        })
        .collect();
    let voters = state.members.values().filter(|m| m.role == Role::Voter).count();
    NodeStatus {
        node_id: me,
        cluster_id: state.cluster.and(cluster),
        state: node_state(me, raft, applied),
        term: raft.term,
        leader,
        epoch: state.epoch(),
        primary: state.primary(),
        commit_index: raft.commit_index,
        applied_index: applied.last_applied.map_or(0, |id| id.index),
        voters,
        quorum: if voters == 0 { 0 } else { majority(voters) },
        next_node_id: state.next_node_id(),
        failover: None,
        members,
    }
}

fn node_state(me: NodeId, raft: &RaftFacts, applied: &AppliedState) -> NodeState {
    let state = &applied.cluster;
    let member = state.members.get(&me);
    let out = member.is_some_and(|m| m.role == Role::Leaving)
        && !core_membership(&applied.membership).contains(me);
    if state.retired.contains(&me) || out {
        return NodeState::Removed;
    }
    if state.cluster.is_none() {
        return NodeState::Uninitialized;
    }
    match raft.state {
        ServerState::Leader => NodeState::Leader,
        ServerState::Candidate => NodeState::Candidate,
        ServerState::Follower => NodeState::Follower,
        _ => NodeState::Learner,
    }
}

/// Takes the facts out of openraft's metrics. `heard_ms` is a follower's own knowledge of its
/// leader.
pub fn raft_facts(
    metrics: &RaftMetrics<TypeConfig>,
    heard_ms: Option<u64>,
    election_timeout_ms: u64,
) -> RaftFacts {
    let leading = metrics.state == ServerState::Leader;
    let alone = metrics.membership_config.voter_ids().count() == 1;
    let confirmed_ms =
        || if alone { Some(0) } else { metrics.last_quorum_acked.map(|at| ms(at.elapsed())) };
    let matched = metrics
        .replication
        .iter()
        .flatten()
        .filter_map(|(id, log)| Some((node_id(*id)?, log.as_ref().map_or(0, |l| l.index))));
    let acked = metrics
        .heartbeat
        .iter()
        .flatten()
        .filter_map(|(id, at)| Some((node_id(*id)?, ms(at.as_ref()?.elapsed()))));
    RaftFacts {
        term: metrics.current_term,
        state: metrics.state,
        leader: metrics.current_leader.and_then(node_id),
        commit_index: metrics.local_committed.map_or(0, |id| id.index),
        matched: if leading { matched.collect() } else { BTreeMap::new() },
        acked_ms: if leading { acked.collect() } else { BTreeMap::new() },
        contact_ms: if leading { confirmed_ms() } else { heard_ms },
        election_timeout_ms,
    }
}

/// Whether a member has all that is committed and answered lately: a newcomer may vote then.
pub fn caught_up(raft: &RaftFacts, me: NodeId) -> std::collections::BTreeSet<NodeId> {
    let fresh =
        |id: &NodeId| raft.acked_ms.get(id).is_some_and(|age| *age <= raft.election_timeout_ms);
    raft.matched
        .iter()
        .filter(|(id, index)| **index >= raft.commit_index && (fresh(id) || **id == me))
        .map(|(id, _)| *id)
        .collect()
}

fn ms(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgraft_core::status::WalPosition;
    use pgraft_core::{Address, Command};
    use uuid::Uuid;

    fn id(n: i64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn two_members() -> AppliedState {
        let mut applied = AppliedState::default();
        let at = |n: u32| Address::new(&format!("n{n}"), 7001).unwrap();
        applied
            .cluster
            .apply(&Command::Init { cluster: ClusterId(Uuid::nil()), node: id(1), address: at(1) })
            .unwrap();
        applied.cluster.apply(&Command::Join { node: id(2), address: at(2) }).unwrap();
        applied
    }

    fn leading() -> RaftFacts {
        RaftFacts {
            term: 3,
            state: ServerState::Leader,
            leader: Some(id(1)),
            commit_index: 9,
            matched: BTreeMap::from([(id(1), 9), (id(2), 8)]),
            acked_ms: BTreeMap::from([(id(2), 5000)]),
            contact_ms: Some(10),
            election_timeout_ms: 1000,
        }
    }

    #[test]
    fn lag_and_reachability_are_the_leaders() {
        let applied = two_members();
        let at = |lsn| Some(WalProgress::from(WalPosition { timeline: 1, lsn }));
        let probes = BTreeMap::from([(id(2), ProbeFacts { age_ms: 30, wal: at(60) })]);
        let status =
            compose(id(1), Some(ClusterId(Uuid::nil())), &leading(), &applied, &probes, at(100));
        assert_eq!(status.members[1].lag_bytes, Some(40));
        assert_eq!(
            status.members[1].reachable,
            Some(true),
            "the probe is younger than the heartbeat"
        );
        assert_eq!(status.leader, Some(id(1)));

        let paused = ProbeFacts {
            age_ms: 30,
            wal: at(100).map(|wal| WalProgress { replayed: Some(25), ..wal }),
        };
        let status =
            compose(id(1), None, &leading(), &applied, &BTreeMap::from([(id(2), paused)]), at(100));
        assert_eq!(
            status.members[1].lag_bytes,
            Some(75),
            "what it has and does not replay, it lacks"
        );

        let following = RaftFacts { state: ServerState::Follower, ..leading() };
        let status =
            compose(id(2), Some(ClusterId(Uuid::nil())), &following, &applied, &probes, at(100));
        assert_eq!((status.members[1].reachable, status.members[1].lag_bytes), (None, None));
    }

    #[test]
    fn a_leader_without_a_majority_is_no_leader() {
        let lost = RaftFacts { contact_ms: Some(2001), ..leading() };
        let status = compose(id(1), None, &lost, &two_members(), &BTreeMap::new(), None);
        assert_eq!(status.leader, None);
        assert!(status.members.iter().all(|m| !m.is_leader));
    }

    #[test]
    fn who_has_caught_up() {
        let mut facts = leading();
        assert_eq!(caught_up(&facts, id(1)), [id(1)].into());
        facts.matched.insert(id(2), 9);
        assert_eq!(caught_up(&facts, id(1)), [id(1)].into(), "it has been silent for 5 s");
        facts.acked_ms.insert(id(2), 100);
        assert_eq!(caught_up(&facts, id(1)), [id(1), id(2)].into());
    }
}
