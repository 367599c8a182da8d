//! One PgRaftCluster: observe ▸ validate ▸ plan ▸ act ▸ status.
//!
//! ```text
//!  PgRaftCluster ──▶ validate ──▶ ClusterSpec ─┐
//!  objects ─┐                                  ├──▶ plan ──▶ Step ──▶ act ──▶ StepOutcome
//!           ├──▶ observe ──▶ Observed ─────────┘                                  │
//!  members ─┘                                 Observed + StepOutcome ──▶ status ──▶ PgRaftClusterStatus, Events
//! ```
//!
//! Each stage has its decisions and its effects side by side:
//!
//! | stage | decides (pure) | reads or writes |
//! |---|---|---|
//! | `observe/` | `group`, `absence`, `freshness`, `facts` | `mod`, `cache`, `readiness`, `configuration` |
//! | `validate/` | `mod`, `standby` | `accepted` |
//! | `plan/` | everything | |
//! | `act/` | | everything; `render/` makes the objects |
//! | `status/` | `mod`, `events` | `publish` |
//! | `certificates/` | `mod`, `read`, `seen` | `secrets/` |
//!
//! A pass never sleeps: a wait is a step, and leads to a requeue.

pub mod act;
pub mod certificates;
pub mod context;
pub mod error;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod members;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod quantity;
pub mod render;
pub mod spec;
pub mod status;
pub mod step;
pub mod validate;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use context::Context;
pub use error::Error;
pub use observe::group::GroupView;
pub use observe::observed::Observed;
pub use spec::ClusterSpec;
pub use step::{Step, StepOutcome, WaitReason};

use act::act;
use observe::{first_freshness, latest, observe};
use pgraft_api::cluster::PgRaftCluster;
use plan::{Planned, plan};
use status::publish::{Pass, publish};
use validate::accepted::effective_spec;

/// The shortest delay before a failed step is retried.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);

/// One pass over one cluster, with its metrics and its log lines.
///
/// # Errors
/// [`Error`]; the status says so too if it could be written.
pub async fn reconcile(cr: Arc<PgRaftCluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let begun = Instant::now();
    let (id, _in_flight) = ctx.metrics.pass_begins();
    let result = Box::pin(pass(&cr, &ctx, id)).await;
    if let Err(error) = &result {
        log_failure(&ctx, &cr, id, error);
    }
    ctx.metrics.pass_ended(
        begun.elapsed(),
        result_label(&result),
        result.as_ref().err().map(|error| error.reason().as_str()),
    );
    let uid = cr.uid().unwrap_or_default();
    result.map(|outcome| {
        outcome.map_or_else(Action::await_change, |outcome| {
            requeue(&outcome, ctx.memories.next_attempt(&uid))
        })
    })
}

/// The stages, first with the cheapest observation, and again with a fresher one if the step needs
/// it. Returns None if the cluster no longer exists: its objects go with their owner.
async fn pass(cr: &PgRaftCluster, ctx: &Context, id: u64) -> Result<Option<StepOutcome>, Error> {
    let mut freshness = first_freshness(ctx, cr);
    loop {
        let Some(cr) = latest(ctx, cr, freshness).await? else {
            ctx.memories.forget(&cr.uid().unwrap_or_default());
            return Ok(None);
        };
        let spec = effective_spec(ctx, &cr).await?;
        let seen = observe(ctx, &spec.cr, Timestamp::now(), freshness).await?;
        let plan = spec.cluster().map_or_else(Planned::nothing, |cluster| plan(cluster, &seen));
        let mut pass = Pass { ctx, id, cr: &cr, spec: &spec, seen, freshness };
        if let Some(fresher) = freshness.next(&plan.step, pass.is_news(&plan.step)) {
            freshness = fresher;
            continue;
        }
        let acted = act(ctx, &spec, &mut pass.seen, plan).await;
        return publish(&pass, acted).await.map(Some);
    }
}

fn result_label(result: &Result<Option<StepOutcome>, Error>) -> &'static str {
    match result {
        Ok(None) => "gone",
        Ok(Some(StepOutcome::Took(Step::Steady))) => "steady",
        Ok(Some(StepOutcome::Took(Step::Wait(_)))) => "waiting",
        Ok(Some(StepOutcome::Took(_))) => "step",
        Ok(Some(StepOutcome::Invalid(_))) => "invalid",
        Ok(Some(StepOutcome::Failed { .. })) | Err(_) => "error",
    }
}

/// Logs an error once, until another one follows. The status and an Event report it too.
fn log_failure(ctx: &Context, cr: &PgRaftCluster, pass: u64, error: &Error) {
    let text = error.to_string();
    let known = ctx.memories.of(&cr.uid().unwrap_or_default(), |memory| {
        memory.trouble.replace(text.clone()) == Some(text)
    });
    let (cluster, namespace, reason) = (cr.name_any(), cr.namespace(), error.reason());
    let reason_label = reason.as_str();
    if known || reason.is_transient() {
        tracing::debug!(namespace, cluster, pass, reason = reason_label, %error, "pass failed");
    } else {
        tracing::warn!(namespace, cluster, pass, reason = reason_label, %error, "pass failed");
    }
}

/// After the interval of the step, or earlier if a failed step is retried before.
fn requeue(outcome: &StepOutcome, next_attempt: Option<Timestamp>) -> Action {
    let interval = match outcome {
        StepOutcome::Took(step) => step.interval(),
        StepOutcome::Invalid(_) | StepOutcome::Failed { .. } => Duration::from_mins(1),
    };
    let until = next_attempt
        .map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
    Action::requeue(until.map_or(interval, |until| interval.min(until.max(MIN_RETRY_DELAY))))
}

#[cfg(test)]
mod tests;
