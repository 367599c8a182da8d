//! What happens to a node: each action, carried out.

use super::{
    Action, MAX, ModelPostgres, ModelRecord, ModelRun, ModelViolation, ModelWorld, Proposal, WAL,
    id, index,
};
use crate::mutation::Mutation;
use pgraft_core::failover::lease::{BootTime, Heartbeat, HeartbeatContext, StartNumber, Voter};
use pgraft_core::failover::primary::NamesState;
use pgraft_core::failover::start::StartMode;
use pgraft_core::failover::{SyncConfig, node, primary};
use std::rc::Rc;

impl ModelWorld {
    /// The world after that, or None when it can't happen or changes nothing.
    pub fn after(&self, action: Action, mutation: Option<Mutation>) -> Option<Self> {
        let mut world = self.clone();
        world.act(action, mutation)?;
        world.look();
        world.forget();
        (world != *self).then_some(world)
    }

    pub(super) fn act(&mut self, action: Action, mutation: Option<Mutation>) -> Option<()> {
        match action {
            Action::PromiseEnds(i) => self.promise_ends(i as usize, mutation),
            Action::LeaseEnds(i) => {
                let run = self.nodes[i as usize].run_mut()?;
                (run.grants, run.older) = (0, 0);
                Some(())
            }
            Action::Crash(i) => {
                self.left.crashes -= 1;
                self.crash(i as usize, mutation);
                Some(())
            }
            Action::Restart(i, back) => self.restart(i as usize, back),
            Action::WorkerRestarts(i, back) => {
                self.left.crashes -= 1;
                self.worker_restarts(i as usize, back, mutation)
            }
            Action::Start(i) => self.start(i as usize, mutation),
            Action::Apply(i) => {
                self.nodes[i as usize].applied += 1;
                let membership = self.applied(i as usize).membership;
                let node = &mut self.nodes[i as usize];
                node.membership = node.membership.max(membership);
                Some(())
            }
            Action::Step(i) => self.carry_out(i as usize, mutation),
            Action::PromotionBreaksOff(i) => {
                let node::NodeStep::Promote(timeline) = self.node_step(i as usize, mutation) else {
                    return None;
                };
                self.nodes[i as usize].abandoned_promotion = u8::try_from(timeline).ok();
                self.left.crashes -= 1;
                self.crash(i as usize, mutation);
                Some(())
            }
            Action::PrimaryTerm(i) => self.primary_term(i as usize, mutation),
            Action::LoadConninfo(i) => {
                let node = &mut self.nodes[i as usize];
                node.loaded = node.configured;
                Some(())
            }
            Action::ReceiverStarts(i) => self.receiver_starts(i as usize, mutation),
            Action::ReceiverEnds(i) => {
                let node = &self.nodes[i as usize];
                let from = node.receiver?;
                // It ends when it is told to, and when there is nobody to receive from.
                let ends = node.configured.map(|(from, _)| from) != node.receiver
                    || self.nodes[from as usize].run().is_none();
                self.nodes[i as usize].receiver = None;
                ends.then_some(())
            }
            Action::Receive(i) => self.receive(i as usize),
            Action::RewindEnds(i, from) => self.rewind_ends(i as usize, from as usize, mutation),
            Action::Confirm(i, j) => {
                let run = self.nodes[i as usize].run_mut()?;
                run.confirmed[j as usize] = run.under_way[j as usize];
                self.acknowledge(i as usize, mutation);
                Some(())
            }
            Action::Grant(i, j) => self.grant(i as usize, j as usize, mutation),
            Action::NamesLoaded(i) => {
                let run = self.nodes[i as usize].run_mut()?;
                run.lingering = None;
                if let NamesState::Loading(change) = run.names {
                    run.names = NamesState::Loaded(change);
                }
                Some(())
            }
            Action::Write(i) => self.write(i as usize, mutation),
            Action::Lead => self.lead(mutation),
            Action::Commit(n) => self.commit(n as usize, mutation),
            Action::ChangeStandbys(standbys) => self.change_standbys(standbys, mutation),
            Action::ChangeVoter(i, logs) => self.change_voter(i as usize, logs, mutation),
        }
    }

