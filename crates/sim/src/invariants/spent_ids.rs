//! Invariant 3 (docs/internals/protocol.md#invariants): a removed, wiped or copied node never votes
//! again under its old id. Of all directories that ever existed under an id, one votes.

use std::collections::BTreeMap;

use pgraft_raft::sim::MachineEvent;

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct SpentIds {
    /// How often each machine's disk has become another one.
    disks: BTreeMap<u32, u32>,
    /// The machine and the disk that have voted under an id.
    voted: BTreeMap<u32, (u32, u32)>,
}

impl Invariant for SpentIds {
    fn name(&self) -> &'static str {
        "spent ids stay spent"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::NewDisk { machine } => *self.disks.entry(*machine).or_default() += 1,
            Observation::Did {
                machine,
                node,
                event: MachineEvent::Voted { term, confirmed: false },
            } => {
                let disk = (*machine, self.disks.get(machine).copied().unwrap_or_default());
                let voted = *self.voted.entry(*node).or_insert(disk);
                if voted != disk {
                    let number = term.number;
                    return Err(format!(
                        "node {node} votes in term {number} from another directory than the one that has voted as node {node}"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
