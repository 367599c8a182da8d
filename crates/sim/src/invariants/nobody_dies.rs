//! No member stops unless it is stopped: a panic or a Raft core that gives up costs the worker its
//! process (ARCHITECTURE, "a panic ends the worker"), and nothing that a network or a crash can do
//! may cause one.

use super::{Invariant, Observation};

/// See the module.
pub struct NobodyDies;

impl Invariant for NobodyDies {
    fn name(&self) -> &'static str {
        "no member dies of itself"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Died { node, why } => Err(format!("node {node} has stopped: {why}")),
            _ => Ok(()),
        }
    }
}
