//! Takes the step of a plan, and remembers what failed. Writes only; decides nothing.

mod members;
mod objects;

use std::time::Instant;

use super::context::Context;
use super::error::Error;
use super::observe::observed::Observed;
use super::plan::Planned;
use super::plan::failures::{Cause, Failures};
use super::spec::ClusterSpec;
use super::step::{MembershipRequest, Step, StepOutcome, WaitReason};
use super::validate::accepted::{EffectiveSpec, SpecValidity};
use crate::kubernetes::ObjectWriter;
use objects::Actor;

/// The result of a step.
#[derive(Debug)]
pub struct Acted {
    /// For the status.
    pub outcome: StepOutcome,
    /// The first error.
    pub error: Option<Error>,
}

/// Takes the step. What failed becomes a fact of the observation, so that the status reports it.
pub async fn act(
    ctx: &Context,
    spec: &EffectiveSpec,
    seen: &mut Observed,
    Planned { step, resting }: Planned,
) -> Acted {
    let cluster = match &spec.validity {
        SpecValidity::Valid(cluster) | SpecValidity::Previous(cluster, _) => cluster,
        SpecValidity::Invalid(invalid) => {
            return Acted { outcome: StepOutcome::Invalid(invalid.clone()), error: None };
        }
    };
    let begun = Instant::now();
    let Taken { taken, failed } = take_parts(ctx, cluster, seen, &step).await;
    let idle = matches!(step, Step::Wait(_) | Step::Steady);
    if !idle {
        ctx.metrics.step(step.name(), begun.elapsed(), taken.is_some());
    }
    seen.failing = ctx.memories.of(&cluster.uid, |memory| {
        let failing = memory.failing(spec.cr.metadata.generation);
        if idle {
            failing.keep(&resting);
        }
        record(failing, &step, taken.as_ref(), &failed, seen.now);
        failing.clone()
    });
    match failed.into_iter().next() {
        None => Acted { outcome: StepOutcome::Took(taken.unwrap_or(step)), error: None },
        Some((part, error)) => {
            let (reason, message) = (error.reason(), error.to_string());
            Acted {
                outcome: StepOutcome::Failed { step: part, reason, message },
                error: Some(error),
            }
        }
    }
}

/// Updates the failures of the targets of a step.
fn record(
    failing: &mut Failures,
    step: &Step,
    taken: Option<&Step>,
    failed: &[(Step, Error)],
    now: jiff::Timestamp,
) {
    let succeeded =
        step.clone().only(|target| failed.iter().all(|(part, _)| !part.targets().contains(target)));
    failing.clear(&succeeded.unwrap_or(Step::Steady));
    for (part, error) in failed {
        let cause = Cause::Error { reason: error.reason(), message: error.to_string() };
        failing.record(part, &cause, now);
    }
    match taken {
        // `SwitchoverAttempt` remembers it.
        Some(Step::Wait(WaitReason::Refused {
            change: MembershipRequest::SwitchOver(_), ..
        })) => {}
        Some(Step::Wait(why @ WaitReason::Refused { change, code, message }))
            if !why.is_ordinary() =>
        {
            let cause =
                Cause::Refused { change: *change, code: code.clone(), message: message.clone() };
            failing.record(step, &cause, now);
        }
        _ => {}
    }
}

/// The parts of a step that were taken, and those that failed.
#[derive(Debug, Default)]
struct Taken {
    /// None if all of them failed. A change that the leader refuses comes back as a wait.
    taken: Option<Step>,
    failed: Vec<(Step, Error)>,
}

/// Takes the step, one target after another. A target that fails does not affect the others.
async fn take_parts(ctx: &Context, want: &ClusterSpec, seen: &Observed, step: &Step) -> Taken {
    let writer = ObjectWriter::new(&ctx.client, &want.namespace, &want.name, &want.uid);
    let actor = Actor { ctx, want, seen, writer };
    let mut result = Taken::default();
    for part in step.parts() {
        match actor.take(part.clone()).await {
            Ok(taken) => {
                result.taken = Some(match result.taken.take() {
                    Some(before) => before.and(taken),
                    None => taken,
                });
            }
            Err(error) => result.failed.push((part, error)),
        }
    }
    result
}
