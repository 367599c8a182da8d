//! Tells what came of a pass: the status of the PgRaftCluster, Events, and one line of log. Writes
//! nothing else.

use jiff::SignedDuration;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};

use crate::cluster::Observed;
use crate::cluster::act::Acted;
use crate::cluster::context::Context;
use crate::cluster::error::Error;
use crate::cluster::observe::freshness::Freshness;
use crate::cluster::render::template;
use crate::cluster::status::events::{self, ClusterEvent};
use crate::cluster::status::{self, ConditionSubject};
use crate::cluster::step::{Step, StepOutcome};
use crate::cluster::validate::accepted::EffectiveSpec;
use crate::kubernetes::writer::ObjectWriter;
use pgraft_api::cluster::{PgRaftCluster, PgRaftClusterStatus};
use pgraft_api::events::EventReason;

/// How often a status is written when nothing but the lag of a member is new.
const LAG_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// One pass, up to its plan.
pub struct Pass<'a> {
    /// What every pass shares.
    pub ctx: &'a Context,
    /// The number of the pass, for the log.
    pub id: u64,
    /// The PgRaftCluster.
    pub cr: &'a PgRaftCluster,
    /// The spec in force.
    pub spec: &'a EffectiveSpec,
    /// The observation.
    pub seen: Observed,
    /// How current the observation is.
    pub freshness: Freshness,
}

/// Writes the status and the Events of a pass. An error that only means that the observation was
/// out of date is not reported: the next pass observes again.
///
/// # Errors
/// The error of the step, or of writing the status.
pub async fn publish(pass: &Pass<'_>, acted: Acted) -> Result<StepOutcome, Error> {
    let Acted { outcome, error } = acted;
    let outdated = error.as_ref().is_some_and(|error| error.reason().is_transient())
        && pass.seen.failing.reported().next().is_none();
    if !outdated {
        pass.write(&outcome).await?;
    }
    error.map_or(Ok(outcome), Err)
}

