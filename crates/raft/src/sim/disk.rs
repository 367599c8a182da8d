//! A disk as Raft must expect it: what was written is read again at once, and is gone after a crash
//! unless it was synced first.
//!
//! The log is a journal of operations. A crash keeps all that were synced and, of those behind, a
//! prefix: a write-ahead log with checksums is cut at the first record that is not whole. Small
//! files are replaced whole and synced by the call itself, as `files.rs` does it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use openraft::EntryPayload;
use pgraft_core::InstanceId;

use crate::types::{Entry, LogId, Vote};

/// One write to the log.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Owner(InstanceId),
    Vote(Vote),
    Append(Vec<Entry>),
    TruncateFrom(u64),
    Purge(LogId),
    Committed(LogId),
}

/// What the log holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    pub owner: Option<InstanceId>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub entries: BTreeMap<u64, Entry>,
}

impl Log {
    fn write(&mut self, write: Write) {
        match write {
            Write::Owner(owner) => self.owner = Some(owner),
            Write::Vote(vote) => self.vote = Some(vote),
            Write::Append(entries) => {
                self.entries.extend(entries.into_iter().map(|e| (e.log_id.index, e)));
            }
            Write::TruncateFrom(first) => drop(self.entries.split_off(&first)),
            Write::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Write::Committed(upto) => self.committed = Some(upto),
        }
    }

    /// The last entry, or the last that was purged.
    pub fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|e| e.log_id).or(self.purged)
    }
}

/// One entry, for whoever looks at the log from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its index.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// Its content as JSON.
    pub content: String,
    /// The voters of each half, when it is a membership entry: one half, or two when it is joint.
    pub voters: Option<Vec<Vec<u32>>>,
}

impl LogLine {
    pub(crate) fn of(entry: &Entry) -> Self {
        let small = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let (content, voters) = match &entry.payload {
            EntryPayload::Blank => ("blank".to_owned(), None),
            EntryPayload::Normal(command) => {
                (serde_json::to_string(command).unwrap_or_default(), None)
            }
            EntryPayload::Membership(m) => {
                let halves = m
                    .get_joint_config()
                    .iter()
                    .map(|half| half.iter().map(|id| small(*id)).collect())
                    .collect();
                (serde_json::to_string(m).unwrap_or_default(), Some(halves))
            }
        };
        Self {
            index: entry.log_id.index,
            term: entry.log_id.committed_leader_id().term,
            content,
            voters,
        }
    }
}

/// The disk of one machine.
#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk {
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What is read: all that was written.
    pub log: Log,
    durable: Log,
    /// Written and not synced, oldest first, numbered from `synced` + 1.
    waiting: VecDeque<Write>,
    synced: u64,
}

impl SimDisk {
    /// Writes, and gives the number of the write: [`SimDisk::sync`] makes it durable.
    pub fn write(&mut self, write: Write) -> u64 {
        self.log.write(write.clone());
        self.waiting.push_back(write);
        self.written()
    }

    fn written(&self) -> u64 {
        self.synced + self.waiting.len() as u64
    }

    /// All that can be read is durable now.
    pub fn settle(&mut self) {
        self.sync(self.written());
    }

    /// All writes up to this number are durable now.
    pub fn sync(&mut self, upto: u64) {
        while self.synced < upto {
            let Some(write) = self.waiting.pop_front() else { return };
            self.durable.write(write);
            self.synced += 1;
        }
    }

    /// How many writes a crash could take.
    pub fn unsynced(&self) -> usize {
        self.waiting.len()
    }

    /// The power goes: `kept` of the writes that were not synced are there afterwards. Gives how
    /// many are not.
    pub fn crash(&mut self, kept: usize) -> usize {
        self.sync(self.synced + kept as u64);
        let lost = self.waiting.len();
        self.waiting.clear();
        self.log = self.durable.clone();
        lost
    }
}
