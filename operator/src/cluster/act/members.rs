//! The steps that change the membership or the primary: one SQL call each.

use pgraft_core::{Address, NodeId, SqlState};

use super::objects::Actor;
use crate::cluster::error::Error;
use crate::cluster::members::sql::MemberSqlError;
use crate::cluster::observe::{targets, unready_targets};
use crate::cluster::plan::switchover_attempt::SwitchoverAttempt;
use crate::cluster::step::{MembershipRequest, Step, WaitReason};
use pgraft_api::names::{self, RAFT_PORT};

impl Actor<'_> {
    /// One call on the one that is to be the primary: it goes on when the primary, or a leader that
    /// is the primary, gives up.
    pub(super) async fn switch_over(&self, node: NodeId, step: Step) -> Result<Step, Error> {
        let result = self.change(MembershipRequest::SwitchOver(node), step.clone()).await;
        let refused = match &result {
            Ok(Step::Wait(WaitReason::Refused { code, message, .. }))
                if code != SqlState::MEMBER_NOT_RUNNING.as_str() =>
            {
                Some((code.clone(), message.clone()))
            }
            _ => None,
        };
        self.ctx.memories.of(&self.want.uid, |memory| {
            memory.switchover_attempt = Some(SwitchoverAttempt::again(
                memory.switchover_attempt.as_ref(),
                node,
                self.seen.now,
                refused,
            ));
        });
        match result {
            // The primary may be another one for all that; the next look shows it.
            Err(Error::Sql {
                source: MemberSqlError::Connection(_) | MemberSqlError::Late(_),
                ..
            }) => Ok(step),
            Ok(Step::Wait(WaitReason::Refused { code, .. }))
                if code == SqlState::MEMBER_NOT_RUNNING.as_str() =>
            {
                Ok(step)
            }
            other => other,
        }
    }

    /// One call on the leader. What it refuses is looked at anew in the next pass, and asked again
    /// if it still makes sense.
    pub(super) async fn change(
        &self,
        change: MembershipRequest,
        step: Step,
    ) -> Result<Step, Error> {
        let whom = match change {
            MembershipRequest::SwitchOver(node) => Some(node),
            MembershipRequest::Add(_) | MembershipRequest::Remove(_) => {
                self.seen.group.as_ref().and_then(|g| g.leader)
            }
        };
        let mut all = targets(&self.seen.pods).into_iter().chain(unready_targets(&self.seen.pods));
        let target = all.find(|t| Some(t.node) == whom);
        let target = target.ok_or_else(|| Error::changed("the pod to be asked"))?;
        let login = self.ctx.memories.of(&self.want.uid, |memory| memory.login.clone());
        let login =
            login.ok_or_else(|| Error::changed(format!("the way into {}", self.want.name)))?;
        let (MembershipRequest::Add(node)
        | MembershipRequest::Remove(node)
        | MembershipRequest::SwitchOver(node)) = change;
        let host = names::host(&self.want.name, &self.want.namespace, node);
        let address = Address::new(&host, i64::from(RAFT_PORT))
            .map_err(|_| Error::changed(format!("the name of node {node}")))?;
        match self.ctx.raft.change(&target, &login, change, &address).await {
            Ok(()) => Ok(step),
            // Committed, and not complete in time: it goes on by itself.
            Err(MemberSqlError::Refused { code, .. })
                if code == SqlState::CHANGE_NOT_COMPLETE.as_str() =>
            {
                Ok(step)
            }
            Err(MemberSqlError::Refused { code, message }) if is_refusal(&code) => {
                Ok(Step::Wait(WaitReason::Refused { change, code, message }))
            }
            Err(source) => Err(Error::Sql { node: target.node, source }),
        }
    }
}

/// Whether the leader refused the change; otherwise its server is stopping, or the statement timed
/// out. The classes are those of pgraft's own errors, and Postgres' for a missing privilege or
/// function.
fn is_refusal(sqlstate: &str) -> bool {
    let Ok(code) = sqlstate.parse::<SqlState>() else { return false };
    code.is_own() || ["22", "42", "54", "55"].contains(&code.class())
}

#[cfg(test)]
mod tests {
    use super::is_refusal;
    use pgraft_core::Refusal;
    use pgraft_core::id::InvalidNodeId;

    #[test]
    fn tells_a_refusal_from_a_shutdown() {
        for refusal in [
            Refusal::NotInitialized,
            Refusal::from(InvalidNodeId(0)),
            Refusal::NoQuorum { seconds: 1 },
            Refusal::TooManyMembers(64),
        ] {
            assert!(is_refusal(refusal.sqlstate().as_str()), "{refusal}");
        }
        assert!(!is_refusal("57014") && !is_refusal("57P01") && !is_refusal("08006"));
    }
}
