//! What is committed stays: Leader Completeness, Raft paper, figure 3 and section 5.4. What any
//! member has applied is committed, so it is in the log of every leader of a later term, or in its
//! snapshot.

use std::collections::BTreeMap;

use pgraft_raft::sim::{LogLine, MachineEvent};

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct CommittedStays {
    committed: BTreeMap<u64, LogLine>,
}

impl Invariant for CommittedStays {
    fn name(&self) -> &'static str {
        "committed entries stay"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Did { event: MachineEvent::Applied { entry, .. }, .. } => {
                self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            }
            Observation::Leads { node, term, purged, log } => {
                for (index, entry) in
                    self.committed.range(purged + 1..).filter(|(_, entry)| entry.term < *term)
                {
                    match log.iter().find(|line| line.index == *index) {
                        None => {
                            return Err(format!(
                                "node {node} leads without the committed entry {index} ({})",
                                entry.content
                            ));
                        }
                        Some(line)
                            if (line.term, &line.content) != (entry.term, &entry.content) =>
                        {
                            return Err(format!(
                                "node {node} leads with another entry {index} ({} of term {}) than the committed one ({} of term {})",
                                line.content, line.term, entry.content, entry.term
                            ));
                        }
                        Some(_) => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