    pub(super) fn promise_ends(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        for p in 0..self.nodes.len() {
            let stood = self.has_lease(p);
            let Some(run) = self.nodes[p].run_mut() else { continue };
            if mutation == Some(Mutation::PromiseForgotten) {
                continue; // the lease goes on
            }
            (run.grants, run.older) = (run.grants & !(1 << n), run.older & !(1 << n));
            if stood && !self.has_lease(p) {
                return None; // not while it carries a lease that stands
            }
        }
        self.nodes[n].free = true;
        Some(())
    }

    pub(super) fn crash(&mut self, n: usize, mutation: Option<Mutation>) {
        let node = &mut self.nodes[n];
        node.up = false;
        node.receiver = None;
        node.loaded = node.configured;
        if matches!(node.postgres, ModelPostgres::Primary(_) | ModelPostgres::Standby) {
            node.postgres = ModelPostgres::Stopped;
        }
        if mutation == Some(Mutation::EpochNotDurable)
            && node.epoch > 1
            && self.reports[n].is_some()
        {
            let node = &mut self.nodes[n];
            node.epoch -= 1;
            node.applied = 0;
        }
        self.disconnect(n);
    }

    /// Receivers from a server that is gone.
    pub(super) fn disconnect(&mut self, from: usize) {
        for node in &mut self.nodes {
            if node.receiver == u8::try_from(from).ok() {
                node.receiver = None;
            }
        }
    }

    pub(super) fn restart(&mut self, n: usize, back: u8) -> Option<()> {
        let node = &mut self.nodes[n];
        node.up = true;
        node.free = false;
        node.applied = node.applied.checked_sub(back)?;
        Some(())
    }

    /// The server goes on, and with it what it waits for and who receives from it. Its gate closes:
    /// a gate that is open until its deadline is a worker that restarts later.
    fn worker_restarts(&mut self, n: usize, back: u8, mutation: Option<Mutation>) -> Option<()> {
        if let Some(run) = self.nodes[n].run_mut() {
            (run.grants, run.older, run.noted, run.open) = (0, 0, None, false);
            run.read = mutation == Some(Mutation::NoRead);
        }
        self.restart(n, back)
    }

    fn start(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        let mode = self.start_mode(n, mutation);
        let node = &mut self.nodes[n];
        if node.postgres != ModelPostgres::Stopped {
            return None;
        }
        match mode {
            StartMode::Standby => {
                node.postgres = ModelPostgres::Standby;
                node.standby_signal = true;
                (node.configured, node.loaded) = (None, None);
            }
            StartMode::Primary => {
                let (epoch, timeline) = (node.epoch, node.wal.last()?.timeline);
                node.standby_signal = false;
                self.begin_run(n, epoch, timeline, mutation);
            }
        }
        Some(())
    }

    /// Carries out what the node has decided.
    pub(super) fn carry_out(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        let step = self.node_step(n, mutation);
        let timeline = u8::try_from(self.applied(n).primary_term.timeline).ok()?;
        let epoch = self.nodes[n].epoch;
        let node = &mut self.nodes[n];
        match step {
            node::NodeStep::Nothing
            | node::NodeStep::WaitForPromise
            | node::NodeStep::RunAsPrimary => {
                return None;
            }
            node::NodeStep::Stop => {
                node.postgres = ModelPostgres::Stopped;
                self.disconnect(n);
            }
            node::NodeStep::Enter(epoch) => node.epoch = epoch,
            node::NodeStep::CloseIntake => node.configured = None,
            node::NodeStep::Report(report) => self.reports[n] = Some(report),
            node::NodeStep::Promote(timeline) => self.promote(n, timeline, mutation)?,
            node::NodeStep::Follow(primary) => {
                let from = u8::try_from(index(primary)).ok()?;
                (node.configured, node.abandoned_promotion) = (Some((from, timeline)), None);
            }
            node::NodeStep::Rewind(_) => {
                node.postgres = ModelPostgres::Rewinding(epoch);
                (node.receiver, node.abandoned_promotion) = (None, None);
            }
        }
        Some(())
    }

