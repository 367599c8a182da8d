//! This member's own Postgres: carries out `pgraft_core::failover::node::next_step`, and for the
//! primary `primary::next_step`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgraft_core::Command;
use pgraft_core::failover::node::{self, Intake, NodeStep, ServerMode};
use pgraft_core::failover::primary::{self, NamesState};
use pgraft_core::failover::{Holds, Phase, PrimaryTerm, Report};
use pgraft_core::status::WalPosition;
use tokio::time::Instant;

use super::lease::extend;
use super::{Failover, NodeShared, PrimaryRun, ServerDirective, ServerState, lock};
use crate::machine;

/// While nothing is expected to happen.
const IDLE_POLL: Duration = Duration::from_millis(250);
/// While something is.
const FAST_POLL: Duration = Duration::from_millis(5);
/// After a proposal or a read that did not go through.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What this member remembers of its primary term. All of it is of one epoch and one run of the
/// server.
#[derive(Default)]
struct PrimaryMemory {
    votes: Option<bool>,
    of: Option<(u64, i64)>,
    read: bool,
    noted: Option<(u64, WalPosition)>,
    open: bool,
    patience: Option<Instant>,
}

/// Acts for as long as it is polled; ends when this member can't keep its promises.
pub async fn run(shared: Arc<NodeShared>) {
    let Some(failover) = shared.failover.clone() else { return std::future::pending().await };
    let mut applied = shared.applied.clone();
    let mut memory = PrimaryMemory::default();
    loop {
        let hurry = match shared.act(&failover, &mut memory).await {
            Ok(hurry) => hurry,
            Err(error) => {
                failover.postgres.gate(None);
                tracing::error!("failover: can't write what this node has promised: {error}");
                return;
            }
        };
        tokio::select! {
            biased; // in no random order: a simulation repeats itself
            changed = applied.changed() => if changed.is_err() { return },
            () = failover.changed.notified() => {}
            () = tokio::time::sleep(if hurry { FAST_POLL } else { IDLE_POLL }) => {}
        }
    }
}

/// The server in the words of the protocol.
fn server(
    observed: &ServerState,
    primary_term: &PrimaryTerm,
    me: pgraft_core::NodeId,
    heard: Option<&(u64, pgraft_core::failover::History)>,
) -> ServerMode {
    if !observed.standby {
        // A timeline is given once: who stands on this one was promoted for this primary term.
        let timeline =
            if machine::gives_timelines() { observed.end.timeline } else { primary_term.timeline };
        let own = primary_term.primary == me
            && primary_term.phase == Phase::Steady
            && timeline == primary_term.timeline;
        return ServerMode::Primary { epoch: if own { primary_term.epoch } else { 0 }, timeline };
    }
    let diverged = heard
        .filter(|(epoch, _)| *epoch == primary_term.epoch)
        .map(|(_, history)| !history.continues(observed.end));
    let abandoned_promotion =
        (observed.newest_timeline > observed.end.timeline).then_some(observed.newest_timeline);
    let (intake, diverged) = match diverged {
        // To follow first, and to compare when there is something to compare with.
        Some(true) if !machine::compares_histories() => (Intake::Closed, diverged),
        _ if !machine::compares_histories() => (observed.intake, Some(false)),
        _ => (observed.intake, diverged),
    };
    ServerMode::Standby {
        consistent: observed.consistent,
        abandoned_promotion,
        intake,
        end: observed.end,
        diverged,
    }
}

