//! This member's own Postgres: carries out `pgraft_core::failover::node::next_step`, and for the
//! primary `primary::next_step`.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::Command;
use pgraft_core::failover::lease::StartNumber;
use pgraft_core::failover::node::{self, Intake, NodeFacts, NodeStep, ServerMode};
use pgraft_core::failover::primary::{self, NamesState, PrimaryFacts, PrimaryStep};
use pgraft_core::failover::{History, Holds, Phase, PrimaryTerm, Report};
use pgraft_core::status::WalPosition;
use tokio::time::Instant;

use super::primary::PrimaryRun;
use super::{Durable, Failover, ServerDirective, ServerState};
use crate::machine;
use crate::node::NodeShared;

/// While nothing is expected to happen.
const IDLE_POLL: Duration = Duration::from_millis(250);
/// While something is.
const FAST_POLL: Duration = Duration::from_millis(5);
/// After a proposal or a read that did not succeed.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// When the agent takes its next step, unless something changes before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Fast,
    Idle,
}

/// What this member remembers of one run of its server as the primary of one epoch.
#[derive(Default)]
struct PrimaryMemory {
    of: Option<(u64, i64)>,
    read: bool,
    noted: Option<(u64, WalPosition)>,
    open: bool,
    retry_at: Option<Instant>,
}

/// Steers this member's Postgres. It alone reads and writes what the member has promised on disk.
pub struct Agent {
    node: Arc<NodeShared>,
    failover: Arc<Failover>,
    durable: Durable,
    memory: PrimaryMemory,
    /// Whether this member voted at the last step.
    votes: Option<bool>,
}

impl Agent {
    /// For the server of this member.
    pub fn new(node: Arc<NodeShared>, failover: Arc<Failover>, durable: Durable) -> Self {
        Self { node, failover, durable, memory: PrimaryMemory::default(), votes: None }
    }

