//! Changes of the primary, told once each: by what the status said before, so that an operator that
//! has just begun does not tell old news.

use super::{ClusterEvent, has_reason, holds, message};
use pgraft_api::cluster::{FailoverReason, LastFailoverStatus, PgRaftClusterStatus};
use pgraft_api::conditions::{ConditionReason, ConditionType};
use pgraft_api::events::EventReason;

/// The change that the status did not have before. The members remember one: of several in a row
/// while nobody looked, it is the last.
pub(super) fn changed(
    before: &PgRaftClusterStatus,
    after: &PgRaftClusterStatus,
) -> Option<ClusterEvent> {
    // What a PgRaftCluster that was made anew finds on its volumes is history.
    before.cluster_id.as_ref()?;
    let last = after.last_failover.as_ref()?;
    let known = before.last_failover.as_ref().map_or(1, |l| l.epoch);
    if last.epoch <= known {
        return None;
    }
    let reason = if last.reason == FailoverReason::Switchover {
        EventReason::SwitchedOver
    } else {
        EventReason::FailedOver
    };
    Some(ClusterEvent { reason, note: note(last, last.epoch - known - 1) })
}

fn note(last: &LastFailoverStatus, unseen: i64) -> String {
    let LastFailoverStatus { from, to, reason, at: _, duration_ms, epoch } = last;
    let why = match reason {
        FailoverReason::LeaseExpired => {
            format!("a majority of the voters no longer received heartbeats from {from}")
        }
        FailoverReason::Released => format!("the server of {from} terminated"),
        FailoverReason::Switchover => format!("{from} handed over"),
        FailoverReason::Forced => "forced, which can lose acknowledged writes".to_owned(),
    };
    let others = match unseen {
        ..=0 => String::new(),
        n => format!("; {n} more changes since the last pass of the operator"),
    };
    format!(
        "{to} is the primary in place of {from}, after {duration_ms} ms, in epoch {epoch}: {why}{others}"
    )
}

/// A request that can't be carried out, once for each reason.
pub(super) fn refused(
    before: &PgRaftClusterStatus,
    after: &PgRaftClusterStatus,
) -> Option<ClusterEvent> {
    const TYPE: ConditionType = ConditionType::SwitchoverDone;
    let is_new = message(before, TYPE) != message(after, TYPE);
    let refused = holds(after, TYPE) == Some("False")
        && has_reason(after, TYPE, ConditionReason::ChangeRefused);
    (refused && is_new)
        .then(|| ClusterEvent { reason: EventReason::ChangeRefused, note: message(after, TYPE) })
}
