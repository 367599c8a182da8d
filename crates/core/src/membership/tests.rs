//! The driver's decisions: it gets there, one voter at a time; and who may come and go.

use super::*;
use crate::{Address, ClusterId, Command, InstanceId};
use proptest::prelude::*;
use uuid::Uuid;

/// The state and Raft as far as the driver sees them: each step is carried out at once, a voter
/// change through a joint configuration that may be left behind by a crash.
struct MembershipWorld {
    state: ClusterState,
    raft: RaftMembership,
    me: NodeId,
    /// Who is out of reach: they neither tell nor catch up.
    away: BTreeSet<NodeId>,
}

impl MembershipWorld {
    fn new() -> Self {
        let bootstrap = id(1);
        let mut state = ClusterState::default();
        state
            .apply(&Command::Init {
                cluster: ClusterId(Uuid::nil()),
                node: bootstrap,
                address: address(1),
            })
            .unwrap();
        let raft = RaftMembership {
            voters: BTreeSet::from([bootstrap]),
            addresses: BTreeMap::from([(bootstrap, address(1))]),
            ..RaftMembership::default()
        };
        Self { state, raft, me: bootstrap, away: BTreeSet::new() }
    }

    fn next(&self, join_timeout: Option<Duration>) -> MembershipStep {
        let caught_up =
            self.state.members.keys().filter(|id| !self.away.contains(id)).copied().collect();
        let unheard = self
            .state
            .members
            .iter()
            .filter(|(_, m)| m.info.is_none())
            .map(|(id, _)| (*id, Duration::from_mins(1)))
            .collect();
        let (state, raft) = (&self.state, &self.raft);
        next_step(&MembershipFacts {
            state,
            raft,
            me: self.me,
            settled: true,
            caught_up: &caught_up,
            unheard: &unheard,
            join_timeout,
        })
    }

    fn carry_out(&mut self, step: MembershipStep, crash: bool) {
        let Self { state, raft, me, .. } = self;
        match step {
            MembershipStep::Nothing | MembershipStep::WaitFor(_) => return,
            MembershipStep::FinishJoint => raft.joint = false,
            MembershipStep::Confirm => {}
            MembershipStep::Move(id) => {
                drop(raft.addresses.insert(id, state.members[&id].address.clone()));
            }
            MembershipStep::AddLearner(id) => {
                raft.learners.insert(id);
                raft.addresses.insert(id, state.members[&id].address.clone());
            }
            MembershipStep::Promote(id) => {
                raft.learners.remove(&id);
                raft.voters.insert(id);
                raft.joint = crash;
            }
            MembershipStep::GiveUp(id) => {
                state.apply(&Command::JoinExpired { node: id }).unwrap();
                return;
            }
            MembershipStep::Transfer(id) => {
                *me = id;
                return;
            }
            MembershipStep::Drop(id) => {
                raft.learners.remove(&id);
                raft.voters.remove(&id);
                raft.addresses.remove(&id);
            }
        }
        // Only an entry makes the state follow.
        state.apply_membership(raft);
    }

    fn drive(&mut self, steps: usize, crash: bool, join_timeout: Option<Duration>) {
        for n in 0..steps {
            let voters = self.raft.voters.clone();
            let step = self.next(join_timeout);
            self.carry_out(step, crash && n == 0);
            assert!(
                voters.symmetric_difference(&self.raft.voters).count() <= 1,
                "{step:?} changed several voters"
            );
            assert!(!self.raft.voters.is_empty());
        }
    }

