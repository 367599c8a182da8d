//! What has failed lately, and when it is tried again: a fact like any other, so that the planner
//! can go on with what does not depend on it.

use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::step::{MembershipRequest, Step, WaitReason};

/// What a step works on. Two steps with one target are two attempts at one thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectTarget {
    /// [`Step::word`].
    pub verb: &'static str,
    /// The object or node.
    pub object: String,
}

/// Why an operation failed. The set is closed: metrics and logs use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
pub enum StepFailureReason {
    /// The operator's role does not allow the request.
    Forbidden,
    /// Another client changed the object at the same time.
    Conflict,
    /// The API server rejected the object as invalid.
    RefusedByApiServer,
    /// The API server answered with another error.
    ApiServerError,
    /// The API server did not answer.
    ApiServerUnreachable,
    /// A member refused a statement or did not answer.
    MemberUnreachable,
    /// A certificate could not be issued.
    CertificateNotIssued,
    /// An object of another owner has the name.
    ForeignObject,
    /// The object has changed since it was observed.
    Changed,
}

impl StepFailureReason {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the observation was out of date, so that the next pass is likely to succeed.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Conflict | Self::Changed)
    }
}

/// How a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// An operation that should have worked did not.
    Error {
        /// Why.
        reason: StepFailureReason,
        /// The error message.
        message: String,
    },
    /// The Raft leader refused the change.
    Refused {
        /// What was asked.
        change: MembershipRequest,
        /// SQLSTATE.
        code: String,
        /// The leader's words.
        message: String,
    },
}

/// A step that failed, once or several times in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFailure {
    /// The step, with this one target.
    pub step: Step,
    /// The last cause.
    pub cause: Cause,
    /// When it failed last.
    pub at: Timestamp,
    /// How often in a row.
    pub times: u32,
}

/// Conflicts in a row that are the ordinary course of things, and are not reported.
const CONFLICTS: u32 = 5;
const CONFLICT_PAUSE: SignedDuration = SignedDuration::from_millis(250);
const FIRST_REFUSAL_PAUSE: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_REFUSAL_PAUSE: SignedDuration = SignedDuration::from_secs(15);
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(2);
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(1);

impl ObjectFailure {
    /// When it is tried again.
    pub fn next_attempt(&self) -> Timestamp {
        let (first, longest) = match &self.cause {
            Cause::Error { reason, .. } if reason.is_transient() && !self.is_reported() => {
                (CONFLICT_PAUSE, CONFLICT_PAUSE)
            }
            Cause::Error { .. } => (FIRST_PAUSE, MAX_PAUSE),
            Cause::Refused { .. } => (FIRST_REFUSAL_PAUSE, LONGEST_REFUSAL_PAUSE),
        };
        let pause = first
            .checked_mul(1_i32 << self.times.saturating_sub(1).min(16))
            .unwrap_or(longest)
            .min(longest);
        self.at.saturating_add(pause).unwrap_or(self.at)
    }

    /// Whether people should hear of it.
    pub fn is_reported(&self) -> bool {
        !matches!(self.cause, Cause::Error { reason, .. } if reason.is_transient())
            || self.times >= CONFLICTS
    }

    /// Whether an object that belongs to somebody else has the name.
    pub fn is_name_taken(&self) -> bool {
        matches!(self.cause, Cause::Error { reason: StepFailureReason::ForeignObject, .. })
    }

    /// For people.
    pub fn message(&self) -> String {
        match &self.cause {
            Cause::Error { message, .. } => message.clone(),
            Cause::Refused { change, message, .. } => format!("{change}: {message}"),
        }
    }
}

/// All steps that failed lately, by what they work on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<ObjectTarget, ObjectFailure>);

impl Failures {
    /// Records one more failure of a step with one target.
    pub fn record(&mut self, step: &Step, cause: &Cause, now: Timestamp) {
        for target in step.targets() {
            let times = self.0.get(&target).map_or(0, |before| before.times).saturating_add(1);
            self.0.insert(
                target,
                ObjectFailure { step: step.clone(), cause: cause.clone(), at: now, times },
            );
        }
    }