    pub(super) fn promote(
        &mut self,
        n: usize,
        timeline: u32,
        mutation: Option<Mutation>,
    ) -> Option<()> {
        let epoch = self.nodes[n].epoch;
        let node = &mut self.nodes[n];
        if node.wal.len() >= WAL {
            return None;
        }
        let timeline = if mutation == Some(Mutation::TimelineByPostgres) {
            node.wal.last()?.timeline + 1
        } else {
            u8::try_from(timeline).ok()?
        };
        if self.used_timelines >> timeline & 1 == 1 {
            self.violation = Some(ModelViolation::TimelineUsedTwice);
        }
        self.used_timelines |= 1 << timeline;
        node.wal.push(ModelRecord { timeline, write: None });
        node.standby_signal = false;
        self.begin_run(n, epoch, timeline, mutation);
        Some(())
    }

    pub(super) fn begin_run(
        &mut self,
        n: usize,
        epoch: u64,
        timeline: u8,
        mutation: Option<Mutation>,
    ) {
        let began = u8::try_from(self.nodes[n].wal.len()).unwrap();
        let run = ModelRun {
            epoch,
            timeline,
            grants: 0,
            older: 0,
            read: mutation == Some(Mutation::NoRead),
            names: NamesState::Unset,
            waits: None,
            lingering: None,
            noted: None,
            began,
            open: false,
            confirmed: [0; MAX],
            under_way: [0; MAX],
        };
        self.nodes[n].postgres = ModelPostgres::Primary(Box::new(run));
    }

    /// Carries out what the primary has decided.
    pub(super) fn primary_term(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        if self.node_step(n, mutation) != node::NodeStep::RunAsPrimary {
            return None;
        }
        let step = self.primary_step(n, mutation);
        let state = Rc::clone(self.applied(n));
        let present = Rc::ptr_eq(&state, self.last()) && self.majority_is_up(&self.last().voters);
        let end = u8::try_from(self.nodes[n].wal.len()).ok()?;
        let run = self.nodes[n].run_mut()?;
        match step {
            primary::PrimaryStep::Read if present => run.read = true,
            primary::PrimaryStep::SetNames(change) => {
                run.lingering = run.waits.take();
                run.waits = state.primary_term.target().cloned().map(Rc::new);
                // Nobody lingers where there was nothing.
                run.names = if run.lingering.is_some() {
                    NamesState::Loading(change)
                } else {
                    NamesState::Loaded(change)
                };
                self.acknowledge(n, mutation);
            }
            primary::PrimaryStep::Note(change) => run.noted = Some((change, end)),
            primary::PrimaryStep::CommitSyncConfig { epoch, change } => {
                self.proposals.insert(Proposal::CommitSyncConfig(epoch, change)).then_some(())?;
            }
            primary::PrimaryStep::OpenGate => {
                run.open = true;
                self.opened = self.opened.max(run.epoch);
            }
            _ => return None,
        }
        Some(())
    }

    pub(super) fn receiver_starts(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        let (from, timeline) = self.nodes[n].loaded?;
        let from = from as usize;
        let writes = self.nodes[from].run()?.timeline;
        // Where its WAL has diverged the walsender sends what was before that, and nothing of the
        // present timeline; but it is told all the same how far the standby has replayed. Measured
        // with Postgres 17.
        let may = writes == timeline || mutation == Some(Mutation::FollowsAnyTimeline);
        if from == n || !may {
            return None;
        }
        let end = u8::try_from(self.nodes[n].wal.len()).ok()?;
        if !self.is_beginning(n, from) {
            self.violation = Some(ModelViolation::ConfirmsWhatItHasNot);
        }
        self.nodes[n].receiver = u8::try_from(from).ok();
        let run = self.nodes[from].run_mut()?;
        run.under_way[n] = run.under_way[n].max(end);
        Some(())
    }

    pub(super) fn receive(&mut self, n: usize) -> Option<()> {
        let from = self.nodes[n].receiver? as usize;
        self.nodes[from].run()?;
        if !self.is_beginning(n, from) {
            return None;
        }
        let next = *self.nodes[from].wal.get(self.nodes[n].wal.len())?;
        self.nodes[n].wal.push(next);
        let end = u8::try_from(self.nodes[n].wal.len()).ok()?;
        self.nodes[from].run_mut()?.under_way[n] = end;
        Some(())
    }

