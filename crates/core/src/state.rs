//! The replicated state, and how commands change it. All members apply the same commands in the same
//! order, so `apply` depends on the state and the command only.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::primary_term::{LastFailover, PrimaryTerm, TermEndReason};
use crate::quorum::{MAX_MEMBERS, MAX_VOTERS};
use crate::{Address, ClusterId, Command, InstanceId, NodeId, Refusal};

/// The state that all members agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// None before [`Command::Init`].
    pub cluster: Option<ClusterId>,
    /// The primary and its sync configs. None before [`Command::Init`].
    pub primary_term: Option<PrimaryTerm>,
    /// The latest change of the primary.
    pub last_failover: Option<LastFailover>,
    /// The members.
    pub members: BTreeMap<NodeId, Member>,
    /// The ids of removed members. They are not reused: a node that returned without its Raft
    /// directory could vote twice in a term.
    pub retired: BTreeSet<NodeId>,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where its Raft member listens.
    pub address: Address,
    /// Its role in the group.
    pub role: Role,
    /// Its registration; None before it has registered.
    pub info: Option<MemberInfo>,
}

/// The registration of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its Raft directory.
    pub instance: InstanceId,
    /// Its Postgres server.
    pub postgres: Address,
    /// Its failure domain; empty if not set.
    pub zone: String,
}

/// A member's role in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Receives the log and does not vote.
    Learner,
    /// Votes.
    Voter,
    /// Is being removed.
    Leaving,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Learner => "learner",
            Self::Voter => "voter",
            Self::Leaving => "leaving",
        })
    }
}

/// The result of a command that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The state has changed.
    Changed,
    /// The state already was as requested.
    AlreadySo,
}

/// Raft's own membership, as far as this crate needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftMembership {
    /// The voters, in a joint configuration those of both halves.
    pub voters: BTreeSet<NodeId>,
    /// The learners.
    pub learners: BTreeSet<NodeId>,
    /// Whether it is a joint configuration: majorities of both halves must agree.
    pub joint: bool,
    /// The addresses that Raft uses.
    pub addresses: BTreeMap<NodeId, Address>,
}