    /// Acts for as long as it is polled; ends if this member cannot keep its promises.
    pub async fn run(mut self) {
        let mut applied = self.node.applied.clone();
        loop {
            let pace = match self.act().await {
                Ok(pace) => pace,
                Err(error) => {
                    self.failover.postgres.gate(None);
                    tracing::error!("failover: could not write this node's promises: {error}");
                    return;
                }
            };
            let pause = if pace == Pace::Fast { FAST_POLL } else { IDLE_POLL };
            tokio::select! {
                biased; // in no random order: a simulation repeats itself
                changed = applied.changed() => if changed.is_err() { return },
                () = self.failover.agent.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One step.
    async fn act(&mut self) -> io::Result<Pace> {
        let observed = self.failover.postgres.observed();
        let repair = self.failover.postgres.repair().filter(|_| observed.is_none());
        if observed.is_none() && repair.is_none() {
            return Ok(Pace::Fast);
        }
        let bootstraps = match &observed {
            Some(observed) => {
                if let Some(ended) = self.durable.runs(observed.run)? {
                    self.failover.primary.has_ended(ended);
                }
                self.enters_as_bootstrap_node(observed)?
            }
            None => false,
        };
        let applied = self.node.applied.borrow().clone();
        let Some(primary_term) = &applied.cluster.primary_term else {
            if observed.is_some() {
                let postgres = &self.failover.postgres;
                postgres.gate(bootstraps.then(|| postgres.now().after(self.failover.lease_ms)));
            }
            return Ok(Pace::Idle);
        };
        self.note_vote();
        let now = self.failover.postgres.now();
        self.failover.voter.learn(Some(primary_term), now);
        let server = match &observed {
            Some(observed) => self.server_mode(observed, primary_term),
            None => ServerMode::Rewinding { diverged_in: repair.and_then(|r| r.diverged_in) },
        };
        let step = node::next_step(&NodeFacts {
            me: self.node.settings.node_id,
            primary_term,
            epoch: self.failover.voter.epoch(),
            free: self.failover.voter.is_free(now),
            server,
        });
        if let (NodeStep::RunAsPrimary, Some(observed)) = (step, &observed) {
            return self.act_as_primary(observed, primary_term).await;
        }
        match step {
            // A server that is being promoted asks the voters to wait already.
            NodeStep::Promote(_) => {
                self.failover.primary.promoting(primary_term.epoch, self.durable.start);
            }
            _ => self.failover.primary.leave(),
        }
        self.show(step, server);
        let info = applied.cluster.members.get(&primary_term.primary).and_then(|m| m.info.as_ref());
        let follow = info.map(|info| {
            let timeline = primary_term.timeline;
            ServerDirective::Follow(primary_term.primary, info.postgres.clone(), timeline)
        });
        self.carry_out(step, primary_term, follow.clone())?;
        let idle =
            matches!(step, NodeStep::Nothing | NodeStep::Rewind(_)) && primary_term.is_settled();
        if idle {
            // The same directive as before, at a slower pace.
            let intake =
                Intake::Open { from: primary_term.primary, timeline: primary_term.timeline };
            let follows = observed.as_ref().is_some_and(|server| server.intake == intake);
            let directive = follow.filter(|_| follows).unwrap_or(ServerDirective::Close);
            self.failover.postgres.direct(directive, false);
        }
        Ok(if idle || observed.is_none() { Pace::Idle } else { Pace::Fast })
    }

    /// The server in the terms of the protocol.
    fn server_mode(&self, observed: &ServerState, primary_term: &PrimaryTerm) -> ServerMode {
        if !observed.standby {
            // A timeline is assigned once: a server on this one was promoted for this primary term.
            let timeline = if machine::gives_timelines() {
                observed.end.timeline
            } else {
                primary_term.timeline
            };
            let own = primary_term.primary == self.node.settings.node_id
                && primary_term.phase == Phase::Steady
                && timeline == primary_term.timeline;
            return ServerMode::Primary {
                epoch: if own { primary_term.epoch } else { 0 },
                timeline,
            };
        }
        let diverged = self
            .failover
            .voter
            .history()
            .filter(|(epoch, _)| *epoch == primary_term.epoch)
            .map(|(_, history)| !history.continues(observed.end));
        let (intake, diverged) = if machine::compares_histories() {
            (observed.intake, diverged)
        } else if diverged == Some(true) {
            // A simulation without the rule follows first, and compares later.
            (Intake::Closed, diverged)
        } else {
            (observed.intake, Some(false))
        };
        ServerMode::Standby {
            consistent: observed.consistent,
            abandoned_promotion: (observed.newest_timeline > observed.end.timeline)
                .then_some(observed.newest_timeline),
            intake,
            end: observed.end,
            diverged,
        }
    }

    /// Whether this member is its cluster's bootstrap node, or may become it, and was never a
    /// primary: no other node can be the first primary. It enters epoch 1 before the cluster exists
    /// as a rule, and afterwards if the cluster was created before this member had observed its
    /// server.
    fn enters_as_bootstrap_node(&mut self, observed: &ServerState) -> io::Result<bool> {
        let bootstraps = !observed.standby
            && self.node.local.identity().cluster.is_none_or(|c| c.bootstrapped_here)
            && self.durable.was_never_primary();
        if bootstraps && self.failover.voter.epoch() == 0 {
            self.enter(1)?;
        }
        Ok(bootstraps)
    }

    /// Puts an epoch on disk, then enters it.
    fn enter(&mut self, epoch: u64) -> io::Result<()> {
        self.durable.enter(epoch)?;
        self.failover.voter.enter(epoch);
        Ok(())
    }

    /// A member that gets its vote begins with a full promise.
    fn note_vote(&mut self) {
        let votes = self.node.voters_in_log().0.contains(&self.node.settings.node_id);
        if votes && self.votes == Some(false) {
            self.failover.voter.got_vote(self.failover.postgres.now());
        }
        self.votes = Some(votes);
    }

    /// Carries out every step but the primary's.
    fn carry_out(
        &mut self,
        step: NodeStep,
        primary_term: &PrimaryTerm,
        follow: Option<ServerDirective>,
    ) -> io::Result<()> {
        let direct = |directive| self.failover.postgres.direct(directive, true);
        match step {
            NodeStep::Nothing
            | NodeStep::WaitForPromise
            | NodeStep::Rewind(_)
            | NodeStep::RunAsPrimary => {}
            // A new member was never recruited: it enters the present epoch and follows.
            NodeStep::Enter(epoch) => {
                self.enter(epoch)?;
                self.failover.poke();
            }
            NodeStep::Stop => direct(ServerDirective::Stop),
            NodeStep::CloseIntake => direct(ServerDirective::Close),
            NodeStep::Promote(timeline) => {
                if let Some(target) = primary_term.target() {
                    direct(ServerDirective::Promote(timeline, primary_term.change, target.clone()));
                }
            }
            NodeStep::Report(report) => {
                if self.failover.voter.report(report) {
                    log_report(report);
                    self.failover.leader.ask();
                }
            }
            NodeStep::Follow(_) => follow.into_iter().for_each(direct),
        }
        Ok(())
    }

    /// One step as the primary.
    async fn act_as_primary(
        &mut self,
        observed: &ServerState,
        primary_term: &PrimaryTerm,
    ) -> io::Result<Pace> {
        let epoch = primary_term.epoch;
        if self.memory.of != Some((epoch, observed.run)) {
            self.memory =
                PrimaryMemory { of: Some((epoch, observed.run)), ..PrimaryMemory::default() };
        }
        self.durable.record_primary()?;
        let start = self.durable.start;
        if self.failover.primary.has_resigned(epoch, start)
            && *self.failover.primary.ended().borrow() == Some((epoch, start))
        {
            self.failover.primary.leave(); // what remains is to be recruited
            return Ok(Pace::Fast);
        }
        let step = self.primary_step(observed, primary_term);
        if step == PrimaryStep::OpenGate {
            self.memory.open = true;
            tracing::info!(
                "failover: this node is the primary of epoch {epoch} and accepts writes"
            );
        }
        let settled = primary_term.is_settled() && self.memory.open;
        self.set_primary_run(epoch, start, observed.history.clone(), settled);
        let waits_for = match &step {
            PrimaryStep::WaitFor(standbys) => standbys.clone(),
            _ => BTreeSet::new(),
        };
        self.failover.progress.set_rewind(None);
        self.failover.progress.show(primary_step_text(&step).into(), waits_for);
        self.carry_out_as_primary(step, observed.end, primary_term).await;
        Ok(if settled { Pace::Idle } else { Pace::Fast })
    }

    fn primary_step(&self, observed: &ServerState, primary_term: &PrimaryTerm) -> PrimaryStep {
        let (voters, _) = self.node.voters_in_log();
        let confirmed = match self.memory.noted {
            Some(_) if !machine::keeps_the_barrier() => voters.clone(),
            Some((_, end)) => self.failover.primary.confirmed_by(end),
            None => BTreeSet::new(),
        };
        primary::next_step(&PrimaryFacts {
            primary_term,
            read: self.memory.read,
            names: match observed.names {
                None => NamesState::Unset,
                Some((change, true)) => NamesState::Loaded(change),
                Some((change, false)) => NamesState::Loading(change),
            },
            noted: self.memory.noted.map(|(change, _)| change),
            confirmed: &confirmed,
            lease: self.failover.primary.lease_until(&voters).is_some(),
            open: self.memory.open,
        })
    }

    fn set_primary_run(&self, epoch: u64, start: StartNumber, history: History, settled: bool) {
        let (open, unsettled) = (self.memory.open, !settled);
        self.failover.primary.set(PrimaryRun { epoch, start, history, open, unsettled });
    }

    async fn carry_out_as_primary(
        &mut self,
        step: PrimaryStep,
        end: WalPosition,
        primary_term: &PrimaryTerm,
    ) {
        let ready = self.memory.retry_at.is_none_or(|at| Instant::now() >= at);
        let names = |fast| {
            if let Some(target) = primary_term.target() {
                let directive = ServerDirective::Names(primary_term.change, target.clone());
                self.failover.postgres.direct(directive, fast);
            }
        };
        match step {
            PrimaryStep::Read if ready => {
                self.memory.read = self.node.wait_for_read_index().await;
                self.memory.retry_at = (!self.memory.read).then(|| Instant::now() + RETRY_DELAY);
            }
            PrimaryStep::SetNames(_) => names(true),
            PrimaryStep::Note(change) => self.memory.noted = Some((change, end)),
            PrimaryStep::CommitSyncConfig { epoch, change } if ready => {
                let at_ms = machine::wall_clock_us() / 1000;
                self.propose(Command::CommitSyncConfig { epoch, change, at_ms }).await;
            }
            PrimaryStep::Nothing if ready => {
                // A voter confirms commits; a member that leaves stops to do so first.
                let voters = self.node.applied.borrow().cluster.electorate();
                match primary::wanted(primary_term, &voters) {
                    Some(standbys) => {
                        let (epoch, change) = (primary_term.epoch, primary_term.change);
                        self.propose(Command::ProposeSyncConfig { epoch, change, standbys }).await;
                    }
                    None => names(false),
                }
            }
            PrimaryStep::OpenGate => self.failover.primary.extend(&self.node.voters_in_log().0),
            _ => {}
        }
    }

    async fn propose(&mut self, command: Command) {
        tracing::info!("failover: proposing {}", command.kind());
        let result = self.node.propose(command).await;
        if let Err(why) = &result {
            tracing::info!("failover: the proposal was not committed: {why}");
        }
        self.memory.retry_at = result.is_err().then(|| Instant::now() + RETRY_DELAY);
    }

    /// Shows the step in the status, and logs a new one.
    fn show(&self, step: NodeStep, server: ServerMode) {
        let rewind = match step {
            NodeStep::Rewind(primary) => Some(primary),
            _ => None,
        };
        self.failover.progress.set_rewind(rewind);
        let text = step_text(step, server);
        let changed = self.failover.progress.show(text.clone(), BTreeSet::new());
        if changed && !matches!(step, NodeStep::Nothing | NodeStep::Report(_)) {
            tracing::info!("failover: {text}");
        }
    }
}

fn log_report(Report { epoch, holds }: Report) {
    match holds {
        Holds::UpTo(end) => {
            tracing::info!(
                "failover: recruited for epoch {epoch}; the WAL of this node ends at {end}"
            );
        }
        Holds::NothingSince(since) => tracing::info!(
            "failover: recruited for epoch {epoch} during a rewind; this node has confirmed nothing since epoch {since}"
        ),
    }
}

fn step_text(step: NodeStep, server: ServerMode) -> String {
    let waits = matches!(
        server,
        ServerMode::Rewinding { .. } | ServerMode::Standby { consistent: false, .. }
    );
    match step {
        NodeStep::Nothing if waits => "waiting for Postgres".into(),
        NodeStep::Nothing => "idle".into(),
        NodeStep::Stop => "stopping Postgres: it is no longer the primary".into(),
        NodeStep::WaitForPromise => {
            "waiting for the promise to the previous primary to expire".into()
        }
        NodeStep::Enter(epoch) => format!("entering epoch {epoch}"),
        NodeStep::CloseIntake => "closing the WAL intake".into(),
        NodeStep::Report(_) => "recruited".into(),
        NodeStep::Promote(timeline) => format!("promoting Postgres to timeline {timeline}"),
        NodeStep::Follow(primary) => format!("following node {primary}"),
        NodeStep::Rewind(primary) => format!("waiting for a rewind to node {primary}"),
        NodeStep::RunAsPrimary => "acting as primary".into(),
    }
}

const fn primary_step_text(step: &PrimaryStep) -> &'static str {
    match step {
        PrimaryStep::Nothing => "acting as primary",
        PrimaryStep::Read => "catching up with the Raft log",
        PrimaryStep::SetNames(_) | PrimaryStep::WaitForNames => "setting synchronous_standby_names",
        PrimaryStep::Note(_) | PrimaryStep::WaitFor(_) => "waiting for standbys to confirm its WAL",
        PrimaryStep::CommitSyncConfig { .. } => "committing the sync config",
        PrimaryStep::WaitForLease => "waiting for the lease",
        PrimaryStep::OpenGate => "opening the gate",
    }
}

#[cfg(test)]
mod tests {
    use pgraft_core::NodeId;

    use super::*;

    fn text(step: NodeStep) -> String {
        step_text(step, ServerMode::Primary { epoch: 1, timeline: 1 })
    }

    #[test]
    fn each_step_has_a_text() {
        let node = NodeId::new(2).unwrap();
        assert_eq!(text(NodeStep::Nothing), "idle");
        let rewinding = ServerMode::Rewinding { diverged_in: None };
        assert_eq!(step_text(NodeStep::Nothing, rewinding), "waiting for Postgres");
        assert_eq!(text(NodeStep::Stop), "stopping Postgres: it is no longer the primary");
        assert_eq!(
            text(NodeStep::WaitForPromise),
            "waiting for the promise to the previous primary to expire"
        );
        assert_eq!(text(NodeStep::Enter(3)), "entering epoch 3");
        assert_eq!(text(NodeStep::CloseIntake), "closing the WAL intake");
        assert_eq!(text(NodeStep::Promote(4)), "promoting Postgres to timeline 4");
        assert_eq!(text(NodeStep::Follow(node)), "following node 2");
        assert_eq!(text(NodeStep::Rewind(node)), "waiting for a rewind to node 2");
        assert_eq!(primary_step_text(&PrimaryStep::Nothing), "acting as primary");
        assert_eq!(primary_step_text(&PrimaryStep::WaitForLease), "waiting for the lease");
    }
}
