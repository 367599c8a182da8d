//! Invariant 7 (docs/internals/protocol.md#invariants): no read is served by a primary after its
//! lease has ended. A client that asks a primary sees every row that any client was told of, or
//! shown, before it asked.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Observation};
use crate::note::{Ask, ClientAnswer, Note};

/// See the module.
#[derive(Default)]
pub struct ReadsInTime {
    /// In the order in which clients heard of them.
    known: Vec<u32>,
    is_known: BTreeSet<u32>,
    /// How many were known when each read was asked for.
    asked: BTreeMap<u64, usize>,
}

impl ReadsInTime {
    fn know(&mut self, row: u32) {
        if self.is_known.insert(row) {
            self.known.push(row);
        }
    }
}

impl Invariant for ReadsInTime {
    fn name(&self) -> &'static str {
        "reads are in time"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        let Observation::Postgres(note) = seen else { return Ok(()) };
        match note {
            Note::Asks { request, ask: Ask::Read, .. } => {
                _ = self.asked.insert(*request, self.known.len());
            }
            Note::Hears { ask: Ask::Write(row), answer: Some(ClientAnswer::Done), .. } => {
                self.know(*row);
            }
            Note::Hears { request, answer: Some(ClientAnswer::Rows(rows)), .. } => {
                let known = self.asked.remove(request).unwrap_or(0);
                if let Some(row) = self.known[..known].iter().find(|row| !rows.contains(row)) {
                    return Err(format!(
                        "a read does not show row {row}, which was known before it was asked for"
                    ));
                }
                for row in rows {
                    self.know(*row);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
