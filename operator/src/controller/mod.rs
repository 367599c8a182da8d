//! The driver: observe ▸ validate ▸ plan ▸ act ▸ publish, once a pass. It never sleeps: a wait is a step, and comes back as a requeue.
//!
//! ```text
//!  watches ─▶ cache ─▶ a glance: is all as it was? ─ yes ─▶ publish (mostly nothing), and the API server was not asked at all
//!                                                 └ no ──▶ a close look at the API server ▸ plan ▸ act ▸ publish
//! ```
//!
//! What is done, and every new thing that is said, follows from a close look: news that are still on their way can't lead to a wrong step.

mod act;
mod apply;
mod cache;
mod certificates;
mod configuration;
mod context;
pub mod election;
mod error;
mod facts;
pub mod http;
mod look;
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

use crate::api::PgRaftCluster;
use crate::core::render::template;
use crate::core::step::{Outcome, Step};
use crate::core::{Cluster, Observed, plan, validate};
use look::Look;
use publish::Pass;

/// How many glances at the leader alone follow each other before everybody is asked again: a minute's worth.
const GLANCES: u32 = 12;
/// Conflicts in a row that are the ordinary course of things, and are not told anybody.
const CONFLICTS: u32 = 5;

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
    result.map(|outcome| outcome.map_or_else(Action::await_change, |outcome| requeue(&outcome)))
}

/// None for a cluster that is gone.
async fn pass(cr: &PgRaftCluster, ctx: &Context, id: u64) -> Result<Option<Outcome>, Error> {
    if cr.metadata.deletion_timestamp.is_none()
        && let Some(outcome) = undisturbed(cr, ctx, id).await?
    {
        return Ok(Some(outcome));
    }
    let api: Api<PgRaftCluster> = Api::namespaced(ctx.client.clone(), &cr.namespace().unwrap_or_default());
    let fresh = api.get_opt(&cr.name_any()).await.map_err(Error::kube("read the PgRaftCluster"))?;
    let Some(cr) = fresh.filter(|cr| cr.metadata.deletion_timestamp.is_none()) else {
        ctx.memories.forget(&cr.uid().unwrap_or_default());
        return Ok(None); // what belongs to it goes by its owner references
    };
    let seen = observe::observe(ctx, &cr, Timestamp::now(), Look::Closely).await?;
    let cluster = validate::validate(&cr, &ctx.defaults);
    let template = cluster.as_ref().ok().map(template);
    let (outcome, failure) = match cluster {
        Ok(cluster) => step(ctx, &cluster, &seen).await,
        Err(invalid) => (Outcome::Invalid(invalid), None),
    };
    let pass = Pass { ctx, id, cr: &cr, template, seen: &seen, look: Look::Closely };
    match failure {
        // The world has moved on since it was observed: nobody need know, and the next pass sees it as it is.
        Some(error) if error.has_moved_on() && pass.conflicts_in_a_row() < CONFLICTS => Err(error),
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

/// What came of a pass that found nothing to do and nothing new to say in what the watches have brought; None when a closer look is wanted.
async fn undisturbed(cr: &PgRaftCluster, ctx: &Context, id: u64) -> Result<Option<Outcome>, Error> {
    let version = cr.resource_version();
    let (current, leader) = ctx.memories.of(&cr.uid().unwrap_or_default(), |m| (m.is_current(version.as_deref()), m.leader));
    let Some(status) = cr.status.as_ref().filter(|_| current && ctx.cache.is_whole()) else { return Ok(None) };
    let Ok(cluster) = validate::validate(cr, &ctx.defaults) else { return Ok(None) };
    let glance = leader.filter(|(_, glances)| *glances < GLANCES).map(|(leader, _)| Look::Glance(leader));
    for look in glance.into_iter().chain([Look::Watched]) {
        let seen = observe::observe(ctx, cr, Timestamp::now(), look).await?;
        let step = plan::next_step(&cluster, &seen);
        let quiet = step == Step::Steady || (look == Look::Watched && matches!(step, Step::Wait(_)));
        if quiet && step.phase(&cluster.name) == status.phase {
            let outcome = Outcome::Took(step);
            Pass { ctx, id, cr, template: Some(template(&cluster)), seen: &seen, look }.publish(&outcome).await?;
            return Ok(Some(outcome));
        }
    }
    Ok(None)
}

/// Decides, and does it.
async fn step(ctx: &Context, cluster: &Cluster, seen: &Observed) -> (Outcome, Option<Error>) {
    let step = plan::next_step(cluster, seen);
    match act::act(ctx, cluster, seen, step.clone()).await {
        Ok(taken) => (Outcome::Took(taken), None),
        Err(error) => (Outcome::Failed { step, reason: error.reason(), message: error.to_string() }, Some(error)),
    }
}

/// One line for each new trouble. The status and an Event say so too.
fn log_failure(ctx: &Context, cr: &PgRaftCluster, pass: u64, error: &Error) {
    let words = error.to_string();
    let known = ctx.memories.of(&cr.uid().unwrap_or_default(), |memory| memory.trouble.replace(words.clone()) == Some(words));
    let (cluster, namespace, reason) = (cr.name_any(), cr.namespace(), error.reason());
    if known || error.has_moved_on() {
        tracing::debug!(namespace, cluster, pass, reason, %error, "pass failed");
    } else {
        tracing::warn!(namespace, cluster, pass, reason, %error, "pass failed");
    }
}

fn requeue(outcome: &Outcome) -> Action {
    match outcome {
        Outcome::Took(step) => Action::requeue(step.pace()),
        Outcome::Invalid(_) | Outcome::Failed { .. } => Action::requeue(Duration::from_mins(1)),
    }
}

#[cfg(test)]
mod tests;
