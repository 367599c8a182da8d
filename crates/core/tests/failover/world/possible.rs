//! What can happen next in a world.

use super::{Action, ModelPostgres, ModelWorld, id};
use crate::mutation::Mutation;
use pgraft_core::failover::{node, primary};
use pgraft_core::membership::majority;

impl ModelWorld {
    /// Everything that can happen now.
    pub(super) fn actions(&self, mutation: Option<Mutation>) -> Vec<Action> {
        let mut all = Vec::new();
        if self.violation.is_some() {
            return all;
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let i = u8::try_from(n).unwrap();
            if !node.free {
                all.push(Action::PromiseEnds(i));
            }
            if !node.up {
                for back in 0..=node.applied.min(2) {
                    all.push(Action::Restart(i, back));
                }
                continue;
            }
            if node.postgres == ModelPostgres::Stopped {
                all.push(Action::Start(i));
            }
            if self.left.crashes > 0 {
                all.push(Action::Crash(i));
                all.extend((0..=node.applied.min(2)).map(|back| Action::WorkerRestarts(i, back)));
            }
            if (node.applied as usize) + 1 < self.history.len() {
                all.push(Action::Apply(i));
            }
            match self.node_step(n, mutation) {
                node::NodeStep::Nothing | node::NodeStep::WaitForPromise => {}
                node::NodeStep::RunAsPrimary => self.primary_actions(n, mutation, &mut all),
                node::NodeStep::Promote(_) => {
                    all.push(Action::Step(i));
                    if self.left.crashes > 0 {
                        all.push(Action::PromotionBreaksOff(i));
                    }
                }
                _ => all.push(Action::Step(i)),
            }
            if matches!(mutation, Some(Mutation::ReportWhilePrimary)) && node.run().is_some() {
                all.push(Action::Step(i));
            }
            self.standby_actions(n, &mut all);
            self.run_actions(n, &mut all);
        }
        self.group_actions(&mut all);
        all
    }

    /// The same with the worlds that follow; what changes nothing did not happen.
    pub fn successors(&self, mutation: Option<Mutation>) -> Vec<(Action, Self)> {
        self.actions(mutation)
            .into_iter()
            .filter_map(|action| Some((action, self.after(action, mutation)?)))
            .collect()
    }

    pub(super) fn standby_actions(&self, n: usize, all: &mut Vec<Action>) {
        let (node, i) = (&self.nodes[n], u8::try_from(n).unwrap());
        match node.postgres {
            ModelPostgres::Standby => {
                if node.loaded != node.configured {
                    all.push(Action::LoadConninfo(i));
                }
                match node.receiver {
                    None if node.loaded.is_some() => all.push(Action::ReceiverStarts(i)),
                    Some(_) => all.extend([Action::ReceiverEnds(i), Action::Receive(i)]),
                    None => {}
                }
            }
            ModelPostgres::Rewinding(_) => all.extend(
                (0..self.nodes.len())
                    .map(|from| Action::RewindEnds(i, u8::try_from(from).unwrap())),
            ),
            ModelPostgres::Stopped | ModelPostgres::Primary(_) => {}
        }
    }

    /// What a run does without a decision.
    pub(super) fn run_actions(&self, n: usize, all: &mut Vec<Action>) {
        let Some(run) = self.nodes[n].run() else { return };
        let i = u8::try_from(n).unwrap();
        if run.grants != 0 {
            all.push(Action::LeaseEnds(i));
        }
        for j in 0..self.nodes.len() {
            let other = u8::try_from(j).unwrap();
            if run.under_way[j] > run.confirmed[j] {
                all.push(Action::Confirm(i, other));
            }
            if run.grants >> j & 1 == 0 {
                all.push(Action::Grant(i, other));
            }
        }
        if run.lingering.is_some() {
            all.push(Action::NamesLoaded(i));
        }
        if self.left.writes > 0 {
            all.push(Action::Write(i));
        }
    }

    pub(super) fn primary_actions(
        &self,
        n: usize,
        mutation: Option<Mutation>,
        all: &mut Vec<Action>,
    ) {
        match self.primary_step(n, mutation) {
            primary::PrimaryStep::Nothing
            | primary::PrimaryStep::WaitForNames
            | primary::PrimaryStep::WaitFor(_)
            | primary::PrimaryStep::WaitForLease => {}
            _ => all.push(Action::PrimaryTerm(u8::try_from(n).unwrap())),
        }
    }

    pub(super) fn group_actions(&self, all: &mut Vec<Action>) {
        if !self.majority_is_up(&self.last().voters) {
            return;
        }
        all.push(Action::Lead);
        all.extend((0..self.proposals.len()).map(|n| Action::Commit(u8::try_from(n).unwrap())));
        if self.left.changes > 0 {
            all.extend((0..1u8 << self.nodes.len()).map(Action::ChangeStandbys));
        }
        if self.left.voters > 0 {
            all.extend((0..self.nodes.len()).flat_map(|n| self.voter_changes(n)));
        }
    }

    /// One for each majority that it can be committed by.
    fn voter_changes(&self, n: usize) -> Vec<Action> {
        let voters = self.voters_after(n);
        let up = (0..self.nodes.len())
            .filter(|j| self.nodes[*j].up && voters.contains(&id(*j)))
            .fold(0u8, |all, j| all | 1 << j);
        let majorities = (1..=up)
            .filter(|logs| logs & !up == 0 && logs.count_ones() as usize == majority(voters.len()));
        majorities.map(|logs| Action::ChangeVoter(u8::try_from(n).unwrap(), logs)).collect()
    }
}