impl NodeShared {
    /// One step; whether the next one is expected soon.
    async fn act(&self, failover: &Failover, memory: &mut PrimaryMemory) -> std::io::Result<bool> {
        let observed = failover.postgres.observed();
        let repair = failover.postgres.repair().filter(|_| observed.is_none());
        if observed.is_none() && repair.is_none() {
            return Ok(true);
        }
        if let Some(observed) = &observed
            && let Some(ended) = lock(&failover.durable).runs(observed.run)?
        {
            *lock(&failover.released_run) = Some(ended);
            failover.ended.notify_one();
        }
        let bootstraps = observed
            .as_ref()
            .map(|observed| self.enters_as_bootstrap_node(failover, observed))
            .transpose()?;
        let applied = self.applied.borrow().clone();
        let Some(primary_term) = &applied.cluster.primary_term else {
            if let Some(bootstraps) = bootstraps {
                failover
                    .postgres
                    .gate(bootstraps.then(|| failover.postgres.now().after(failover.lease_ms)));
            }
            return Ok(false);
        };
        let me = self.settings.node_id;
        self.note_vote(failover, memory);
        failover.learn(Some(primary_term));
        let heard = lock(&failover.heard).clone();
        let server = match &observed {
            Some(observed) => server(observed, primary_term, me, heard.as_ref()),
            None => ServerMode::Rewinding { diverged_in: repair.and_then(|r| r.diverged_in) },
        };
        let (epoch, free) = {
            let voter = lock(&failover.voter);
            (voter.epoch(), voter.is_free(failover.postgres.now()))
        };
        let step = node::next_step(&node::NodeFacts { me, primary_term, epoch, free, server });
        if step != NodeStep::RunAsPrimary {
            // Who is on its way asks for patience already.
            let promotes = matches!(step, NodeStep::Promote(_)).then(|| {
                PrimaryRun::promoted_soon(primary_term.epoch, lock(&failover.durable).start)
            });
            let mut primary_run = lock(&failover.primary_run);
            *primary_run = promotes;
            if primary_run.is_some() {
                failover.primary_began.notify_one();
            }
            failover.postgres.gate(None);
        }
        say(failover, &step, &server);
        let info = applied.cluster.members.get(&primary_term.primary).and_then(|m| m.info.as_ref());
        let follow = info.map(|t| {
            ServerDirective::Follow(primary_term.primary, t.postgres.clone(), primary_term.timeline)
        });
        match (step, &observed) {
            (NodeStep::RunAsPrimary, Some(observed)) => {
                return self.primary_term(failover, memory, observed, primary_term).await;
            }
            _ => carry_out(failover, step, primary_term, follow.clone())?,
        }
        let calm =
            matches!(step, NodeStep::Nothing | NodeStep::Rewind(_)) && primary_term.is_settled();
        if calm {
            // The same directive as before, at a slower pace.
            let follows = observed.as_ref().is_some_and(|l| {
                l.intake
                    == Intake::Open { from: primary_term.primary, timeline: primary_term.timeline }
            });
            failover
                .postgres
                .direct(follow.filter(|_| follows).unwrap_or(ServerDirective::Close), false);
        }
        Ok(!calm && observed.is_some())
    }

    /// Whether this member is its cluster's bootstrap node, or may become one, and has not been the
    /// primary: nobody else can be the first primary. It takes what makes it that before there is a
    /// cluster, as a rule; after it where the cluster was bootstrapped before this member had seen
    /// its server.
    fn enters_as_bootstrap_node(
        &self,
        failover: &Failover,
        observed: &ServerState,
    ) -> std::io::Result<bool> {
        let bootstraps = !observed.standby
            && self.local.identity().cluster.is_none_or(|c| c.bootstrapped_here)
            && lock(&failover.durable).was_never_primary();
        if bootstraps && lock(&failover.voter).epoch() == 0 {
            lock(&failover.durable).enter(1)?;
            lock(&failover.voter).enter(1);
        }
        Ok(bootstraps)
    }

    /// A new voter begins with a full promise: a lease may be carried by majorities that it was not
    /// part of.
    fn note_vote(&self, failover: &Failover, memory: &mut PrimaryMemory) {
        let votes = self.voters_in_log().0.contains(&self.settings.node_id);
        if votes && memory.votes == Some(false) {
            lock(&failover.voter).got_vote(failover.postgres.now(), failover.lease_ms);
        }
        memory.votes = Some(votes);
    }

