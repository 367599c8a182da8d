//! The driver: observe ▸ validate ▸ plan ▸ act ▸ publish, once a pass. It never sleeps: a wait is a
//! step, and comes back as a requeue.
//!
//! ```text
//!  watches ─▶ cache ─▶ a glance: is all as it was? ─ yes ─▶ publish (mostly nothing), and the API server was not asked at all
//!                                                 └ no ──▶ a close look at the API server ▸ plan ▸ act ▸ publish
//! ```
//!
//! What is done, and every new thing that is said, follows from a close look: news that are still
//! on their way can't lead to a wrong step.

mod accepted;
mod act;
mod apply;
mod cache;
mod certificates;
mod configuration;
mod context;
pub mod election;
mod error;
mod facts;
mod freshness;
pub mod http;
mod member_http;
mod memory;
pub mod metrics;
mod observe;
mod publish;
mod readiness;
pub mod run;
mod sessions;
pub mod sql;
pub mod telemetry;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use context::Context;
pub use error::Error;

use crate::core::failing::Cause;
use crate::core::plan::Planned;
use crate::core::step::{MembershipRequest, Step, StepOutcome, WaitReason};
use crate::core::{ClusterSpec, Observed, plan};
use act::Acted;
use freshness::Freshness;
use pgraft_api::cluster::PgRaftCluster;
use publish::Pass;

/// How many glances at the leader alone follow each other before everybody is asked again: a
/// minute's worth.
const MAX_LEADER_ONLY_PASSES: u32 = 40;
/// The shortest pause before something that failed is tried again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// One pass over one cluster.
///
/// # Errors
/// [`Error`]; the status says so too, where it could be written.
pub async fn reconcile(cr: Arc<PgRaftCluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let begun = Instant::now();
    let (id, _in_flight) = ctx.metrics.pass_begins();
    let result = Box::pin(pass(&cr, &ctx, id)).await;
    if let Err(error) = &result {
        log_failure(&ctx, &cr, id, error);
    }
    ctx.metrics.pass_ended(begun.elapsed(), &result);
    let uid = cr.uid().unwrap_or_default();
    result.map(|outcome| {
        outcome.map_or_else(Action::await_change, |outcome| {
            requeue(&outcome, ctx.memories.next_attempt(&uid))
        })
    })
}

/// None for a cluster that is gone.
async fn pass(cr: &PgRaftCluster, ctx: &Context, id: u64) -> Result<Option<StepOutcome>, Error> {
    if cr.metadata.deletion_timestamp.is_none()
        && let Some(outcome) = undisturbed(cr, ctx, id).await?
    {
        return Ok(Some(outcome));
    }
    let api: Api<PgRaftCluster> =
        Api::namespaced(ctx.client.clone(), &cr.namespace().unwrap_or_default());
    let fresh = api.get_opt(&cr.name_any()).await.map_err(Error::kube("read the PgRaftCluster"))?;
    let Some(cr) = fresh.filter(|cr| cr.metadata.deletion_timestamp.is_none()) else {
        ctx.memories.forget(&cr.uid().unwrap_or_default());
        return Ok(None); // what belongs to it goes by its owner references
    };
    let spec = accepted::resolve(ctx, &cr).await?;
    let mut seen = observe::observe(ctx, &spec.cr, Timestamp::now(), Freshness::Live).await?;
    let (outcome, failure) = match (&spec.cluster, &spec.invalid) {
        (Some(cluster), _) => step(ctx, &cr, cluster, &mut seen).await,
        (None, Some(invalid)) => (StepOutcome::Invalid(invalid.clone()), None),
        (None, None) => (StepOutcome::Took(Step::Steady), None), // one of them is there
    };
    let pass = Pass { ctx, id, cr: &cr, spec: &spec, seen: &seen, look: Freshness::Live };
    match failure {
        // The world has moved on since it was observed: nobody need know, and the next pass sees it
        // as it is.
        Some(error) if error.has_moved_on() && seen.failing.reported().next().is_none() => {
            Err(error)
        }
        Some(error) => {
            pass.publish(&outcome).await?;
            Err(error)
        }
        None => {
            pass.publish(&outcome).await?;
            Ok(Some(outcome))
        }
    }
}