impl Pass<'_> {
    /// Whether the cluster's phase changes with this step.
    pub fn is_news(&self, step: &Step) -> bool {
        let outcome = StepOutcome::Took(step.clone());
        let phase = status::phase(self.subject(&self.cr.name_any(), ""), &self.seen, &outcome);
        self.cr.status.as_ref().is_none_or(|status| status.phase != phase)
    }

    /// Writes the status where it has changed, and the Events that go with it.
    ///
    /// # Errors
    /// The status could not be written. An Event that could not be is logged and forgotten.
    async fn write(&self, outcome: &StepOutcome) -> Result<(), Error> {
        let Self { ctx, cr, seen, .. } = self;
        let (name, namespace, uid) =
            (cr.name_any(), cr.namespace().unwrap_or_default(), cr.uid().unwrap_or_default());
        let before = cr.status.clone().unwrap_or_default();
        let after = status::derive(self.subject(&name, &namespace), seen, outcome, &before);
        self.log(&name, &namespace, outcome, before.phase != after.phase);
        self.remember(&uid, outcome, &before, &after);
        let epoch = after.last_failover.as_ref().map_or(0, |last| last.epoch);
        let told = ctx.memories.of(&uid, |memory| {
            let told = memory.told_epoch;
            memory.told_epoch = told.max(epoch);
            told
        });
        for item in events::events(&name, outcome, &before, &after) {
            // A status that could not be written does not know yet what was told already.
            if told < epoch
                || !matches!(item.reason, EventReason::FailedOver | EventReason::SwitchedOver)
            {
                self.tell(item).await;
            }
        }
        let nothing_new = cr.status.is_some() && status::differ_in_wal_only(&before, &after);
        if nothing_new || self.is_only_lag(&uid, &before, &after) {
            return Ok(());
        }
        let written = ObjectWriter::new(&ctx.client, &namespace, &name, &uid)
            .apply_status::<PgRaftCluster>(&name, &after)
            .await?;
        if let Some(version) = written {
            ctx.memories.of(&uid, |memory| memory.written = Some((version, seen.now)));
        }
        Ok(())
    }

    fn subject<'s>(&'s self, name: &'s str, namespace: &'s str) -> ConditionSubject<'s> {
        ConditionSubject {
            name,
            namespace,
            generation: self.cr.metadata.generation,
            replicas: self.spec.cr.spec.replicas,
            template: self.spec.cluster().map(template),
            storage: self.spec.cluster().map(|cluster| &cluster.storage),
            switchover: self.cr.spec.switchover.as_ref().map(|request| request.target.as_str()),
            invalid: self.spec.invalid(),
        }
    }

    fn remember(
        &self,
        uid: &str,
        outcome: &StepOutcome,
        before: &PgRaftClusterStatus,
        after: &PgRaftClusterStatus,
    ) {
        let leader = self.seen.group.as_ref().filter(|g| g.authoritative).and_then(|g| g.leader);
        let moved = matches!((&before.leader, &after.leader), (Some(old), Some(new)) if old != new);
        self.ctx.memories.of(uid, |memory| {
            let leader_only_passes = match (self.freshness, memory.leader) {
                (Freshness::LeaderOnly(_), Some((_, leader_only_passes))) => leader_only_passes + 1,
                _ => 0,
            };
            memory.leader = leader.map(|leader| (leader, leader_only_passes));
            memory.leader_changes += u64::from(moved);
            if let StepOutcome::Took(_) = outcome {
                memory.trouble = None;
            }
        });
    }

    fn is_only_lag(
        &self,
        uid: &str,
        before: &PgRaftClusterStatus,
        after: &PgRaftClusterStatus,
    ) -> bool {
        let written =
            self.ctx.memories.of(uid, |memory| memory.written.as_ref().map(|(_, at)| *at));
        written.is_some_and(|at| self.seen.now.duration_since(at) < LAG_INTERVAL)
            && status::differ_in_lag_only(before, after)
    }

    fn log(&self, cluster: &str, namespace: &str, outcome: &StepOutcome, changed: bool) {
        let pass = self.id;
        match outcome {
            StepOutcome::Took(step @ Step::Wait(why)) if changed => {
                tracing::info!(
                    namespace,
                    cluster,
                    pass,
                    step = step.name(),
                    why = why.describe(cluster).message,
                    "waiting"
                );
            }
            StepOutcome::Took(step @ Step::Steady) if changed => {
                tracing::info!(
                    namespace,
                    cluster,
                    pass,
                    step = step.name(),
                    "cluster is in the desired state"
                );
            }
            // A failure is told where it is known whether it is a new one.
            StepOutcome::Took(Step::Wait(_) | Step::Steady) | StepOutcome::Failed { .. } => {}
            StepOutcome::Took(step) => tracing::info!(
                namespace,
                cluster,
                pass,
                step = step.name(),
                "{}",
                step.describe(cluster).phase
            ),
            StepOutcome::Invalid(invalid) if changed => {
                tracing::warn!(namespace, cluster, pass, %invalid, "invalid spec");
            }
            StepOutcome::Invalid(_) => {}
        }
    }

    async fn tell(&self, events: ClusterEvent) {
        let ClusterEvent { reason, mut note } = events;
        // The API server refuses longer ones.
        let end =
            (0..=1000.min(note.len())).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        let action: String = note.chars().take(100).collect();
        let event = Event {
            type_: if reason.is_warning() { EventType::Warning } else { EventType::Normal },
            reason: format!("{reason:?}"),
            note: Some(note),
            action,
            secondary: None,
        };
        if let Err(error) = self.ctx.recorder.publish(&event, &self.cr.object_ref(&())).await {
            tracing::warn!(cluster = self.cr.name_any(), namespace = self.cr.namespace(), %error, "could not publish an Event");
        }
    }
}
