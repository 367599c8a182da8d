//! Every follower has what its primary has: a standby streams only where its WAL is a prefix of
//! that server's. Postgres compares timelines and positions alone; this is enough because no
//! timeline is used twice (docs/internals/protocol.md#appoint).

use super::{Invariant, Observation};
use crate::note::Note;

/// See the module.
pub struct OneHistory;

impl Invariant for OneHistory {
    fn name(&self) -> &'static str {
        "who follows has the same history"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Postgres(Note::Streams { node, standby, diverged: Some(at) }) => Err(
                format!("node {standby} streams from node {node}, and has another record at {at}"),
            ),
            _ => Ok(()),
        }
    }
}
