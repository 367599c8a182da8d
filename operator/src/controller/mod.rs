//! The driver: observe ▸ validate ▸ plan ▸ act ▸ publish, once a pass. It never sleeps: a wait is a step, and comes back as a requeue.

mod act;
mod apply;
mod context;
mod error;
pub mod health;
mod observe;
mod publish;
pub mod run;
pub mod sql;
pub mod telemetry;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use std::sync::Arc;
use std::time::Duration;

pub use context::Context;
pub use error::Error;

use crate::api::PgRaftCluster;
use crate::core::step::Outcome;
use crate::core::{Observed, plan, validate};

/// One pass over one cluster.
///
/// # Errors
/// [`Error`]; the status says so too, where it could be written.
pub async fn reconcile(cr: Arc<PgRaftCluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    // The cache may be behind what this process itself wrote last.
    let api: Api<PgRaftCluster> = Api::namespaced(ctx.client.clone(), &cr.namespace().unwrap_or_default());
    let fresh = api.get_opt(&cr.name_any()).await.map_err(Error::kube("read the PgRaftCluster"))?;
    let Some(cr) = fresh.filter(|cr| cr.metadata.deletion_timestamp.is_none()) else {
        ctx.forget(&cr.uid().unwrap_or_default());
        return Ok(Action::await_change()); // what belongs to it goes by its owner references
    };
    let seen = observe::observe(&ctx, &cr, Timestamp::now()).await?;
    let (outcome, failure) = step(&ctx, &cr, &seen).await;
    publish::publish(&ctx, &cr, &seen, &outcome).await?;
    match failure {
        Some(error) => Err(error),
        None => Ok(requeue(&outcome)),
    }
}

/// Decides, and does it.
async fn step(ctx: &Context, cr: &PgRaftCluster, seen: &Observed) -> (Outcome, Option<Error>) {
    let cluster = match validate::validate(cr, &ctx.defaults) {
        Ok(cluster) => cluster,
        Err(invalid) => return (Outcome::Invalid(invalid), None),
    };
    let step = plan::next_step(&cluster, seen);
    match act::act(ctx, &cluster, seen, step.clone()).await {
        Ok(taken) => (Outcome::Took(taken), None),
        Err(error) => (Outcome::Failed { step, reason: error.reason(), message: error.to_string() }, Some(error)),
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
