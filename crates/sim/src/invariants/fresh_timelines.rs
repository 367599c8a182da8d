//! Invariant 8 (docs/internals/protocol.md#invariants): no timeline is used by two promotions.

use std::collections::BTreeMap;

use super::{Invariant, Observation};
use crate::note::Note;

/// See the module.
#[derive(Default)]
pub struct FreshTimelines {
    taken: BTreeMap<u32, u32>,
}

impl Invariant for FreshTimelines {
    fn name(&self) -> &'static str {
        "timelines are used once"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        let Observation::Postgres(Note::Promotes { node, timeline }) = seen else {
            return Ok(());
        };
        match self.taken.insert(*timeline, *node) {
            Some(before) => Err(format!(
                "node {node} promotes to timeline {timeline}, to which node {before} has promoted"
            )),
            None => Ok(()),
        }
    }
}
