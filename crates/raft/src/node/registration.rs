//! Tells the group where this node's Postgres is and which directory it lives in, once it is a
//! member and whenever that changes. Whoever adds a node needs to know only its id and its Raft
//! address.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use pgraft_core::state::MemberInfo;
use pgraft_core::{Command, Role};

use super::NodeShared;
use crate::store::AppliedState;
use crate::transport::{Rpc, RpcReply};
use crate::types::{LogCommand, node_id};

const RETRY_DELAY: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Tells for as long as it is polled.
pub async fn run(shared: Arc<NodeShared>) {
    let mut applied = shared.applied.clone();
    loop {
        if shared.has_something_to_tell() {
            match shared.tell().await {
                // Said once is enough: the entry is committed and on its way here.
                Ok(()) => {
                    let heard = applied.wait_for(|now| !shared.is_news(now));
                    let _ = tokio::time::timeout(TIMEOUT, heard).await.map(drop);
                }
                Err(why) => {
                    tracing::debug!("could not tell the group about this node yet: {why}");
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

impl NodeShared {
    fn info(&self) -> MemberInfo {
        MemberInfo {
            instance: self.local.identity().instance,
            postgres: self.settings.postgres.clone(),
            zone: self.settings.zone.clone(),
        }
    }

    fn has_something_to_tell(&self) -> bool {
        self.is_news(&self.applied.borrow())
    }

    fn is_news(&self, applied: &AppliedState) -> bool {
        let member = applied.cluster.members.get(&self.settings.node_id);
        member.is_some_and(|m| m.role != Role::Leaving && m.info.as_ref() != Some(&self.info()))
    }

    pub(super) async fn tell(&self) -> Result<(), String> {
        let MemberInfo { instance, postgres, zone } = self.info();
        self.propose(Command::Register { node: self.settings.node_id, instance, postgres, zone })
            .await
    }

    /// Has the leader write the command; done when it is committed.
    pub(super) async fn propose(&self, command: Command) -> Result<(), String> {
        let leader = self.raft.current_leader().await.ok_or("there is no leader")?;
        if node_id(leader) == Some(self.settings.node_id) {
            let written =
                tokio::time::timeout(TIMEOUT, self.raft.client_write(LogCommand(command))).await;
            return written
                .map_err(|_| "not committed in time".to_owned())?
                .map(drop)
                .map_err(|e| e.to_string());
        }
        match self.ask_leader(leader, &Rpc::Propose(command)).await? {
            RpcReply::Proposed(_) => Ok(()),
            other => Err(format!("an answer to another question: {other:?}")),
        }
    }

    /// Has applied everything that was committed before this call; false where the leader does not
    /// say so in time.
    pub(super) async fn wait_for_read_index(&self) -> bool {
        let index = async {
            let leader = self.raft.current_leader().await?;
            if node_id(leader) == Some(self.settings.node_id) {
                let reader = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.ok()?;
                return reader.await_ready(&self.raft).await.ok().map(|_| 0);
            }
            match self.ask_leader(leader, &Rpc::Read).await {
                Ok(RpcReply::Read { index }) => Some(index),
                _ => None,
            }
        };
        let Ok(Some(index)) = tokio::time::timeout(TIMEOUT, index).await else { return false };
        let mut applied = self.applied.clone();
        let there = applied.wait_for(|now| now.last_applied.is_some_and(|id| id.index >= index));
        tokio::time::timeout(TIMEOUT, there).await.is_ok_and(|r| r.is_ok())
    }

    async fn ask_leader(&self, leader: u64, rpc: &Rpc) -> Result<RpcReply, String> {
        let endpoint = self
            .applied
            .borrow()
            .membership
            .membership()
            .get_node(&leader)
            .cloned()
            .ok_or("the leader's address is not known yet")?;
        self.peers.peer(leader, endpoint).call(rpc, TIMEOUT).await.map_err(|e| e.to_string())
    }
}
