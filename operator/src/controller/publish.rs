//! Tells what came of a pass: the status of the PgRaftCluster, and Events. Writes nothing else.

use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};

use super::apply::Writer;
use super::context::Context;
use super::error::Error;
use crate::api::PgRaftCluster;
use crate::core::Observed;
use crate::core::news::{self, News};
use crate::core::status::{self, Subject};
use crate::core::step::{Outcome, Step};

/// Writes the status where it has changed, and the Events that go with it.
///
/// # Errors
/// The status could not be written. An Event that could not be is logged and forgotten.
pub async fn publish(ctx: &Context, cr: &PgRaftCluster, seen: &Observed, outcome: &Outcome) -> Result<(), Error> {
    let (name, namespace) = (cr.name_any(), cr.namespace().unwrap_or_default());
    let before = cr.status.clone().unwrap_or_default();
    let subject = Subject { name: &name, namespace: &namespace, generation: cr.metadata.generation, replicas: cr.spec.replicas };
    let after = status::derive(subject, seen, outcome, &before);
    log(&name, &namespace, outcome, before.phase != after.phase);
    for item in news::news(&name, outcome, &before, &after) {
        tell(ctx, cr, item).await;
    }
    if cr.status.as_ref() == Some(&after) {
        return Ok(());
    }
    Writer::new(&ctx.client, &namespace).apply_status::<PgRaftCluster>(&name, &after).await
}

fn log(cluster: &str, namespace: &str, outcome: &Outcome, changed: bool) {
    match outcome {
        Outcome::Took(Step::Wait(why)) if changed => tracing::info!(cluster, namespace, why = why.message(cluster), "waiting"),
        Outcome::Took(Step::Steady) if changed => tracing::info!(cluster, namespace, "all is as it is wanted"),
        // A failure is the controller's to log: it knows when it is tried again.
        Outcome::Took(Step::Wait(_) | Step::Steady) | Outcome::Failed { .. } => {}
        Outcome::Took(step) => tracing::info!(cluster, namespace, ?step, "{}", step.phase(cluster)),
        Outcome::Invalid(invalid) => tracing::warn!(cluster, namespace, %invalid, "the spec makes no sense"),
    }
}

async fn tell(ctx: &Context, cr: &PgRaftCluster, news: News) {
    let News { headline, mut note } = news;
    // The API server refuses longer ones.
    let end = (0..=1000.min(note.len())).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
    note.truncate(end);
    let action: String = note.chars().take(100).collect();
    let event = Event {
        type_: if headline.is_warning() { EventType::Warning } else { EventType::Normal },
        reason: format!("{headline:?}"),
        note: Some(note),
        action,
        secondary: None,
    };
    if let Err(error) = ctx.recorder.publish(&event, &cr.object_ref(&())).await {
        tracing::warn!(cluster = cr.name_any(), %error, "could not publish an Event");
    }
}