impl RaftMembership {
    /// Whether Raft sends the log to this node.
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

impl ClusterState {
    /// Applies one command.
    ///
    /// # Errors
    /// A [`Refusal`]; the state is then unchanged.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        match command {
            Command::Init { cluster, node, address } => self.init(*cluster, *node, address),
            Command::Join { node, address } => self.join(*node, address),
            Command::Remove { node } => self.remove(*node),
            Command::JoinExpired { node } => self.join_expired(*node),
            Command::SetAddress { node, address } => self.set_address(*node, address),
            Command::Register { node, instance, postgres, zone } => self.register(
                *node,
                MemberInfo { instance: *instance, postgres: postgres.clone(), zone: zone.clone() },
            ),
            Command::Recruit { .. }
            | Command::Appoint { .. }
            | Command::Force { .. }
            | Command::ProposeSyncConfig { .. }
            | Command::CommitSyncConfig { .. } => self.failover(command),
        }
    }

    /// The epoch of the primary; 0 before the first one.
    pub fn epoch(&self) -> u64 {
        self.primary_term.as_ref().map_or(0, |r| r.epoch)
    }

    /// The primary, or the last one while a successor is being determined.
    pub fn primary(&self) -> Option<NodeId> {
        self.primary_term.as_ref().map(|r| r.primary)
    }

    /// The members that may be appointed, and whose confirmations the primary waits for.
    pub fn electorate(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|(_, m)| m.role == Role::Voter).map(|(id, _)| *id).collect()
    }

    fn failover(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        let voters = self.electorate();
        let Some(primary_term) = &mut self.primary_term else {
            return Err(Refusal::NotInitialized);
        };
        let was = primary_term.clone();
        match command {
            Command::Recruit { epoch, .. } => primary_term.recruit(*epoch),
            Command::Appoint { epoch, primary } => primary_term.appoint(*epoch, *primary, &voters),
            Command::Force { epoch, primary } => primary_term.force(*epoch, *primary, &voters),
            Command::ProposeSyncConfig { epoch, change, standbys } => {
                primary_term.propose_sync_config(*epoch, *change, standbys.clone())
            }
            Command::CommitSyncConfig { epoch, change, .. } => {
                primary_term.commit_sync_config(*epoch, *change)
            }
            _ => return Ok(Outcome::AlreadySo),
        }
        .map_err(|_| Refusal::OutdatedCommand)?;
        match command {
            Command::Recruit { epoch, reason, at_ms } => {
                let begun = LastFailover {
                    epoch: *epoch,
                    from: was.primary,
                    to: None,
                    reason: *reason,
                    began_ms: *at_ms,
                    ended_ms: None,
                };
                self.last_failover = Some(begun);
            }
            Command::Force { .. } => {
                if let Some(last) = &mut self.last_failover {
                    last.reason = TermEndReason::Forced;
                }
            }
            Command::CommitSyncConfig { at_ms, .. } if !was.settled => {
                if let Some(last) = &mut self.last_failover {
                    (last.to, last.ended_ms) = (Some(was.primary), Some(*at_ms));
                }
            }
            _ => {}
        }
        Ok(if self.primary_term.as_ref() == Some(&was) {
            Outcome::AlreadySo
        } else {
            Outcome::Changed
        })
    }

    /// Follows Raft's membership: a learner that votes becomes a voter, and a leaving member that has
    /// left is retired.
    pub fn apply_membership(&mut self, raft: &RaftMembership) {
        if raft.joint {
            return; // neither half is in force on its own
        }
        let gone: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(id, m)| m.role == Role::Leaving && !raft.contains(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.members.remove(&id);
            self.retired.insert(id);
        }
        for (id, member) in &mut self.members {
            if member.role == Role::Learner && raft.voters.contains(id) {
                member.role = Role::Voter;
            }
        }
    }

    /// The membership change in progress, if there is one: a removal, or a new node that will become a
    /// voter.
    pub fn change_under_way(&self) -> Option<Refusal> {
        if let Some((id, _)) = self.members.iter().find(|(_, m)| m.role == Role::Leaving) {
            return Some(Refusal::RemovalInProgress(*id));
        }
        if self.voters() >= MAX_VOTERS {
            return None; // nodes that join now stay learners
        }
        self.members
            .iter()
            .find(|(_, m)| m.role == Role::Learner)
            .map(|(id, _)| Refusal::JoinInProgress(*id))
    }

    /// The number of voters.
    pub fn voters(&self) -> usize {
        self.members.values().filter(|m| m.role == Role::Voter).count()
    }

    /// The lowest id above all ids that were ever used.
    pub fn next_node_id(&self) -> u32 {
        let members = self.members.keys().next_back();
        let retired = self.retired.iter().next_back();
        members.max(retired).map_or(1, |id| id.get().saturating_add(1))
    }

    fn init(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
        address: &Address,
    ) -> Result<Outcome, Refusal> {
        if let Some(existing) = self.cluster {
            return Err(Refusal::AlreadyInitialized(existing));
        }
        self.cluster = Some(cluster);
        self.primary_term = Some(PrimaryTerm::bootstrap(node));
        self.members
            .insert(node, Member { address: address.clone(), role: Role::Voter, info: None });
        Ok(Outcome::Changed)
    }

    fn join(&mut self, node: NodeId, address: &Address) -> Result<Outcome, Refusal> {
        if self.cluster.is_none() {
            return Err(Refusal::NotInitialized);
        }
        if self.retired.contains(&node) {
            return Err(Refusal::IdRetired(node));
        }
        match self.members.get(&node) {
            Some(m) if m.role == Role::Leaving => return Err(Refusal::RemovalInProgress(node)),
            Some(m) if m.address == *address => return Ok(Outcome::AlreadySo),
            Some(m) => return Err(Refusal::OtherAddress { node, at: m.address.clone() }),
            None => {}
        }
        if let Some((other, _)) = self.members.iter().find(|(_, m)| m.address == *address) {
            return Err(Refusal::AddressTaken { address: address.clone(), node: *other });
        }
        if let Some(change) = self.change_under_way() {
            return Err(change);
        }
        if self.members.len() >= MAX_MEMBERS {
            return Err(Refusal::TooManyMembers(self.members.len()));
        }
        self.members
            .insert(node, Member { address: address.clone(), role: Role::Learner, info: None });
        Ok(Outcome::Changed)
    }

    fn remove(&mut self, node: NodeId) -> Result<Outcome, Refusal> {
        if self.cluster.is_none() {
            return Err(Refusal::NotInitialized);
        }
        if self.retired.contains(&node) {
            return Ok(Outcome::AlreadySo);
        }
        if self.primary() == Some(node) {
            return Err(Refusal::IsPrimary(node));
        }
        let change = self.change_under_way();
        let Some(member) = self.members.get_mut(&node) else {
            return Err(Refusal::UnknownNode(node));
        };
        match (member.role, change) {
            (Role::Leaving, _) => Ok(Outcome::AlreadySo),
            // A new node that is never reached must not block its own removal.
            (_, Some(Refusal::JoinInProgress(joining))) if joining == node => {
                member.role = Role::Leaving;
                Ok(Outcome::Changed)
            }
            (_, Some(change)) => Err(change),
            (_, None) => {
                member.role = Role::Leaving;
                Ok(Outcome::Changed)
            }
        }
    }

    /// Proposed by the leader after the join timeout. The node may have joined in the meantime.
    fn join_expired(&mut self, node: NodeId) -> Result<Outcome, Refusal> {
        if self.retired.contains(&node) {
            return Ok(Outcome::AlreadySo);
        }
        let Some(member) = self.members.get_mut(&node) else {
            return Err(Refusal::UnknownNode(node));
        };
        match member.role {
            Role::Leaving => Ok(Outcome::AlreadySo),
            Role::Learner if member.info.is_none() => {
                member.role = Role::Leaving;
                Ok(Outcome::Changed)
            }
            Role::Learner | Role::Voter => Err(Refusal::AlreadyJoined(node)),
        }
    }

    /// Allowed while another node joins or leaves: it changes no vote, and it may correct the address
    /// of the new node.
    fn set_address(&mut self, node: NodeId, address: &Address) -> Result<Outcome, Refusal> {
        if self.cluster.is_none() {
            return Err(Refusal::NotInitialized);
        }
        if let Some((other, _)) =
            self.members.iter().find(|(id, m)| **id != node && m.address == *address)
        {
            return Err(Refusal::AddressTaken { address: address.clone(), node: *other });
        }
        let Some(member) = self.members.get_mut(&node) else {
            return Err(Refusal::UnknownNode(node));
        };
        match member.role {
            Role::Leaving => Err(Refusal::RemovalInProgress(node)),
            Role::Learner | Role::Voter if member.address == *address => Ok(Outcome::AlreadySo),
            Role::Learner | Role::Voter => {
                member.address = address.clone();
                Ok(Outcome::Changed)
            }
        }
    }

    fn register(&mut self, node: NodeId, info: MemberInfo) -> Result<Outcome, Refusal> {
        let Some(member) = self.members.get_mut(&node) else {
            return Err(Refusal::UnknownNode(node));
        };
        match &member.info {
            Some(known) if *known == info => return Ok(Outcome::AlreadySo),
            // A member keeps its directory: another one does not have its votes.
            Some(known) if known.instance != info.instance => {
                return Err(Refusal::OtherDirectory(node));
            }
            _ => {}
        }
        member.info = Some(info);
        Ok(Outcome::Changed)
    }
}

#[cfg(test)]
mod tests;
