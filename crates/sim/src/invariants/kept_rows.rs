//! Invariant 2 (docs/internals/protocol.md#invariants): every acknowledged write is on every later
//! primary, and so is what a primary has shown. What was certainly refused is on none.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Observation};
use crate::note::{Ask, ClientAnswer, Note};

/// See the module.
#[derive(Default)]
pub struct KeptRows {
    /// What clients were told or shown, and by what.
    kept: BTreeMap<u32, &'static str>,
    refused: BTreeSet<u32>,
}

impl KeptRows {
    fn look(&self, node: u32, rows: &BTreeSet<u32>) -> Result<(), String> {
        if let Some((row, how)) = self.kept.iter().find(|(row, _)| !rows.contains(row)) {
            return Err(format!(
                "node {node} opens its gate without row {row}, which a client was {how}"
            ));
        }
        match rows.intersection(&self.refused).next() {
            Some(row) => Err(format!("node {node} shows row {row}, which was refused")),
            None => Ok(()),
        }
    }
}

impl Invariant for KeptRows {
    fn name(&self) -> &'static str {
        "acknowledged rows are kept"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match seen {
            Observation::Postgres(Note::Hears {
                ask: Ask::Write(row),
                answer: Some(answer),
                ..
            }) => {
                match answer {
                    ClientAnswer::Done => drop(self.kept.insert(*row, "told is there")),
                    ClientAnswer::Refused => drop(self.refused.insert(*row)),
                    ClientAnswer::Rows(_) | ClientAnswer::Nothing => {}
                }
                Ok(())
            }
            Observation::Postgres(Note::Hears {
                answer: Some(ClientAnswer::Rows(rows)), ..
            }) => {
                for row in rows {
                    self.kept.entry(*row).or_insert("shown");
                }
                Ok(())
            }
            Observation::GateOpens { node, rows, .. } => self.look(*node, rows),
            _ => Ok(()),
        }
    }
}
