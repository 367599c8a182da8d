//! Prepared transactions: each fourth row is one that is never committed, and is there for as long
//! as the transaction is.
//!
//! Checkpoints write them to files, recovery loads the files and then replays WAL from its
//! checkpoint on. As in Postgres 17 a PREPARE record is skipped where its file exists, and a file
//! that is newer than the checkpoint is not loaded and stays: what has both is lost. Files of that
//! kind come from a rewind, from a clone that took longer than the time between two checkpoints,
//! and from a crash in the middle of one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::disk::PostgresDisk;
use super::server::{SimPostgres, SimServerMode};
use crate::clock::Time;

const fn is_prepared(row: u32) -> bool {
    row.is_multiple_of(4)
}

impl PostgresDisk {
    /// From where a recovery replays WAL.
    fn redo(&self) -> usize {
        self.checkpoints.last().copied().unwrap_or(0)
    }

    fn prepared(&self, upto: usize) -> impl Iterator<Item = u32> {
        self.rows(upto).filter(|row| is_prepared(*row))
    }

    /// The first half of a checkpoint.
    fn write_two_phase_files(&mut self, lost: &BTreeSet<u32>) {
        let rows: Vec<u32> =
            self.prepared(self.flushed).filter(|row| !lost.contains(row)).collect();
        self.two_phase.extend(rows);
    }

    /// As the instance manager and the extension do before each recovery.
    pub fn remove_future_two_phase_files(&mut self) {
        let known: BTreeSet<u32> = self.prepared(self.redo()).collect();
        self.two_phase.retain(|row| known.contains(row));
    }

    /// The prepared transactions that a recovery from here does not have.
    pub fn lost_in_recovery(&self) -> BTreeSet<u32> {
        let before: BTreeSet<u32> = self.prepared(self.redo()).collect();
        self.prepared(self.wal.len())
            .filter(|row| before.contains(row) != self.two_phase.contains(row))
            .collect()
    }

    /// Of a rewind: what the source has, and a recovery from the last checkpoint that both have.
    pub fn rewind_two_phase(&mut self, apart: usize, source: &Self) {
        let own = self.checkpoints.iter().copied().filter(|redo| *redo <= apart).max().unwrap_or(0);
        self.checkpoints = vec![own.min(source.redo())];
        self.two_phase.clone_from(&source.two_phase);
    }

    /// Of a clone: it began before the source's last checkpoint.
    pub fn clone_two_phase(&mut self, source: &Self) {
        self.checkpoints = source
            .checkpoints
            .get(source.checkpoints.len().saturating_sub(2))
            .copied()
            .into_iter()
            .collect();
        self.two_phase.clone_from(&source.two_phase);
    }
}

impl SimPostgres {
    /// A checkpoint, when one is due.
    pub fn checkpoint(&mut self, now: Time) {
        let Some(run) = self
            .run
            .as_ref()
            .filter(|r| matches!(r.mode, SimServerMode::Primary | SimServerMode::Standby))
        else {
            return;
        };
        if now < self.next_checkpoint {
            return;
        }
        self.next_checkpoint = now + Duration::from_millis(400 + u64::from(self.number) * 37);
        self.disk.write_two_phase_files(&run.lost);
        self.disk.checkpoints.push(self.disk.flushed);
    }

    /// The processes end: now and then in the middle of a checkpoint.
    pub fn break_off_checkpoint(&mut self) {
        if let Some(run) = self.run.as_ref().filter(|_| self.disk.wal.len().is_multiple_of(3)) {
            self.disk.write_two_phase_files(&run.lost);
        }
    }

    /// Recovery begins: the prepared transactions that it loses.
    pub fn begin_recovery(&mut self) -> BTreeSet<u32> {
        if self.rules.two_phase_files {
            self.disk.remove_future_two_phase_files();
        }
        self.disk.lost_in_recovery()
    }
}
