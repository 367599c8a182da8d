//! At most one gate is open at a time (docs/internals/protocol.md#the-lease). With
//! [`super::confirmed_gate`] it follows that no read is out of date.

use super::{Invariant, Observation};
use crate::note::Note;
use crate::story::ids;

/// See the module.
pub struct OneOpenGate;

impl Invariant for OneOpenGate {
    fn name(&self) -> &'static str {
        "one open gate"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Postgres(Note::Open(nodes)) if nodes.len() > 1 => {
                Err(format!("the gates of nodes {} are open", ids(nodes)))
            }
            _ => Ok(()),
        }
    }
}
