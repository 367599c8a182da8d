//! Invariant 1 (docs/internals/protocol.md#invariants): at most one node confirms writes in an
//! epoch, and no write of an epoch is confirmed after the first one of a later epoch. A write is
//! confirmed when the last standby that it needs has it on disk; its client may learn it later.

use std::collections::BTreeMap;

use super::{Invariant, Observation};
use crate::clock::Time;

/// See the module.
#[derive(Default)]
pub struct OneConfirms {
    epochs: BTreeMap<u32, u64>,
    /// Who confirms in each epoch, and since when at the earliest, up to when at the latest.
    confirmed: BTreeMap<u64, (u32, Time, Time)>,
}

impl Invariant for OneConfirms {
    fn name(&self) -> &'static str {
        "one confirms in an epoch"
    }

    fn see(&mut self, seen: &Observation<'_>) -> Result<(), String> {
        match *seen {
            Observation::Appointed { epoch, timeline } => {
                self.epochs.entry(timeline).or_insert(epoch);
                Ok(())
            }
            Observation::Confirmed { node, timeline, since } => {
                let Some(&epoch) = self.epochs.get(&timeline) else {
                    return Err(format!(
                        "node {node} confirms a write on timeline {timeline}, which nobody was given"
                    ));
                };
                let (who, first, last) =
                    self.confirmed.entry(epoch).or_insert((node, since, since));
                (*first, *last) = ((*first).min(since), (*last).max(since));
                if *who != node {
                    return Err(format!(
                        "node {node} confirms a write in epoch {epoch}, in which node {who} has confirmed some"
                    ));
                }
                let last = *last;
                let late =
                    self.confirmed.range(epoch + 1..).find(|(_, (_, first, _))| *first < last);
                let early = self.confirmed.range(..epoch).find(|(_, (.., last))| *last > since);
                match late.or(early) {
                    Some((other, _)) => Err(format!(
                        "node {node} confirms a write of epoch {epoch} while others confirm those of epoch {other}"
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
