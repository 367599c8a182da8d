//! Invariant 4 (docs/internals/protocol.md#invariants): all members apply the same membership
//! changes in the same order. This is State Machine Safety of the Raft paper, figure 3: the same
//! entry at each index, with the same result and the same state after it, also by a snapshot, and
//! no index is skipped.

use std::collections::BTreeMap;

use pgraft_core::ClusterState;
use pgraft_raft::sim::{LogLine, MachineEvent};

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct SameOrder {
    /// By the first who applied it.
    applied: BTreeMap<u64, (u32, LogLine, String, ClusterState)>,
    /// The last index that each machine has applied.
    last: BTreeMap<u32, u64>,
}

impl Invariant for SameOrder {
    fn name(&self) -> &'static str {
        "the same in the same order"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Did {
                machine,
                node,
                event: MachineEvent::Applied { entry, outcome, state },
            } => {
                let last = self.last.insert(*machine, entry.index);
                if last.is_some_and(|last| entry.index != last + 1) && last != Some(0) {
                    return Err(format!(
                        "node {node} applies entry {} after entry {}",
                        entry.index,
                        last.unwrap_or_default()
                    ));
                }
                let new = (*node, entry.clone(), outcome.clone(), ClusterState::clone(state));
                let (first, line, came, is) = self.applied.entry(entry.index).or_insert(new);
                let index = entry.index;
                if (line.term, &line.content) != (entry.term, &entry.content) {
                    return Err(format!(
                        "node {node} applies {} at {index}, where node {first} has applied {}",
                        entry.content, line.content
                    ));
                }
                if came != outcome {
                    return Err(format!(
                        "entry {index} is \"{outcome}\" on node {node} and \"{came}\" on node {first}"
                    ));
                }
                if *is != **state {
                    return Err(format!(
                        "after entry {index} node {node} has another state than node {first}"
                    ));
                }
            }
            Observation::Did { machine, node, event: MachineEvent::Installed { index, state } } => {
                self.last.insert(*machine, *index);
                if let Some((first, .., is)) = self.applied.get(index)
                    && *is != **state
                {
                    return Err(format!(
                        "the snapshot of node {node} after entry {index} is another state than node {first} had"
                    ));
                }
            }
            Observation::Starts { machine } | Observation::NewDisk { machine } => {
                self.last.remove(machine);
            }
            _ => {}
        }
        Ok(())
    }
}