    /// Forgets what has worked.
    pub fn clear(&mut self, step: &Step) {
        for target in step.targets() {
            self.0.remove(&target);
        }
    }

    /// Forgets what nobody wants any more: all but these.
    pub fn keep(&mut self, targets: &BTreeSet<ObjectTarget>) {
        self.0.retain(|target, _| targets.contains(target));
    }

    /// The failure of this target, while it is too early to try again.
    pub fn resting(&self, target: &ObjectTarget, now: Timestamp) -> Option<&ObjectFailure> {
        self.0.get(target).filter(|failure| failure.next_attempt() > now)
    }

    /// The last failure of this target.
    pub fn get(&self, target: &ObjectTarget) -> Option<&ObjectFailure> {
        self.0.get(target)
    }

    /// Those that people should hear of. A change that the leader refused is reported as a wait.
    pub fn reported(&self) -> impl Iterator<Item = &ObjectFailure> {
        self.errors().filter(|failure| failure.is_reported())
    }

    /// Those that are no refusals of the leader, reported or not.
    pub fn errors(&self) -> impl Iterator<Item = &ObjectFailure> {
        self.0.values().filter(|failure| matches!(failure.cause, Cause::Error { .. }))
    }

    /// When the next of them is tried again.
    pub fn next_attempt(&self) -> Option<Timestamp> {
        self.0.values().map(ObjectFailure::next_attempt).min()
    }

    /// Whether nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is waited for while a step with these failures is not tried: the leader's refusal, where
/// that is what failed.
pub fn wait(failure: &ObjectFailure) -> Option<WaitReason> {
    match &failure.cause {
        Cause::Refused { change, code, message } => Some(WaitReason::Refused {
            change: *change,
            code: code.clone(),
            message: message.clone(),
        }),
        Cause::Error { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::*;

    fn error(transient: bool) -> Cause {
        let reason = if transient {
            StepFailureReason::Conflict
        } else {
            StepFailureReason::RefusedByApiServer
        };
        Cause::Error { reason, message: "no".into() }
    }

    fn pauses(cause: &Cause, times: usize) -> Vec<i64> {
        let (mut failures, now) = (Failures::default(), Timestamp::UNIX_EPOCH);
        let step = Step::GrowVolume(id(1));
        let pause = |_| {
            failures.record(&step, cause, now);
            failures.next_attempt().unwrap().as_millisecond()
        };
        (0..times).map(pause).collect()
    }

    #[test]
    fn attempts_become_rarer() {
        assert_eq!(pauses(&error(false), 7), [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(
            pauses(&error(true), 6),
            [250, 250, 250, 250, 32_000, 60_000],
            "conflicts that do not end are a failure like any other"
        );
        let refused = Cause::Refused {
            change: MembershipRequest::Remove(id(1)),
            code: "55006".into(),
            message: "no".into(),
        };
        assert_eq!(pauses(&refused, 6), [1000, 2000, 4000, 8000, 15_000, 15_000]);
    }

    #[test]
    fn what_works_or_is_not_wanted_any_more_is_forgotten() {
        let (mut failures, now) = (Failures::default(), Timestamp::UNIX_EPOCH);
        let (one, two) = (Step::GrowVolume(id(1)), Step::GrowVolume(id(2)));
        for step in [&one, &two] {
            failures.record(step, &error(false), now);
        }
        assert!(failures.resting(&one.targets()[0], now).is_some());
        assert!(
            failures.resting(&one.targets()[0], now + FIRST_PAUSE).is_none(),
            "it is tried again"
        );
        failures.clear(&one);
        assert_eq!(
            failures.reported().map(|f| f.step.clone()).collect::<Vec<_>>(),
            std::slice::from_ref(&two)
        );
        failures.keep(&BTreeSet::new());
        assert!(failures.is_empty());
    }
}
