//! Invariant 6 (docs/internals/protocol.md#invariants): at most one voter changes at a time. This
//! is the single-server rule of Ongaro's thesis, section 4.1. Joint consensus would not need it; it
//! keeps a membership readable. Also: one change is under way in the replicated state at a time.

use std::collections::{BTreeMap, BTreeSet};

use pgraft_core::{ClusterState, Command, MAX_VOTERS, Role};
use pgraft_raft::sim::{LogLine, MachineEvent};

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct OneChange {
    /// Of each machine's log: index and voters of each membership entry.
    logs: BTreeMap<u32, BTreeMap<u64, BTreeSet<u32>>>,
    /// The latest state that anybody has applied, after this index.
    latest: (u64, ClusterState),
}

impl OneChange {
    fn appended(&mut self, machine: u32, node: u32, line: &LogLine) -> Result<(), String> {
        let Some(halves) = &line.voters else { return Ok(()) };
        let sets: Vec<BTreeSet<u32>> =
            halves.iter().map(|half| half.iter().copied().collect()).collect();
        let Some(wanted) = sets.last() else { return Ok(()) };
        let log = self.logs.entry(machine).or_default();
        log.split_off(&line.index);
        // A joint entry says itself where it comes from; what follows it is compared with what it
        // wants.
        let before = sets.first().filter(|_| sets.len() > 1).or_else(|| log.values().next_back());
        let changed: Vec<u32> =
            before.map(|b| b.symmetric_difference(wanted).copied().collect()).unwrap_or_default();
        log.insert(line.index, wanted.clone());
        if changed.len() > 1 {
            return Err(format!(
                "entry {} on node {node} changes the votes of several nodes at a time: {changed:?}",
                line.index
            ));
        }
        Ok(())
    }
}

/// Whether a change was begun before this entry that was not finished; a newcomer may be called
/// off.
fn not_alone(before: &ClusterState, entry: &LogLine) -> bool {
    let command = serde_json::from_str(&entry.content);
    let called_off = match command {
        Ok(Command::Join { .. }) => None,
        Ok(Command::Remove { node }) => Some(node),
        _ => return false,
    };
    let with =
        |role: Role| before.members.iter().filter(move |(_, m)| m.role == role).map(|(id, _)| *id);
    // Beyond the most voters there are, newcomers wait, and nothing waits for them.
    let waiting = with(Role::Voter).count() >= MAX_VOTERS;
    with(Role::Leaving).next().is_some()
        || (!waiting && with(Role::Learner).any(|id| Some(id) != called_off))
}

impl Invariant for OneChange {
    fn name(&self) -> &'static str {
        "one change at a time"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Did { machine, node, event: MachineEvent::Appended(line) } => {
                self.appended(*machine, *node, line)
            }
            Observation::Did { machine, event: MachineEvent::TruncatedFrom(first), .. } => {
                if let Some(log) = self.logs.get_mut(machine) {
                    log.split_off(first);
                }
                Ok(())
            }
            // What was written before may be gone, and what is in a snapshot is not known here.
            Observation::Did { machine, event: MachineEvent::Installed { .. }, .. }
            | Observation::Starts { machine }
            | Observation::NewDisk { machine } => {
                self.logs.remove(machine);
                Ok(())
            }
            Observation::Did {
                node,
                event: MachineEvent::Applied { entry, outcome, state },
                ..
            } if entry.index > self.latest.0 => {
                let (_, before) =
                    std::mem::replace(&mut self.latest, (entry.index, ClusterState::clone(state)));
                if outcome == "Changed" && not_alone(&before, entry) {
                    return Err(format!(
                        "entry {} on node {node} begins a change while another is under way",
                        entry.index
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