    pub(super) fn rewind_ends(
        &mut self,
        n: usize,
        from: usize,
        mutation: Option<Mutation>,
    ) -> Option<()> {
        let ModelPostgres::Rewinding(diverged_in) = self.nodes[n].postgres else { return None };
        // The primary that it was begun with, even when that one is no longer the primary, or a
        // later one.
        let runs = self.nodes[from].run().is_some_and(|run| run.epoch >= diverged_in);
        let anybody = mutation == Some(Mutation::CloneFromAnybody)
            && self.nodes[from].up
            && self.nodes[from].postgres == ModelPostgres::Standby;
        if from == n || !(runs || anybody) {
            return None;
        }
        self.nodes[n].wal = self.nodes[from].wal.clone();
        let node = &mut self.nodes[n];
        node.postgres = ModelPostgres::Standby;
        node.standby_signal = true;
        (node.configured, node.loaded, node.receiver) = (None, None, None);
        Some(())
    }

    /// A heartbeat is heard and acknowledged.
    pub(super) fn grant(
        &mut self,
        n: usize,
        voter: usize,
        mutation: Option<Mutation>,
    ) -> Option<()> {
        let run = self.nodes[n].run()?;
        if self.node_step(n, mutation) != node::NodeStep::RunAsPrimary || !self.nodes[voter].up {
            return None;
        }
        let (mine, theirs) = (self.nodes[n].membership, self.nodes[voter].membership);
        let heartbeat =
            Heartbeat { epoch: run.epoch, start: StartNumber(1), membership: u64::from(mine) };
        let membership =
            if mutation == Some(Mutation::MembershipNotCompared) { mine } else { theirs };
        let votes = [n, voter].into_iter().all(|log| self.voters_in_log(log).contains(&id(voter)));
        let votes_by = votes.then_some(u64::from(membership));
        let context = HeartbeatContext {
            primary_term: &self.applied(voter).primary_term,
            votes_by,
            now: BootTime(1),
            lease_ms: 1,
        };
        Voter::started(self.nodes[voter].epoch, BootTime(0), 0).hear(&heartbeat, context).ok()?;
        self.nodes[voter].free = false;
        let run = self.nodes[n].run_mut()?;
        (run.grants, run.older) = (run.grants | 1 << voter, run.older & !(1 << voter));
        Some(())
    }

    pub(super) fn write(&mut self, n: usize, mutation: Option<Mutation>) -> Option<()> {
        if !self.is_open(n) || self.nodes[n].wal.len() >= WAL || self.made_in.len() >= 12 {
            return None;
        }
        let write = u8::try_from(self.made_in.len()).ok()?;
        let run = self.nodes[n].run()?;
        let record = ModelRecord { timeline: run.timeline, write: Some(write) };
        self.made_in.push(run.epoch);
        self.nodes[n].wal.push(record);
        self.left.writes -= 1;
        self.acknowledge(n, mutation);
        Some(())
    }

    /// Clients hear of every write that the names in force, or those that some walsender still goes
    /// by, let through.
    pub(super) fn acknowledge(&mut self, n: usize, mutation: Option<Mutation>) {
        let node = &self.nodes[n];
        let Some(run) = node.run() else { return };
        let lets_through = |config: &SyncConfig, end: u8| {
            let mut config = config.clone();
            if mutation == Some(Mutation::OneConfirmationLess) {
                config.required = config.required.saturating_sub(1);
            }
            config.is_confirmed_by(|who| run.confirmed[index(who)] >= end)
        };
        let mut acknowledged = Vec::new();
        for (at, record) in node.wal.iter().enumerate().skip(run.began as usize) {
            let end = u8::try_from(at + 1).unwrap();
            let waits = [&run.waits, &run.lingering];
            if let Some(write) = record.write
                && self.made_in[write as usize] == run.epoch
                && waits.into_iter().flatten().any(|config| lets_through(config, end))
            {
                acknowledged.push(write);
            }
        }
        let epoch = run.epoch;
        for write in acknowledged {
            self.acknowledged |= 1 << write;
            let who = *self.confirmer.entry(epoch).or_insert(u8::try_from(n).unwrap());
            if who as usize != n {
                self.violation = Some(ModelViolation::TwoConfirmInOneEpoch);
            }
        }
    }
}
