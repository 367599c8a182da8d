//! Invariant 5 (docs/internals/protocol.md#invariants): an add that was not committed leaves
//! nothing behind. A node is never a member if all calls that added it were certainly refused, or
//! if no client has added it.

use std::collections::BTreeMap;

use pgraft_core::NodeId;
use pgraft_raft::sim::MachineEvent;

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct RefusedAdd {
    /// Calls that may still come to something.
    open: BTreeMap<NodeId, usize>,
    bootstrap: Option<NodeId>,
}

impl Invariant for RefusedAdd {
    fn name(&self) -> &'static str {
        "a refused add leaves nothing"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::AddCalled(node) => *self.open.entry(*node).or_default() += 1,
            Observation::AddRefused { node, certain: true } => {
                if let Some(open) = self.open.get_mut(node) {
                    *open = open.saturating_sub(1);
                }
            }
            Observation::Did {
                node,
                event: MachineEvent::Applied { entry, outcome, state },
                ..
            } => {
                if self.bootstrap.is_none() {
                    self.bootstrap = state.primary();
                }
                let uncalled = |id: &&NodeId| {
                    Some(**id) != self.bootstrap
                        && self.open.get(id).copied().unwrap_or_default() == 0
                };
                if let Some(stray) = state.members.keys().find(uncalled) {
                    let index = entry.index;
                    return Err(format!(
                        "node {stray} is a member on node {node} after entry {index} ({outcome}), and every call was refused"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
