//! Registers this node with the group: where its Postgres is and which directory it lives in, once it
//! is a member and whenever that changes. Adding a node takes only its id and its Raft address.

use std::sync::Arc;
use std::time::Duration;

use pgraft_core::state::MemberInfo;
use pgraft_core::{Command, Role};

use super::NodeShared;
use crate::store::AppliedState;

const RETRY_DELAY: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Registers for as long as it is polled.
pub async fn run(node: Arc<NodeShared>) {
    let mut applied = node.applied.clone();
    loop {
        if is_needed(&node, &node.applied.borrow().clone()) {
            match register(&node).await {
                // Once is enough: the entry is committed and will be applied here.
                Ok(()) => {
                    let done = applied.wait_for(|now| !is_needed(&node, now));
                    let _ = tokio::time::timeout(TIMEOUT, done).await.map(drop);
                }
                Err(why) => {
                    tracing::debug!("could not register this node: {why}");
                    tokio::select! {
                        biased; // in no random order: a simulation repeats itself
                        changed = applied.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(RETRY_DELAY) => {}
                    }
                }
            }
        } else if applied.changed().await.is_err() {
            return;
        }
    }
}

fn info(node: &NodeShared) -> MemberInfo {
    MemberInfo {
        instance: node.local.identity().instance,
        postgres: node.settings.postgres.clone(),
        zone: node.settings.zone.clone(),
    }
}

/// Whether the applied state says something else about this node, which is a member and stays one.
fn is_needed(node: &NodeShared, applied: &AppliedState) -> bool {
    let member = applied.cluster.members.get(&node.settings.node_id);
    member.is_some_and(|m| m.role != Role::Leaving && m.info.as_ref() != Some(&info(node)))
}

async fn register(node: &NodeShared) -> Result<(), String> {
    let MemberInfo { instance, postgres, zone } = info(node);
    node.propose(Command::Register { node: node.settings.node_id, instance, postgres, zone }).await
}