    /// The primary's part.
    async fn primary_term(
        &self,
        failover: &Failover,
        memory: &mut PrimaryMemory,
        observed: &ServerState,
        primary_term: &PrimaryTerm,
    ) -> std::io::Result<bool> {
        if memory.of != Some((primary_term.epoch, observed.run)) {
            *memory = PrimaryMemory {
                votes: memory.votes,
                of: Some((primary_term.epoch, observed.run)),
                ..PrimaryMemory::default()
            };
        }
        lock(&failover.durable).record_primary()?;
        let start = lock(&failover.durable).start;
        let (voters, _) = self.voters_in_log();
        let lease = failover.lease_left(&voters).is_some();
        let confirmed = match memory.noted {
            Some(_) if !machine::keeps_the_barrier() => voters.clone(),
            noted => noted.map(|(_, end)| confirmed_by(failover, end)).unwrap_or_default(),
        };
        let names = match observed.names {
            None => NamesState::Unset,
            Some((change, true)) => NamesState::Loaded(change),
            Some((change, false)) => NamesState::Loading(change),
        };
        let facts = primary::PrimaryFacts {
            primary_term,
            read: memory.read,
            names,
            noted: memory.noted.map(|(change, _)| change),
            confirmed: &confirmed,
            lease,
            open: memory.open,
        };
        let gives_up = *lock(&failover.resigned) == Some((primary_term.epoch, start));
        if gives_up
            && lock(&failover.released_run)
                .is_some_and(|ended| ended == (primary_term.epoch, start))
        {
            *lock(&failover.primary_run) = None; // it has; what remains is to be recruited
            return Ok(true);
        }
        let step = primary::next_step(&facts);
        if step == primary::PrimaryStep::OpenGate {
            memory.open = true;
            tracing::info!(
                "failover: this node is the primary of epoch {} and takes writes",
                primary_term.epoch
            );
        }
        let settled = primary_term.is_settled();
        {
            let mut primary_run = lock(&failover.primary_run);
            // Read again, and under this lock: whoever gives the primary term up holds it, too.
            let gives_up = *lock(&failover.resigned) == Some((primary_term.epoch, start));
            *primary_run = Some(PrimaryRun {
                epoch: primary_term.epoch,
                start,
                history: observed.history.clone(),
                open: memory.open && !gives_up,
                unsettled: !settled || !memory.open || gives_up,
            });
        }
        failover.primary_began.notify_one();
        {
            let mut text = lock(&failover.text);
            text.waits_for = BTreeSet::new();
            failover.rewinds(&mut text, None);
            text.step = said(&step);
            if let primary::PrimaryStep::WaitFor(who) = &step {
                text.waits_for.clone_from(who);
            }
        }
        self.carry_out_as_primary(failover, memory, observed.end, primary_term, step).await;
        Ok(!(settled && memory.open))
    }

    async fn carry_out_as_primary(
        &self,
        failover: &Failover,
        memory: &mut PrimaryMemory,
        end: WalPosition,
        primary_term: &PrimaryTerm,
        step: primary::PrimaryStep,
    ) {
        let ready = memory.patience.is_none_or(|until| Instant::now() >= until);
        match step {
            primary::PrimaryStep::Read if ready => {
                memory.read = self.wait_for_read_index().await;
                memory.patience = (!memory.read).then(|| Instant::now() + RETRY_DELAY);
            }
            primary::PrimaryStep::SetNames(change) => {
                if let Some(target) = primary_term.target() {
                    failover.postgres.direct(ServerDirective::Names(change, target.clone()), true);
                }
            }
            primary::PrimaryStep::Note(change) => memory.noted = Some((change, end)),
            primary::PrimaryStep::CommitSyncConfig { epoch, change } if ready => {
                let at_ms = machine::wall_clock_us() / 1000;
                self.proposed(memory, Command::CommitSyncConfig { epoch, change, at_ms }).await;
            }
            primary::PrimaryStep::Nothing if ready => {
                // Who has a vote confirms commits; who leaves stops to do so first.
                let voters = self.applied.borrow().cluster.electorate();
                if let Some(standbys) = primary::wanted(primary_term, &voters) {
                    self.proposed(
                        memory,
                        Command::ProposeSyncConfig {
                            epoch: primary_term.epoch,
                            change: primary_term.change,
                            standbys,
                        },
                    )
                    .await;
                } else if let Some(target) = primary_term.target() {
                    failover
                        .postgres
                        .direct(ServerDirective::Names(primary_term.change, target.clone()), false);
                }
            }
            primary::PrimaryStep::OpenGate => extend(self, failover),
            _ => {}
        }
    }

    async fn proposed(&self, memory: &mut PrimaryMemory, command: Command) {
        tracing::info!("failover: {}", command.kind());
        let result = self.propose(command).await;
        if let Err(why) = &result {
            tracing::info!("failover: not written yet: {why}");
        }
        memory.patience = result.is_err().then(|| Instant::now() + RETRY_DELAY);
    }
}