/// What came of a pass that found nothing to do and nothing new to say in what the watches have
/// brought; None when a closer look is wanted.
async fn undisturbed(
    cr: &PgRaftCluster,
    ctx: &Context,
    id: u64,
) -> Result<Option<StepOutcome>, Error> {
    let (version, uid) = (cr.resource_version(), cr.uid().unwrap_or_default());
    let (current, leader) = ctx.memories.of(&uid, |m| (m.is_current(version.as_deref()), m.leader));
    let Some(status) = cr.status.as_ref().filter(|_| current && ctx.cache.is_whole()) else {
        return Ok(None);
    };
    let spec = accepted::resolve(ctx, cr).await?;
    let Some(cluster) = &spec.cluster else { return Ok(None) };
    let glance = leader
        .filter(|(_, leader_only_passes)| *leader_only_passes < MAX_LEADER_ONLY_PASSES)
        .map(|(leader, _)| Freshness::LeaderOnly(leader));
    for look in glance.into_iter().chain([Freshness::Cached]) {
        let seen = observe::observe(ctx, &spec.cr, Timestamp::now(), look).await?;
        let Planned { step, resting } = plan::plan(cluster, &seen);
        let quiet =
            step == Step::Steady || (look == Freshness::Cached && matches!(step, Step::Wait(_)));
        let outcome = StepOutcome::Took(step);
        let pass = Pass { ctx, id, cr, spec: &spec, seen: &seen, look };
        if quiet && pass.phase(&outcome) == status.phase {
            ctx.memories.of(&uid, |memory| memory.failing(cr.metadata.generation).keep(&resting));
            pass.publish(&outcome).await?;
            return Ok(Some(outcome));
        }
        // What is to be done is decided from a close look; who is out of the leader's reach need
        // not be asked twice before that.
        if !matches!(outcome, StepOutcome::Took(Step::Wait(_) | Step::Steady)) {
            break;
        }
    }
    Ok(None)
}

/// Decides, and does it. What failed is remembered, and is a fact from now on.
async fn step(
    ctx: &Context,
    cr: &PgRaftCluster,
    cluster: &ClusterSpec,
    seen: &mut Observed,
) -> (StepOutcome, Option<Error>) {
    let Planned { step, resting } = plan::plan(cluster, seen);
    let Acted { taken, failed } = act::act(ctx, cluster, seen, &step).await;
    seen.failing = ctx.memories.of(&cluster.uid, |memory| {
        let failing = memory.failing(cr.metadata.generation);
        if matches!(step, Step::Wait(_) | Step::Steady) {
            failing.keep(&resting);
        }
        failing.clear(&step.clone().only(|target| failed.iter().all(|(part, _)| !part.targets().contains(target))).unwrap_or(Step::Steady));
        for (part, error) in &failed {
            let (reason, message) = (error.reason(), error.to_string());
            failing.record(part, &Cause::Error { reason, message, transient: error.has_moved_on() }, seen.now);
        }
        if let Some(Step::Wait(WaitReason::Refused { change, code, message })) = &taken
            && !matches!(change, MembershipRequest::SwitchOver(_)) // which has a memory of its own
            && taken.as_ref().is_some_and(|taken| matches!(taken, Step::Wait(why) if !why.is_ordinary()))
        {
            failing.record(&step, &Cause::Refused { change: *change, code: code.clone(), message: message.clone() }, seen.now);
        }
        failing.clone()
    });
    match (failed.into_iter().next(), taken) {
        (None, taken) => (StepOutcome::Took(taken.unwrap_or(step)), None),
        (Some((part, error)), _) => (
            StepOutcome::Failed { step: part, reason: error.reason(), message: error.to_string() },
            Some(error),
        ),
    }
}

/// One line for each new trouble. The status and an Event say so too.
fn log_failure(ctx: &Context, cr: &PgRaftCluster, pass: u64, error: &Error) {
    let words = error.to_string();
    let known = ctx.memories.of(&cr.uid().unwrap_or_default(), |memory| {
        memory.trouble.replace(words.clone()) == Some(words)
    });
    let (cluster, namespace, reason) = (cr.name_any(), cr.namespace(), error.reason());
    if known || error.has_moved_on() {
        tracing::debug!(namespace, cluster, pass, reason, %error, "pass failed");
    } else {
        tracing::warn!(namespace, cluster, pass, reason, %error, "pass failed");
    }
}

/// At the step's own pace, and no later than what failed is tried again.
fn requeue(outcome: &StepOutcome, next_attempt: Option<Timestamp>) -> Action {
    let pace = match outcome {
        StepOutcome::Took(step) => step.pace(),
        StepOutcome::Invalid(_) | StepOutcome::Failed { .. } => Duration::from_mins(1),
    };
    let until = next_attempt
        .map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
    Action::requeue(until.map_or(pace, |until| pace.min(until.max(SHORTEST_PAUSE))))
}

#[cfg(test)]
mod tests;
