//! Properties of the replicated state under any sequence of commands.

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Op {
    Command(Command),
    /// Raft's membership follows the state, as the leader's driver makes it.
    CommitSyncConfig,
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..12i64).prop_map(|n| NodeId::new(n).unwrap())
}

fn address() -> impl Strategy<Value = Address> {
    (1..14u16).prop_map(|n| Address::new(&format!("node-{n}"), 7001).unwrap())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (node(), address()).prop_map(|(node, address)| Op::Command(Command::Join { node, address })),
        3 => node().prop_map(|node| Op::Command(Command::Remove { node })),
        1 => node().prop_map(|node| Op::Command(Command::JoinExpired { node })),
        2 => (node(), address()).prop_map(|(node, address)| Op::Command(Command::SetAddress { node, address })),
        2 => (node(), address()).prop_map(|(node, postgres)| Op::Command(Command::Register {
            node,
            instance: InstanceId(Uuid::from_u128(u128::from(node.get()))),
            postgres,
            zone: String::new()
        })),
        1 => (node(), address()).prop_map(|(node, address)| Op::Command(Command::Init { cluster: ClusterId(Uuid::from_u128(9)), node, address })),
        4 => Just(Op::CommitSyncConfig),
    ]
}

fn settled(state: &ClusterState) -> RaftMembership {
    let staying = |role: Role| role != Role::Leaving;
    let voters: BTreeSet<_> = state
        .members
        .iter()
        .filter(|(_, m)| staying(m.role))
        .map(|(id, _)| *id)
        .take(MAX_VOTERS)
        .collect();
    let learners = state
        .members
        .iter()
        .filter(|(id, m)| staying(m.role) && !voters.contains(id))
        .map(|(id, _)| *id)
        .collect();
    RaftMembership { voters, learners, ..RaftMembership::default() }
}

fn run(ops: &[Op]) -> ClusterState {
    let mut state = ClusterState::default();
    for op in ops {
        match op {
            Op::Command(c) => {
                let before = state.clone();
                if state.apply(c).is_err() {
                    assert_eq!(state, before, "a refused command changed something");
                }
            }
            Op::CommitSyncConfig => {
                let membership = settled(&state);
                state.apply_membership(&membership);
            }
        }
    }
    state
}

proptest! {
    /// Invariant 4: whoever applies the same commands is equal.
    #[test]
    fn replicas_that_apply_the_same_are_equal(ops in prop::collection::vec(op(), 0..60)) {
        prop_assert_eq!(run(&ops), run(&ops));
    }

    /// Invariant 3: a removed id never returns.
    #[test]
    fn a_retired_id_is_never_a_member_again(ops in prop::collection::vec(op(), 0..80)) {
        let mut state = ClusterState::default();
        let mut spent = BTreeSet::new();
        for op in &ops {
            match op {
                Op::Command(c) => { let _ = state.apply(c); }
                Op::CommitSyncConfig => { let m = settled(&state); state.apply_membership(&m); }
            }
            spent.extend(state.retired.iter().copied());
            prop_assert!(spent.is_subset(&state.retired));
            prop_assert!(state.members.keys().all(|id| !spent.contains(id)));
            prop_assert!(spent.iter().all(|id| id.get() < state.next_node_id()));
        }
    }

    /// Invariant 6: at most one member is on its way in or out, as long as there is room for a
    /// voter.
    #[test]
    fn one_change_at_a_time(ops in prop::collection::vec(op(), 0..80)) {
        let state = run(&ops);
        let leaving = state.members.values().filter(|m| m.role == Role::Leaving).count();
        let joining = if state.voters() < MAX_VOTERS { state.members.values().filter(|m| m.role == Role::Learner).count() } else { 0 };
        prop_assert!(leaving <= 1, "{leaving} leaving");
        // A learner beyond the seventh voter becomes one that joins when a voter leaves.
        prop_assert!(joining <= 1 || state.members.len() > MAX_VOTERS, "{joining} joining");
    }

    /// Whatever was applied twice in a row changed nothing the second time.
    #[test]
    fn every_command_is_idempotent(ops in prop::collection::vec(op(), 0..40), last in op()) {
        let mut state = run(&ops);
        if let Op::Command(c) = last {
            let first = state.apply(&c);
            let once = state.clone();
            let second = state.apply(&c);
            prop_assert_eq!(&state, &once);
            if first.is_ok() && !matches!(c, Command::Init { .. }) {
                prop_assert_eq!(second, Ok(Outcome::AlreadySo));
            }
        }
    }

    /// The primary stays, and no two members share an address.
    #[test]
    fn the_primary_is_a_member_and_addresses_are_unique(ops in prop::collection::vec(op(), 0..80)) {
        let state = run(&ops);
        if let Some(primary) = state.primary() { prop_assert!(state.members.contains_key(&primary)); }
        let addresses: BTreeSet<_> = state.members.values().map(|m| &m.address).collect();
        prop_assert_eq!(addresses.len(), state.members.len());
    }

    /// What a snapshot carries is the whole state.
    #[test]
    fn a_snapshot_round_trip_changes_nothing(ops in prop::collection::vec(op(), 0..60)) {
        let state = run(&ops);
        let bytes = serde_json::to_vec(&state).unwrap();
        prop_assert_eq!(serde_json::from_slice::<ClusterState>(&bytes).unwrap(), state);
    }
}

#[test]
fn the_seeds_session() {
    let id = |n| NodeId::new(n).unwrap();
    let at = |n: u16| Address::new(&format!("192.168.1.1{n}"), i64::from(7000 + n)).unwrap();
    let mut state = ClusterState::default();
    assert_eq!(
        state.apply(&Command::Join { node: id(2), address: at(2) }),
        Err(Refusal::NotInitialized)
    );
    state
        .apply(&Command::Init { cluster: ClusterId(Uuid::nil()), node: id(1), address: at(1) })
        .unwrap();
    state.apply(&Command::Join { node: id(2), address: at(2) }).unwrap();
    assert_eq!(
        state.apply(&Command::Join { node: id(3), address: at(3) }),
        Err(Refusal::JoinInProgress(id(2)))
    );
    let m = settled(&state);
    state.apply_membership(&m);
    assert_eq!(state.members[&id(2)].role, Role::Voter);
    assert_eq!(state.apply(&Command::Join { node: id(2), address: at(2) }), Ok(Outcome::AlreadySo));
    assert_eq!(
        state.apply(&Command::Join { node: id(2), address: at(9) }),
        Err(Refusal::OtherAddress { node: id(2), at: at(2) })
    );
    assert_eq!(state.apply(&Command::Remove { node: id(1) }), Err(Refusal::IsPrimary(id(1))));
    assert_eq!(
        state.apply(&Command::JoinExpired { node: id(2) }),
        Err(Refusal::AlreadyJoined(id(2))),
        "it votes"
    );
    state.apply(&Command::Remove { node: id(2) }).unwrap();
    let m = settled(&state);
    state.apply_membership(&m);
    assert_eq!(
        state.apply(&Command::Join { node: id(2), address: at(2) }),
        Err(Refusal::IdRetired(id(2)))
    );
    assert_eq!(state.next_node_id(), 3);
}
