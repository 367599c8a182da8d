//! Log, vote and commit index in `raft-log`, which was made for openraft: a write-ahead log with a
//! checksum a record, which cuts a torn tail at the next start and answers only after fsync.
//!
//! Values are JSON inside its records: the log carries a few membership entries an hour, and a
//! person can read them.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use openraft::alias::{LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use raft_log::Types;
use raft_log::api::raft_log_writer::RaftLogWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};

use super::check::{self, Owner};
use super::on_disk::OnDisk;
use crate::identity::Identity;
use crate::types::{Entry, LogId, Payload, TypeConfig, Vote};

/// A chunk is closed at this size; purged chunks are deleted whole.
const CHUNK_SIZE: usize = 4 << 20;
/// Read buffer of the replay at start; the library's own default is 64 MiB.
const READ_BUFFER: usize = 256 << 10;
/// Entries that stay in memory for replication.
const CACHE_ITEMS: usize = 2048;
const CACHE_BYTES: usize = 2 << 20;

/// The log store. Clones share one log.
#[derive(Clone)]
pub struct LogStore {
    held: Arc<LogContents>,
}

/// What the last clone lets go of, in this order: the log with its files and its lock, then the
/// word that it is gone.
struct LogContents {
    log: Mutex<raft_log::RaftLog<LogTypes>>,
    gone: watch::Sender<()>,
}

impl LogStore {
    /// Opens or makes the log below the Raft directory. `identity` is the directory's: a log that
    /// was lost, while the node belongs to a cluster, is an error. It took the vote along, and the
    /// node could vote a second time.
    pub fn open(dir: &Path, identity: &Identity) -> io::Result<Self> {
        let dir = dir.join("log");
        std::fs::create_dir_all(&dir)?;
        let damaged = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        {
            let _alone = lock(&dir)?; // until the library takes it
            match check::check(&dir)? {
                Some(owner) if owner.instance != identity.instance => {
                    return damaged("the log belongs to another directory");
                }
                None if identity.cluster.is_some() => {
                    return damaged("the log is gone, and with it this node's vote");
                }
                _ => check::settle(&dir)?,
            }
        }
        let path = dir
            .to_str()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))?;
        let mut config = raft_log::Config::new(path);
        config.wal.chunk_max_size = Some(CHUNK_SIZE);
        config.wal.read_buffer_size = Some(READ_BUFFER);
        // Entries come one by one here: waiting for company would only add to every change.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.log_cache_max_items = Some(CACHE_ITEMS);
        config.log_cache_capacity = Some(CACHE_BYTES);
        let mut log =
            raft_log::RaftLog::<LogTypes>::open(Arc::new(config)).map_err(contradiction)?;
        if log.log_state().user_data.is_none() {
            log.save_user_data(Some(Json(Owner {
                format: check::FORMAT,
                instance: identity.instance,
            })))?;
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            log.flush(true, Some(OnDisk::Opened(tell)))?;
            told.recv().map_err(io::Error::other)??;
        }
        let first = LogTypes::next_log_index(log.log_state().purged());
        let has_entries = log.log_state().last().is_some_and(|last| last.0.index >= first);
        if has_entries && log.read(first, first + 1).next().is_none() {
            return damaged("its oldest entries are gone");
        }
        Ok(Self {
            held: Arc::new(LogContents { log: Mutex::new(log), gone: watch::channel(()).0 }),
        })
    }

    /// Until the last clone is gone, and with it the lock on the directory: who stops a member may
    /// open it again then.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut gone = self.held.gone.subscribe();
        async move { while gone.changed().await.is_ok() {} }
    }

    /// The last entry that was purged: the snapshot must reach as far.
    pub fn purged(&self) -> Option<LogId> {
        self.lock().log_state().purged().map(|id| id.0)
    }

    /// The latest `limit` entries, oldest first.
    pub fn tail(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let log = self.lock();
        let Some(last) = log.log_state().last().map(|id| id.0.index) else { return Ok(Vec::new()) };
        let first = last.saturating_add(1).saturating_sub(limit as u64);
        log.read(first, last + 1)
            .map(|row| row.map(|(id, payload)| Entry::new(id.0, payload.0)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, raft_log::RaftLog<LogTypes>> {
        self.held.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change and waits until it is on disk.
    async fn durably<F>(&self, change: F) -> io::Result<()>
    where
        F: FnOnce(&mut raft_log::RaftLog<LogTypes>) -> io::Result<()>,
    {
        let (tx, rx) = oneshot::channel();
        {
            let mut log = self.lock();
            change(&mut log)?;
            log.flush(true, Some(OnDisk::Signal(tx)))?;
        }
        rx.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let first = match range.start_bound() {
            Included(&n) => n,
            Excluded(&n) => n.saturating_add(1),
            Unbounded => 0,
        };
        let end = match range.end_bound() {
            Included(&n) => n.saturating_add(1),
            Excluded(&n) => n,
            Unbounded => u64::MAX,
        };
        if first >= end {
            return Ok(Vec::new());
        }
        let entries: Vec<Entry> = {
            let log = self.lock();
            log.read(first, end)
                .map(|row| row.map(|(id, payload)| Entry::new(id.0, payload.0)))
                .collect::<io::Result<_>>()?
        };
        // Openraft's contract: a hole is an error. (What is missing at the beginning was purged,
        // and `Node::start` sees to it that the snapshot reaches as far.)
        let first = entries.first().map_or(0, |e| e.log_id.index);
        match (first..).zip(&entries).find(|(index, entry)| entry.log_id.index != *index) {
            Some((index, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {index} is missing from the log"),
            )),
            None => Ok(entries),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.lock().log_state().vote().map(|v| v.0))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.lock();
        let state = log.log_state();
        let purged = state.purged().map(|id| id.0);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: state.last().map(|id| id.0).or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        let vote = Json(*vote);
        self.durably(|log| log.save_vote(vote).map(drop)).await
    }

    /// Not flushed on its own: it only spares a restarted node the wait for a leader, and the next
    /// append carries it to disk.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        let mut log = self.lock();
        if log.log_state().last().is_none_or(|last| last.0 < committed) {
            return Ok(()); // the entry itself is not here yet
        }
        log.commit(Json(committed))?;
        log.flush(false, None)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.lock().log_state().committed().map(|id| id.0))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut log = self.lock();
        log.append(entries.into_iter().map(|e| (Json(e.log_id), Json(e.payload))))?;
        log.flush(true, Some(OnDisk::Raft(callback)))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        let first_gone = last.map_or(0, |id| id.index + 1);
        if self.lock().log_state().last().is_none_or(|last| last.0.index < first_gone) {
            return Ok(()); // nothing behind it, which the library takes for a mistake
        }
        self.durably(|log| log.truncate(first_gone).map(drop)).await
    }

    async fn purge(&mut self, upto: LogIdOf<TypeConfig>) -> io::Result<()> {
        self.durably(|log| log.purge(Json(upto)).map(drop)).await
    }
}

/// Records that are whole and contradict each other (an entry without the one before, a vote that
/// goes back) are damage as well: the library calls it wrong input, or nothing in particular while
/// it reads what is there.
fn contradiction(error: io::Error) -> io::Error {
    let contradicts = matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Other);
    if contradicts { io::Error::new(io::ErrorKind::InvalidData, error) } else { error }
}

