//! Since when which record is on whose disk.

use std::collections::BTreeMap;

use super::disk::PostgresDisk;
use crate::clock::Time;

/// Since when which record is on whose disk.
#[derive(Debug, Default)]
pub struct Flushes(BTreeMap<u64, BTreeMap<u32, Time>>);

impl Flushes {
    /// That server's WAL is on disk up to there.
    pub fn on_disk(&mut self, node: u32, disk: &PostgresDisk, upto: usize, now: Time) {
        // Who has a record has all before it.
        for record in disk.wal[..upto.min(disk.wal.len())].iter().rev() {
            let since = self.0.entry(record.id).or_default();
            if since.contains_key(&node) {
                break;
            }
            since.insert(node, now);
        }
    }

    /// When each of these had it on disk, the earliest first.
    pub fn of(&self, record: u64, nodes: impl Fn(u32) -> bool) -> Vec<Time> {
        let mut times: Vec<Time> = self
            .0
            .get(&record)
            .into_iter()
            .flatten()
            .filter(|(n, _)| nodes(**n))
            .map(|(_, at)| *at)
            .collect();
        times.sort_unstable();
        times
    }
}
