//! At most one leader in a term: Election Safety, Raft paper, figure 3 and section 5.2. And what it
//! rests on: a node gives one vote a term, whatever becomes of it in between.

use std::collections::BTreeMap;

use pgraft_raft::sim::MachineEvent;

use super::{Invariant, Observation};

/// See the module.
#[derive(Default)]
pub struct OneLeaderATerm {
    leaders: BTreeMap<u64, u32>,
    votes: BTreeMap<(u32, u64), u32>,
}

impl Invariant for OneLeaderATerm {
    fn name(&self) -> &'static str {
        "one leader a term"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        let Observation::Did { node, event: MachineEvent::Voted { term, confirmed }, .. } = seen
        else {
            return Ok(());
        };
        if *confirmed {
            let leader = *self.leaders.entry(term.number).or_insert(term.candidate);
            if leader != term.candidate {
                return Err(format!(
                    "node {} leads term {}, which node {leader} has led",
                    term.candidate, term.number
                ));
            }
        } else {
            let voted = *self.votes.entry((*node, term.number)).or_insert(term.candidate);
            if voted != term.candidate {
                return Err(format!(
                    "node {node} votes for node {} in term {}, and has voted for node {voted}",
                    term.candidate, term.number
                ));
            }
        }
        Ok(())
    }
}