/// The lock that the library takes on its directory, too.
fn lock(dir: &Path) -> io::Result<Flock<std::fs::File>> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("LOCK"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        io::Error::new(io::ErrorKind::WouldBlock, "another server uses this directory")
    })
}

/// `raft-log`'s type parameters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LogTypes;

impl Types for LogTypes {
    type LogId = Json<LogId>;
    type LogPayload = Json<Payload>;
    type Vote = Json<Vote>;
    type Callback = OnDisk;
    /// Whose log it is.
    type UserData = Json<Owner>;

    fn log_index(id: &Self::LogId) -> u64 {
        id.0.index
    }

    fn payload_size(_: &Self::LogPayload) -> u64 {
        512 // an estimate for the cache: a membership entry of seven nodes
    }
}

/// A value as JSON inside a `raft-log` record, which has its own length and checksum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Json<T>(T);

impl<T: Serialize> codeq::Encode for Json<T> {
    fn encode<W: io::Write>(&self, w: W) -> io::Result<usize> {
        serde_json::to_vec(&self.0)?.encode(w)
    }
}

impl<T: DeserializeOwned> codeq::Decode for Json<T> {
    fn decode<R: io::Read>(r: R) -> io::Result<Self> {
        // Never "unexpected end", as serde says of what is too short: the library takes that for a
        // torn tail and cuts it off.
        let value = serde_json::from_slice(&check::read_bytes(r)?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Self(value))
    }
}
