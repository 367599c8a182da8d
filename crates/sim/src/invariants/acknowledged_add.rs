//! Invariant 5 (docs/internals/protocol.md#invariants): an add that was committed survives the
//! death of the leader. Once a client was told so, the node is a member on every later leader,
//! until a client removes it or an entry of its own gives it up.

use std::collections::{BTreeMap, BTreeSet};

use pgraft_core::{ClusterState, Command, NodeId, Role};
use pgraft_raft::sim::MachineEvent;

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct AcknowledgedAdd {
    /// Whose removal nobody has asked for, and from which index and term on they are there.
    members: BTreeMap<NodeId, (u64, u64)>,
    /// Whose removal somebody has asked for.
    called_out: BTreeSet<NodeId>,
    /// The latest state that anybody has applied, after this index of this term.
    latest: ((u64, u64), ClusterState),
}

impl AcknowledgedAdd {
    fn missing(&self, index: u64, state: &ClusterState) -> Option<NodeId> {
        let there =
            |node: &NodeId| state.members.get(node).is_some_and(|m| m.role != Role::Leaving);
        self.members
            .iter()
            .find(|(node, (since, _))| *since <= index && !there(node))
            .map(|(node, _)| *node)
    }
}

impl Invariant for AcknowledgedAdd {
    fn name(&self) -> &'static str {
        "an acknowledged add is kept"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Did {
                node,
                event: MachineEvent::Applied { entry, state, outcome },
                ..
            } => {
                // A newcomer that never comes is given up again, by an entry that says so.
                if let Ok(Command::JoinExpired { node }) = serde_json::from_str(&entry.content)
                    && outcome == "Changed"
                {
                    self.members.remove(&node);
                    self.called_out.insert(node);
                }
                if let Some(lost) = self.missing(entry.index, state) {
                    return Err(format!(
                        "node {lost}, whose add was acknowledged, is no member on node {node} after entry {}",
                        entry.index
                    ));
                }
                if entry.index > self.latest.0.0 {
                    self.latest = ((entry.index, entry.term), ClusterState::clone(state));
                }
            }
            Observation::AddAcknowledged(node) => {
                let (since, state) = &self.latest;
                if !state.members.contains_key(node) && !state.retired.contains(node) {
                    return Err(format!(
                        "the add of node {node} is acknowledged, and nobody has applied it"
                    ));
                }
                if state.members.contains_key(node) && !self.called_out.contains(node) {
                    self.members.insert(*node, *since);
                }
            }
            Observation::Leads { node, term, purged, log } => {
                let end = log.last().map_or(*purged, |line| line.index);
                if let Some((lost, (since, _))) =
                    self.members.iter().find(|(_, (since, in_term))| *since > end && in_term < term)
                {
                    return Err(format!(
                        "node {node} leads with a log up to {end}: the add of node {lost} was acknowledged at {since}"
                    ));
                }
            }
            Observation::RemoveCalled(node) => {
                self.members.remove(node);
                self.called_out.insert(*node);
            }
            _ => {}
        }
        Ok(())
    }
}