/// Carries out every step but the primary's.
fn carry_out(
    failover: &Failover,
    step: NodeStep,
    primary_term: &PrimaryTerm,
    follow: Option<ServerDirective>,
) -> std::io::Result<()> {
    let direct = |directive| failover.postgres.direct(directive, true);
    match step {
        NodeStep::Nothing
        | NodeStep::WaitForPromise
        | NodeStep::Rewind(_)
        | NodeStep::RunAsPrimary => {}
        // A new member has never been recruited: it enters the present epoch and follows.
        NodeStep::Enter(epoch) => {
            lock(&failover.durable).enter(epoch)?;
            lock(&failover.voter).enter(epoch);
            *lock(&failover.report) = None;
            failover.poke();
        }
        NodeStep::Stop => direct(ServerDirective::Stop),
        NodeStep::CloseIntake => direct(ServerDirective::Close),
        NodeStep::Promote(timeline) => {
            if let Some(target) = primary_term.target() {
                direct(ServerDirective::Promote(timeline, primary_term.change, target.clone()));
            }
        }
        NodeStep::Report(report) => {
            let mut said = lock(&failover.report);
            if *said != Some(report) {
                log_report(report);
                *said = Some(report);
                failover.ask.notify_one();
            }
        }
        NodeStep::Follow(_) => follow.into_iter().for_each(direct),
    }
    Ok(())
}

fn log_report(report: Report) {
    match report.holds {
        Holds::UpTo(end) => tracing::info!(
            "recruited for epoch {}: the WAL of this node ends at {end:?}",
            report.epoch
        ),
        Holds::NothingSince(since) => tracing::info!(
            "recruited for epoch {}: this node is being rewound, and has confirmed nothing since epoch {since}",
            report.epoch
        ),
    }
}

/// Keeps the words of a step for whoever asks, and has news logged.
fn say(failover: &Failover, step: &NodeStep, server: &ServerMode) {
    let mut shown = lock(&failover.text);
    let rewind = match step {
        NodeStep::Rewind(primary) => Some(*primary),
        _ => None,
    };
    failover.rewinds(&mut shown, rewind);
    let text = match step {
        NodeStep::Nothing
            if matches!(
                server,
                ServerMode::Rewinding { .. } | ServerMode::Standby { consistent: false, .. }
            ) =>
        {
            "waits for its server".into()
        }
        NodeStep::Nothing => "nothing".into(),
        NodeStep::Stop => "stops its server, which is no longer the primary".into(),
        NodeStep::WaitForPromise => "waits until its promise to the last primary is over".into(),
        NodeStep::Enter(epoch) => format!("enters epoch {epoch}"),
        NodeStep::CloseIntake => "takes no more WAL".into(),
        NodeStep::Report(_) => "is recruited and has reported".into(),
        NodeStep::Promote(timeline) => format!("promotes its server to timeline {timeline}"),
        NodeStep::Follow(primary) => format!("turns to node {primary}"),
        NodeStep::Rewind(primary) => {
            format!("has WAL that node {primary} has not: it is to be rewound")
        }
        NodeStep::RunAsPrimary => return, // said by `primary_term`
    };
    if shown.step != text {
        if !matches!(step, NodeStep::Nothing | NodeStep::Report(_)) {
            tracing::info!("failover: this node {text}");
        }
        shown.step = text;
    }
}

/// Who has taken this primary's WAL up to that position.
fn confirmed_by(failover: &Failover, end: WalPosition) -> BTreeSet<pgraft_core::NodeId> {
    let answers = lock(&failover.answers);
    answers
        .confirmed
        .iter()
        .filter(|(_, has)| has.timeline == end.timeline && has.lsn >= end.lsn)
        .map(|(id, _)| *id)
        .collect()
}

fn said(step: &primary::PrimaryStep) -> String {
    match step {
        primary::PrimaryStep::Nothing => "is the primary".into(),
        primary::PrimaryStep::Read => "comes to the present".into(),
        primary::PrimaryStep::SetNames(_) | primary::PrimaryStep::WaitForNames => {
            "sets synchronous_standby_names".into()
        }
        primary::PrimaryStep::Note(_) | primary::PrimaryStep::WaitFor(_) => {
            "waits for its standbys to have its WAL".into()
        }
        primary::PrimaryStep::CommitSyncConfig { .. } => "settles whom its commits wait for".into(),
        primary::PrimaryStep::WaitForLease => "waits for its lease".into(),
        primary::PrimaryStep::OpenGate => "opens its gate".into(),
    }
}