    fn wish(&mut self, node: NodeId, wish: MembershipWish) {
        let at = |n| Address::new(&format!("moved-{node}"), n).unwrap();
        let _ = match wish {
            MembershipWish::Join | MembershipWish::JoinAway => {
                self.state.apply(&Command::Join { node, address: address(node.get()) })
            }
            MembershipWish::Remove => self.state.apply(&Command::Remove { node }),
            MembershipWish::Move(port) => {
                self.state.apply(&Command::SetAddress { node, address: at(port) })
            }
        };
        let newcomer = self
            .state
            .members
            .get(&node)
            .is_some_and(|m| m.role == Role::Learner && m.info.is_none());
        if newcomer && matches!(wish, MembershipWish::JoinAway) {
            self.away.insert(node);
        } else if newcomer && !self.away.contains(&node) {
            tell(&mut self.state, node);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum MembershipWish {
    Join,
    /// Of a node that never comes.
    JoinAway,
    Remove,
    Move(i64),
}

fn wish() -> impl Strategy<Value = MembershipWish> {
    prop_oneof![3 => Just(MembershipWish::Join), 1 => Just(MembershipWish::JoinAway), 2 => Just(MembershipWish::Remove), 1 => (1..9i64).prop_map(MembershipWish::Move)]
}

fn tell(state: &mut ClusterState, node: NodeId) {
    let instance = InstanceId(Uuid::from_u128(u128::from(node.get())));
    let _ = state.apply(&Command::Register {
        node,
        instance,
        postgres: address(node.get()),
        zone: String::new(),
    });
}

fn id(n: i64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn address(n: u32) -> Address {
    Address::new(&format!("node-{n}"), 7001).unwrap()
}

proptest! {
    /// From any mix of joins, removals, moves, newcomers that never come and leaders that die half
    /// way, the membership becomes what the state says, and no step changes more than one voter.
    #[test]
    fn it_gets_there_one_voter_at_a_time(
        wishes in prop::collection::vec((1..10i64, wish(), any::<bool>(), 0..4usize), 1..40)
    ) {
        let mut world = MembershipWorld::new();
        for (n, wish, crash, steps) in wishes {
            world.wish(id(n), wish);
            world.drive(steps, crash, None);
        }
        world.drive(40, false, Some(Duration::from_mins(1)));
        prop_assert_eq!(world.next(Some(Duration::from_mins(1))), MembershipStep::Nothing);
        let MembershipWorld { state, raft, away, .. } = world;
        let in_raft: BTreeSet<NodeId> = raft.voters.union(&raft.learners).copied().collect();
        let members: BTreeSet<NodeId> = state.members.keys().copied().collect();
        prop_assert_eq!(in_raft, members);
        prop_assert_eq!(raft.voters.len(), state.members.len().min(MAX_VOTERS));
        prop_assert!(state.members.values().all(|m| m.role != Role::Leaving));
        prop_assert!(state.members.keys().all(|id| !away.contains(id)), "who never came is out again");
        prop_assert!(state.members.iter().all(|(id, m)| raft.addresses.get(id) == Some(&m.address)), "Raft looks elsewhere");
    }

    /// Who is let in or out leaves a majority that answers, and who may stay is not kept out for
    /// nothing.
    #[test]
    fn who_may_come_and_go(answers in prop::collection::vec(any::<bool>(), 1..8), newcomer in any::<bool>(), which in 0..8usize) {
        let members: Vec<MemberStatus> = (1..).zip(&answers).map(|(n, alive)| member(n, *alive)).collect();
        let alive = answers.iter().filter(|a| **a).count();
        if may_join(&members, id(9), newcomer).is_ok() && (2..MAX_VOTERS).contains(&answers.len()) {
            prop_assert!(alive + usize::from(newcomer) >= majority(answers.len() + 1));
        }
        if alive == answers.len() {
            prop_assert_eq!(may_join(&members, id(9), newcomer), Ok(()));
        }
        let leaves = which % answers.len();
        let left = alive - usize::from(answers[leaves]);
        let may = may_leave(&members, id(1 + i64::try_from(leaves).unwrap())).is_ok();
        prop_assert_eq!(may, !answers[leaves] || left >= majority(answers.len() - 1));
    }
}

fn member(n: i64, alive: bool) -> MemberStatus {
    MemberStatus {
        node_id: id(n),
        address: address(u32::try_from(n).unwrap()),
        role: Role::Voter,
        is_leader: false,
        is_primary: false,
        postgres: None,
        zone: String::new(),
        reachable: Some(alive),
        last_contact_ms: None,
        match_index: None,
        wal: None,
        lag_bytes: None,
    }
}

#[test]
fn a_newcomer_that_has_not_caught_up_or_not_told_gets_no_vote() {
    let two = id(2);
    let mut world = MembershipWorld::new();
    world.state.apply(&Command::Join { node: two, address: address(2) }).unwrap();
    world.drive(1, false, None);
    assert_eq!(world.next(None), MembershipStep::WaitFor(two), "it has not told");
    tell(&mut world.state, two);
    world.away.insert(two);
    assert_eq!(
        world.next(Some(Duration::ZERO)),
        MembershipStep::WaitFor(two),
        "it has told, so it was reached: nobody gives it up"
    );
    world.away.clear();
    assert_eq!(world.next(None), MembershipStep::Promote(two));
}

#[test]
fn a_newcomer_that_was_never_heard_is_given_up_in_time() {
    let two = id(2);
    let mut world = MembershipWorld::new();
    world.state.apply(&Command::Join { node: two, address: address(2) }).unwrap();
    world.drive(1, false, None);
    assert_eq!(world.next(Some(Duration::from_secs(61))), MembershipStep::WaitFor(two));
    assert_eq!(world.next(Some(Duration::from_mins(1))), MembershipStep::GiveUp(two));
    world.drive(5, false, Some(Duration::from_mins(1)));
    assert!(world.state.retired.contains(&two) && !world.raft.contains(two));
}

#[test]
fn a_dead_voter_may_go_and_a_living_one_only_when_the_rest_can_decide() {
    let members =
        |answers: [bool; 3]| [member(1, answers[0]), member(2, answers[1]), member(3, answers[2])];
    let one_dead = members([true, true, false]);
    assert_eq!(may_leave(&one_dead, id(3)), Ok(()));
    assert_eq!(
        may_leave(&one_dead, id(2)),
        Err(Refusal::NoMajorityLeft { node: id(2), alive: 1, voters: 2, required: 2 })
    );
    assert_eq!(may_leave(&members([true; 3]), id(2)), Ok(()));
    assert_eq!(
        may_join(&one_dead, id(4), false),
        Err(Refusal::NoMajorityWith { node: id(4), alive: 2, voters: 4, required: 3 })
    );
    assert_eq!(may_join(&one_dead, id(4), true), Ok(()));
}

#[test]
fn majorities() {
    assert_eq!([1, 2, 3, 4, 5, 6, 7].map(majority), [1, 2, 2, 3, 3, 4, 4]);
}
