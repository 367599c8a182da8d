//! Invariant 9 (docs/internals/protocol.md#invariants): no gate opens before its standbys have
//! confirmed the end of that primary's WAL. Checked on their disks.

use super::{Invariant, Observation};

/// See the module.
pub struct ConfirmedGate;

impl Invariant for ConfirmedGate {
    fn name(&self) -> &'static str {
        "a gate waits for its standbys"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::GateOpens { node, confirmed, required, .. } if confirmed < required => {
                Err(format!(
                    "node {node} opens its gate, and {confirmed} of {required} standbys have its WAL"
                ))
            }
            _ => Ok(()),
        }
    }
}
