//! What nodes and primaries decide: the facts, and `pgraft_core::failover`.

use super::{MAX, ModelPostgres, ModelRun, ModelWorld, id, index};
use crate::mutation::Mutation;
use pgraft_core::NodeId;
use pgraft_core::failover::node::{Intake, ServerMode};
use pgraft_core::failover::primary::NamesState;
use pgraft_core::failover::start::{RecordedPrimary, StartFacts, StartMode, start_mode};
use pgraft_core::failover::{Holds, Phase, Report, node, primary};
use pgraft_core::status::WalPosition;
use std::collections::BTreeSet;

impl ModelWorld {
    /// What a node decides.
    pub fn node_step(&self, n: usize, mutation: Option<Mutation>) -> node::NodeStep {
        let node = &self.nodes[n];
        let primary_term = &self.applied(n).primary_term;
        let Some(server) = self.server(n, mutation) else { return node::NodeStep::Nothing };
        let free = node.free || mutation == Some(Mutation::PromiseForgotten);
        if mutation == Some(Mutation::ReportWhilePrimary)
            && primary_term.phase == Phase::Recruiting
            && node.run().is_some()
        {
            let end = node.end();
            if self.reports[n].is_none_or(|r| r.epoch != primary_term.epoch) {
                return node::NodeStep::Report(Report {
                    epoch: primary_term.epoch,
                    holds: Holds::UpTo(end),
                });
            }
        }
        let step = node::next_step(&node::NodeFacts {
            me: id(n),
            primary_term,
            epoch: node.epoch,
            free,
            server,
        });
        match step {
            node::NodeStep::Report(report) if self.reports[n] == Some(report) => {
                node::NodeStep::Nothing
            }
            step => step,
        }
    }

    /// How the instance manager starts the server of a node.
    pub(super) fn start_mode(&self, n: usize, mutation: Option<Mutation>) -> StartMode {
        let primary = if self.applied(n).primary_term.primary == id(n) {
            RecordedPrimary::ThisNode
        } else {
            RecordedPrimary::AnotherNode
        };
        let as_recorded = mutation == Some(Mutation::StartsAsRecorded)
            && self.applied(n).primary_term.phase == Phase::Steady;
        start_mode(StartFacts {
            failover: !as_recorded,
            bootstrapping: false,
            standby_signal: self.nodes[n].standby_signal && !as_recorded,
            primary,
        })
    }

    /// The server as its member sees it; None while it is stopped.
    pub(super) fn server(&self, n: usize, mutation: Option<Mutation>) -> Option<ServerMode> {
        let node = &self.nodes[n];
        Some(match &node.postgres {
            ModelPostgres::Stopped => return None,
            ModelPostgres::Primary(run) => ServerMode::Primary {
                epoch: run.epoch,
                timeline: self.timeline_of(run, n, mutation),
            },
            ModelPostgres::Rewinding(_) if mutation == Some(Mutation::ReportWhileRewinding) => {
                // Nobody can tell where files end that are half of this and half of that.
                let end = WalPosition { timeline: 1, lsn: 0 };
                ServerMode::Standby {
                    consistent: true,
                    abandoned_promotion: None,
                    intake: Intake::Closed,
                    end,
                    diverged: None,
                }
            }
            ModelPostgres::Rewinding(_) if mutation == Some(Mutation::AbstainsFromEverything) => {
                ServerMode::Rewinding { diverged_in: Some(0) }
            }
            ModelPostgres::Rewinding(epoch) => ServerMode::Rewinding { diverged_in: Some(*epoch) },
            ModelPostgres::Standby => {
                let intake = match (node.configured, node.receiver, node.loaded) {
                    (Some((from, timeline)), ..) => {
                        Intake::Open { from: id(from as usize), timeline: u32::from(timeline) }
                    }
                    (None, ..) if mutation == Some(Mutation::ReportBeforeTheReceiverIsGone) => {
                        Intake::Closed
                    }
                    (None, None, _)
                        if mutation == Some(Mutation::ReportBeforeTheStartupProcessKnows) =>
                    {
                        Intake::Closed
                    }
                    (None, None, None) => Intake::Closed,
                    (None, ..) => Intake::Closing,
                };
                let diverged = match mutation {
                    Some(Mutation::FollowsUncompared) => Some(false),
                    _ => self.has_diverged(n, index(self.applied(n).primary_term.primary)),
                };
                ServerMode::Standby {
                    consistent: true,
                    abandoned_promotion: node.abandoned_promotion.map(u32::from),
                    intake,
                    end: node.end(),
                    diverged,
                }
            }
        })
    }

    pub(super) fn timeline_of(&self, run: &ModelRun, n: usize, mutation: Option<Mutation>) -> u32 {
        // The worker would notice that Postgres took another number; taken out together with the
        // rule that gives it one.
        let unchecked =
            matches!(mutation, Some(Mutation::TimelineByPostgres | Mutation::StartsAsRecorded));
        if unchecked && run.epoch == self.applied(n).primary_term.epoch {
            self.applied(n).primary_term.timeline
        } else {
            u32::from(run.timeline)
        }
    }

    /// Whether a standby finds that its WAL is not a beginning of its primary's; None where nobody
    /// tells.
    pub(super) fn has_diverged(&self, n: usize, from: usize) -> Option<bool> {
        self.nodes[from]
            .run()
            .filter(|run| run.epoch == self.nodes[n].epoch)
            .map(|_| !self.is_beginning(n, from))
    }

    /// What Postgres compares: the timeline at the position where the standby stands.
    pub(super) fn is_beginning(&self, n: usize, of: usize) -> bool {
        let (mine, theirs) = (&self.nodes[n].wal, &self.nodes[of].wal);
        mine.len() <= theirs.len()
            && mine.last().map(|r| r.timeline) == theirs.get(mine.len() - 1).map(|r| r.timeline)
    }

    /// What a primary decides.
    pub fn primary_step(&self, n: usize, mutation: Option<Mutation>) -> primary::PrimaryStep {
        let primary_term = &self.applied(n).primary_term;
        let Some(run) = self.nodes[n].run() else { return primary::PrimaryStep::Nothing };
        let noted = run.noted.map(|(change, _)| change);
        let mut confirmed: BTreeSet<NodeId> = match run.noted {
            Some((_, end)) => {
                (0..self.nodes.len()).filter(|j| run.confirmed[*j] >= end).map(id).collect()
            }
            None => BTreeSet::new(),
        };
        if mutation == Some(Mutation::NoBarrier) {
            confirmed = (0..MAX).map(id).collect();
        }
        let mut facts = primary::PrimaryFacts {
            primary_term,
            read: run.read,
            names: run.names,
            noted,
            confirmed: &confirmed,
            lease: self.has_lease(n),
            open: run.open,
        };
        if let (Some(Mutation::NoteBeforeAllHaveLoaded), NamesState::Loading(change)) =
            (mutation, facts.names)
        {
            facts.names = NamesState::Loaded(change);
        }
        if mutation == Some(Mutation::GateBeforeConfirmed)
            && !run.open
            && run.noted.is_some()
            && facts.lease
        {
            return primary::PrimaryStep::OpenGate;
        }
        primary::next_step(&facts)
    }
}
