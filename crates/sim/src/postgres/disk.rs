//! PGDATA: WAL on timelines, and the files that a crash leaves.

use std::collections::{BTreeMap, BTreeSet};

use pgraft_core::failover::{History, SyncConfig};
use pgraft_core::status::WalPosition;

/// One record. A position is a number of records: an LSN that counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRecord {
    /// No other record has it, wherever it stands: two servers that have another one at the same
    /// position have diverged.
    pub id: u64,
    /// The timeline that it was written on.
    pub timeline: u32,
    /// The client's row that it commits.
    pub row: Option<u32>,
}

/// What the data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SimData {
    /// There is none yet.
    #[default]
    Nothing,
    /// A server can start from it.
    Whole,
    /// A rewind has begun and is not done: it is nobody's. The epoch in which it began.
    Broken(u64),
}

/// The data directory of one server.
#[derive(Debug, Clone, Default)]
pub struct PostgresDisk {
    /// What it is.
    pub data: SimData,
    /// All that was written.
    pub wal: Vec<WalRecord>,
    /// How many of the records are on disk, whatever happens.
    pub flushed: usize,
    /// `NNN.history` in `pg_wal`: where each earlier timeline was left; empty for a file that only
    /// stands in the way of its number.
    pub histories: BTreeMap<u32, Vec<WalPosition>>,
    /// `names.conf`: the change, and the names.
    pub names: Option<(u64, SyncConfig)>,
    /// The redo positions of its checkpoints.
    pub checkpoints: Vec<usize>,
    /// The prepared transactions, by row, that have a file in `pg_twophase`.
    pub two_phase: BTreeSet<u32>,
}

/// As an LSN.
pub fn lsn(position: usize) -> u64 {
    position.try_into().unwrap_or(u64::MAX)
}

impl PostgresDisk {
    /// The timeline of the last record.
    pub fn timeline(&self) -> u32 {
        self.wal.last().map_or(1, |r| r.timeline)
    }

    /// Where each timeline before `timeline` was left, by the records.
    pub fn left(&self, timeline: u32) -> Vec<WalPosition> {
        let at = |(n, pair): (usize, &[WalRecord])| {
            (pair[0].timeline != pair[1].timeline)
                .then(|| WalPosition { timeline: pair[0].timeline, lsn: lsn(n + 1) })
        };
        let mut left: Vec<WalPosition> = self.wal.windows(2).enumerate().filter_map(at).collect();
        if self.timeline() != timeline {
            left.push(WalPosition { timeline: self.timeline(), lsn: lsn(self.wal.len()) });
        }
        left
    }

    /// The history of a server that writes `timeline`.
    pub fn history(&self, timeline: u32) -> History {
        History { timeline, left: self.left(timeline) }
    }

    /// The highest timeline with a history in `pg_wal`; files that only stand in the way don't
    /// count.
    pub fn newest_timeline(&self) -> u32 {
        self.histories
            .iter()
            .filter(|(_, left)| !left.is_empty())
            .map(|(timeline, _)| *timeline)
            .max()
            .unwrap_or(1)
    }

    /// The timeline that a standby asks for: of the newest that it has a history of, where this WAL
    /// is a beginning of it, the one at its end.
    pub fn next_timeline(&self) -> u32 {
        let (newest, own, end) = (self.newest_timeline(), self.timeline(), lsn(self.wal.len()));
        let left = self.histories.get(&newest).map(Vec::as_slice).unwrap_or_default();
        if !left.iter().any(|l| l.timeline == own && end <= l.lsn) {
            return own;
        }
        left.iter().find(|l| end < l.lsn).map_or(newest, |l| l.timeline)
    }

    /// The number that a promotion takes: the first behind its own that has no history file.
    pub fn free_timeline(&self, from: u32) -> u32 {
        (from + 1..u32::MAX).find(|n| !self.histories.contains_key(n)).unwrap_or(u32::MAX)
    }

    /// As the instance manager finds it before a start: files that only stood in the way of a
    /// number go, above all that is known.
    pub fn prepare(&mut self) {
        let known = self.newest_timeline().max(self.timeline());
        self.histories.retain(|timeline, left| !left.is_empty() || *timeline <= known);
    }

    /// The rows that all of this WAL commits, up to a position.
    pub fn rows(&self, upto: usize) -> impl Iterator<Item = u32> {
        self.wal[..upto.min(self.wal.len())].iter().filter_map(|r| r.row)
    }

    /// The first position at which the two have another record, if both have one there.
    pub fn parts_from(&self, other: &Self) -> Option<usize> {
        self.wal.iter().zip(&other.wal).position(|(a, b)| a.id != b.id)
    }

    /// `pg_rewind`: by the histories alone, as it does; `timeline` and `source_timeline` are what
    /// each control file says. What it changed, in words.
    pub fn rewind(&mut self, timeline: u32, source: &Self, source_timeline: u32) -> String {
        if timeline == source_timeline {
            return "no rewind required".into();
        }
        let (own, theirs) = (self.ends(timeline), source.ends(source_timeline));
        let common = own.iter().zip(&theirs).take_while(|((a, _), (b, _))| a == b).last();
        let apart = common.map_or(0, |((_, a), (_, b))| (*a).min(*b)).min(self.wal.len());
        let lost = self.wal.len() - apart;
        self.wal.truncate(apart);
        self.wal.extend_from_slice(&source.wal[apart.min(source.flushed)..source.flushed]);
        self.flushed = self.wal.len();
        self.histories.clone_from(&source.histories);
        self.rewind_two_phase(apart, source);
        format!("{lost} records behind {apart} are replaced")
    }

    /// Each timeline and where it ends.
    fn ends(&self, timeline: u32) -> Vec<(u32, usize)> {
        let left = self.left(timeline);
        let end = |at: &WalPosition| (at.timeline, usize::try_from(at.lsn).unwrap_or(usize::MAX));
        left.iter().map(end).chain([(timeline, self.wal.len())]).collect()
    }

    /// `pg_basebackup`.
    pub fn clone_of(&mut self, source: &Self) {
        self.wal = source.wal[..source.flushed].to_vec();
        self.flushed = self.wal.len();
        self.histories.clone_from(&source.histories);
        self.clone_two_phase(source);
        self.data = SimData::Whole;
    }
}
