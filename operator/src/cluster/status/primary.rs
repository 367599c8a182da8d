//! What is said about changes of the primary: the latest one, and what became of the one that
//! somebody asked for.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pgraft_core::failover::{self, TermEndReason as Cause};

use super::{ConditionSubject, StatusInput, StatusVerdict, shown_name};
use crate::cluster::observe::group::GroupView;
use crate::cluster::plan::switchover::{SwitchoverRequest, request};
use crate::cluster::step::{MembershipRequest, Step, StepOutcome, WaitReason};
use pgraft_api::cluster::{
    FailoverReason, LastFailoverStatus, PgRaftClusterStatus, SwitchoverStatus,
};
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_api::names;

/// The latest change that is complete. Who lags behind tells of an earlier one, and is not
/// believed.
pub(super) fn last_failover(
    subject: ConditionSubject<'_>,
    group: Option<&GroupView>,
    before: &PgRaftClusterStatus,
) -> Option<LastFailoverStatus> {
    let told = group.and_then(|g| shown(subject, g, g.failover.as_ref()?.last.as_ref()?));
    let known = before.last_failover.clone();
    match (told, known) {
        (Some(told), Some(known)) if told.epoch <= known.epoch => Some(known),
        (told, known) => told.or(known),
    }
}

fn shown(
    subject: ConditionSubject<'_>,
    group: &GroupView,
    last: &failover::LastFailover,
) -> Option<LastFailoverStatus> {
    let failover::LastFailover { epoch, from, to, reason, began_ms, ended_ms } = last;
    Some(LastFailoverStatus {
        from: shown_name(subject, group, *from),
        to: shown_name(subject, group, (*to)?),
        reason: match reason {
            Cause::LeaseExpired => FailoverReason::LeaseExpired,
            Cause::Released => FailoverReason::Released,
            Cause::Switchover => FailoverReason::Switchover,
            Cause::Forced => FailoverReason::Forced,
        },
        // Kubernetes' times have whole seconds.
        at: Time(Timestamp::from_second(began_ms.div_euclid(1000)).ok()?),
        // Two clocks may differ.
        duration_ms: ((*ended_ms)? - began_ms).max(0),
        epoch: i64::try_from(*epoch).unwrap_or(i64::MAX),
    })
}

impl StatusInput<'_> {
    /// The request that was carried out, for as long as it stands in the spec.
    pub(super) fn switchover_done(&self) -> Option<SwitchoverStatus> {
        let wanted = self.subject.switchover?;
        let done = || {
            names::node_of_pod(self.subject.name, wanted).map(|target| request(target, self.seen))
                == Some(SwitchoverRequest::Done)
        };
        let known = self.before.switchover.as_ref().is_some_and(|known| known.target == wanted);
        (known || done()).then(|| SwitchoverStatus { target: wanted.to_owned() })
    }

    /// What became of the request; None where there is none.
    pub(super) fn switchover(&self) -> Option<StatusVerdict> {
        let wanted = self.subject.switchover?;
        let verdict = |holds, reason, message| {
            Some(StatusVerdict {
                type_: ConditionType::SwitchoverDone,
                holds: Some(holds),
                reason,
                message,
            })
        };
        if self.switchover_done().is_some() {
            return verdict(
                true,
                ConditionReason::AsExpected,
                format!("{wanted} became the primary"),
            );
        }
        let refused = |words: &str| {
            verdict(
                false,
                ConditionReason::ChangeRefused,
                format!("{wanted} is not the primary: {words}"),
            )
        };
        let target = names::node_of_pod(self.subject.name, wanted)?;
        if let StepOutcome::Took(Step::Wait(WaitReason::Refused {
            change: MembershipRequest::SwitchOver(node),
            message,
            ..
        })) = self.outcome
            && *node == target
        {
            return refused(message);
        }
        match request(target, self.seen) {
            SwitchoverRequest::Refused(words) => refused(&words),
            SwitchoverRequest::Done | SwitchoverRequest::Due | SwitchoverRequest::Pending => {
                verdict(
                    false,
                    ConditionReason::SwitchingOver,
                    format!("{wanted} is to become the primary"),
                )
            }
        }
    }
}
