//! What happens in the group: a leader proposes, a majority commits.

use super::{Bits, Committed, ModelWorld, Proposal, bits, id, ids, index};
use crate::mutation::Mutation;
use pgraft_core::NodeId;
use pgraft_core::failover::{Holds, Phase, Report, leader};
use pgraft_core::membership::majority;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl ModelWorld {
    pub(super) fn lead(&mut self, mutation: Option<Mutation>) -> Option<()> {
        let state = Rc::clone(self.last());
        let free: BTreeSet<NodeId> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].up && self.nodes[*n].free)
            .map(id)
            .collect();
        let free = if mutation == Some(Mutation::PromiseForgotten) {
            (0..self.nodes.len()).map(id).collect()
        } else {
            free
        };
        let mut reports: BTreeMap<NodeId, Report> = self
            .reports
            .iter()
            .enumerate()
            .filter_map(|(n, report)| report.map(|report| (id(n), report)))
            .collect();
        for report in reports.values_mut() {
            match mutation {
                Some(Mutation::LateReportsCount) => report.epoch = state.primary_term.epoch,
                Some(Mutation::PositionBeforeTimeline) => {
                    if let Holds::UpTo(end) = &mut report.holds {
                        end.timeline = 0;
                    }
                }
                _ => {}
            }
        }
        let mut primary_term = state.primary_term.clone();
        if mutation == Some(Mutation::AnybodysReportCounts) {
            // Recruits outside of a config stand in for its missing standbys.
            let recruits: BTreeSet<NodeId> = reports
                .iter()
                .filter(|(_, r)| r.epoch == primary_term.epoch)
                .map(|(id, _)| *id)
                .collect();
            for config in &mut primary_term.configs {
                let outside = recruits.difference(&config.standbys).count();
                let missing: Vec<NodeId> =
                    config.standbys.difference(&recruits).copied().take(outside).collect();
                config.standbys.retain(|id| !missing.contains(id));
            }
        }
        let facts = leader::LeaderFacts {
            me: primary_term.primary,
            primary_term: &primary_term,
            voters: &state.voters,
            electorate: &state.voters,
            steady_membership: true,
            free: &free,
            reports: &reports,
            preferred: None,
        };
        let proposal = match leader::next_step(&facts) {
            leader::LeaderStep::Recruit(epoch) if self.left.epochs > 0 => Proposal::Recruit(epoch),
            leader::LeaderStep::Appoint { epoch, primary } => Proposal::Appoint(epoch, primary),
            _ => return None,
        };
        self.proposals.insert(proposal).then_some(())
    }

    pub(super) fn commit(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        let proposal = self.proposals.iter().nth(n)?.clone();
        self.proposals.remove(&proposal);
        let now = Rc::clone(self.last());
        let mut primary_term = now.primary_term.clone();
        let effect = match &proposal {
            Proposal::Recruit(epoch) => {
                let effect = primary_term.recruit(*epoch);
                if effect.is_ok() {
                    self.left.epochs -= 1;
                }
                effect
            }
            Proposal::Appoint(epoch, primary) => {
                primary_term.appoint(*epoch, *primary, &now.voters)
            }
            Proposal::CommitSyncConfig(_, _)
                if mutation == Some(Mutation::LateConfirmationsCount)
                    && primary_term.phase == Phase::Steady =>
            {
                primary_term.commit_sync_config(primary_term.epoch, primary_term.change)
            }
            Proposal::CommitSyncConfig(epoch, change) => {
                primary_term.commit_sync_config(*epoch, *change)
            }
        };
        if mutation == Some(Mutation::AppointReplacesConfigs)
            && matches!(proposal, Proposal::Appoint(..))
            && effect.is_ok()
        {
            let target = primary_term.configs.pop()?;
            primary_term.configs = vec![target];
        }
        if effect.is_ok() {
            self.history.push(Committed::new(primary_term, now.voters.clone(), now.membership));
        }
        Some(()) // without effect it is gone, too
    }

    /// Any other set of standbys that Postgres could wait for, whether it is wise or not.
    pub(super) fn change_standbys(
        &mut self,
        standbys: Bits,
        mutation: Option<Mutation>,
    ) -> Option<()> {
        let now = Rc::clone(self.last());
        let mut primary_term = now.primary_term.clone();
        if standbys & !bits(&now.voters) != 0 {
            return None;
        }
        let new = ids(standbys);
        if new.len() < majority(new.len() + 1) - 1
            || primary_term.target().is_some_and(|t| t.standbys == new)
        {
            return None;
        }
        if mutation == Some(Mutation::ChangeOfMindWithoutBarrier)
            && primary_term.configs.len() == 2
            && primary_term.configs[0].standbys == new
            && primary_term.settled
        {
            primary_term.configs.pop();
            primary_term.change += 1;
        } else {
            primary_term.propose_sync_config(primary_term.epoch, primary_term.change, new).ok()?;
        }
        self.left.changes -= 1;
        if mutation == Some(Mutation::NamesBeforeTheyAreCommitted) {
            let n = index(primary_term.primary);
            let target = primary_term.target().cloned().map(Rc::new);
            self.nodes[n].run_mut()?.waits = target;
            self.acknowledge(n, mutation);
            return Some(());
        }
        self.history.push(Committed::new(primary_term, now.voters.clone(), now.membership));
        Some(())
    }

    /// One voter more or less, a lease time after the last change at least: what was promised
    /// before that is over.
    pub(super) fn change_voter(
        &mut self,
        n: usize,
        logs: Bits,
        mutation: Option<Mutation>,
    ) -> Option<()> {
        let now = Rc::clone(self.last());
        let voters = self.voters_after(n);
        if now.primary_term.phase == Phase::Recruiting {
            return None;
        }
        let joins = voters.contains(&id(n));
        let in_force = now.primary_term.primary == id(n)
            || now.primary_term.configs.iter().any(|c| c.standbys.contains(&id(n)));
        if voters.is_empty() || !joins && in_force || !self.majority_is_up(&voters) {
            return None;
        }
        self.lease_time_passes(mutation)?;
        if joins {
            self.nodes[n].free = false;
        }
        self.left.voters -= 1;
        let membership = now.membership + 1;
        for id in ids(logs) {
            self.nodes[index(id)].membership = membership;
        }
        self.memberships.push(voters.clone());
        self.history.push(Committed::new(now.primary_term.clone(), voters, membership));
        Some(())
    }

    /// The voters when that one joins or leaves.
    pub(super) fn voters_after(&self, n: usize) -> BTreeSet<NodeId> {
        self.last().voters.symmetric_difference(&BTreeSet::from([id(n)])).copied().collect()
    }

    /// Since the last change of the voters. Not while a lease stands that an older promise carries:
    /// that one ends first.
    fn lease_time_passes(&mut self, mutation: Option<Mutation>) -> Option<()> {
        for p in 0..self.nodes.len() {
            let stands = self.has_lease(p);
            let Some(run) = self.nodes[p].run_mut() else { continue };
            if mutation != Some(Mutation::VotersChangeAtOnce) {
                if stands && run.older != 0 {
                    return None;
                }
                run.grants &= !run.older;
            }
            run.older = run.grants;
        }
        Some(())
    }
}
