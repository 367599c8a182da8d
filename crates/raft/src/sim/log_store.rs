//! The log store in a simulation: the machine's disk, with a task for the writer that acknowledges
//! a sync when it is through. On a thread that is no machine it is the one that ships.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::alias::{LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use raft_log::Callback;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::disk::{LogLine, SimDisk, Write};
use super::machine::{Machine, MachineEvent, Term, here};
use crate::identity::Identity;
use crate::store::{OnDisk, RealLogStore};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// When a disk that nobody syncs writes back on its own.
const WRITE_BACK: Duration = Duration::from_secs(5);

/// The log store. Clones share one log.
#[derive(Clone)]
pub enum SimLogStore {
    /// On the disk of this host.
    Real(RealLogStore),
    /// On the disk of a machine.
    Simulated(Simulated),
}

/// A log on the disk of a machine.
#[derive(Clone)]
pub struct Simulated {
    machine: Arc<Machine>,
    syncs: mpsc::UnboundedSender<(u64, OnDisk)>,
}

impl SimLogStore {
    /// As the real one.
    pub fn open(dir: &Path, identity: &Identity) -> io::Result<Self> {
        match here(Arc::clone) {
            Some(machine) => Simulated::open(machine, identity).map(Self::Simulated),
            None => RealLogStore::open(dir, identity).map(Self::Real),
        }
    }

    /// As the real one. A machine's disk is nobody's to lock.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let real = match self {
            Self::Real(store) => Some(store.gone()),
            Self::Simulated(_) => None,
        };
        async move {
            if let Some(gone) = real {
                gone.await;
            }
        }
    }

    /// As the real one.
    pub fn purged(&self) -> Option<LogId> {
        match self {
            Self::Real(store) => store.purged(),
            Self::Simulated(store) => store.machine.with_disk(|disk| disk.log.purged),
        }
    }

    /// As the real one.
    pub fn tail(&self, limit: usize) -> io::Result<Vec<Entry>> {
        match self {
            Self::Real(store) => store.tail(limit),
            Self::Simulated(store) => Ok(store.machine.with_disk(|disk| {
                let entries = &disk.log.entries;
                entries.values().skip(entries.len().saturating_sub(limit)).cloned().collect()
            })),
        }
    }
}

impl Simulated {
    fn open(machine: Arc<Machine>, identity: &Identity) -> io::Result<Self> {
        let damaged = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        match machine.with_disk(|disk| disk.log.owner) {
            Some(owner) if owner != identity.instance => {
                return damaged("the log belongs to another directory");
            }
            Some(_) => {}
            None if identity.cluster.is_some() => {
                return damaged("the log is gone, and with it this node's vote");
            }
            None => machine.with_disk(|disk| {
                let owner = disk.write(Write::Owner(identity.instance));
                disk.sync(owner);
            }),
        }
        if machine.rules().fsync {
            machine.with_disk(SimDisk::settle); // as `check::settle` does for the real one
        }
        let (syncs, queue) = mpsc::unbounded_channel();
        tokio::spawn(writer(Arc::clone(&machine), queue));
        Ok(Self { machine, syncs })
    }

    fn write(&self, write: Write) -> u64 {
        self.machine.with_disk(|disk| disk.write(write))
    }

    async fn durably(&self, write: Write) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        let stopped = || io::Error::other("the log's writer has stopped");
        self.syncs.send((self.write(write), OnDisk::Signal(tx))).map_err(|_| stopped())?;
        rx.await.map_err(|_| stopped())?
    }
}

/// Syncs one write after the other and says so. Where the rule is off it says so first, and the
/// disk takes its time.
async fn writer(machine: Arc<Machine>, mut queue: mpsc::UnboundedReceiver<(u64, OnDisk)>) {
    let mut written_back = VecDeque::new();
    while let Some((number, done)) = queue.recv().await {
        if machine.rules().fsync {
            sleep(machine.fsync_takes()).await;
            machine.with_disk(|disk| disk.sync(number));
        } else {
            written_back.push_back((Instant::now() + WRITE_BACK, number));
            while let Some((_, number)) = written_back.pop_front_if(|(at, _)| *at <= Instant::now())
            {
                machine.with_disk(|disk| disk.sync(number));
            }
        }
        done.send(Ok(()));
    }
}

impl RaftLogReader<TypeConfig> for SimLogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        match self {
            Self::Real(store) => store.try_get_log_entries(range).await,
            Self::Simulated(store) => {
                let empty = match (range.start_bound(), range.end_bound()) {
                    (Bound::Included(a), Bound::Excluded(b)) => a >= b,
                    (Bound::Included(a), Bound::Included(b)) => a > b,
                    _ => false,
                };
                Ok(if empty {
                    Vec::new()
                } else {
                    store.machine.with_disk(|disk| {
                        disk.log.entries.range(range).map(|(_, e)| e.clone()).collect()
                    })
                })
            }
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        match self {
            Self::Real(store) => store.read_vote().await,
            Self::Simulated(store) => Ok(store.machine.with_disk(|disk| disk.log.vote)),
        }
    }
}

impl RaftLogStorage<TypeConfig> for SimLogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        match self {
            Self::Real(store) => store.get_log_state().await,
            Self::Simulated(store) => Ok(store.machine.with_disk(|disk| LogState {
                last_purged_log_id: disk.log.purged,
                last_log_id: disk.log.last(),
            })),
        }
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        match self {
            Self::Real(store) => store.save_vote(vote).await,
            Self::Simulated(store) => {
                let candidate = u32::try_from(vote.leader_id.voted_for).unwrap_or(u32::MAX);
                let term = Term { number: vote.leader_id.term, candidate };
                store.durably(Write::Vote(*vote)).await?;
                store.machine.note(MachineEvent::Voted { term, confirmed: vote.committed });
                Ok(())
            }
        }
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match (self, committed) {
            (Self::Real(store), committed) => store.save_committed(committed).await,
            (Self::Simulated(store), Some(upto))
                if store.machine.with_disk(|disk| disk.log.last() >= Some(upto)) =>
            {
                store.write(Write::Committed(upto));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        match self {
            Self::Real(store) => store.read_committed().await,
            Self::Simulated(store) => Ok(store.machine.with_disk(|disk| disk.log.committed)),
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        match self {
            Self::Real(store) => store.append(entries, callback).await,
            Self::Simulated(store) => {
                let entries: Vec<Entry> = entries.into_iter().collect();
                let lines: Vec<LogLine> = entries.iter().map(LogLine::of).collect();
                let number = store.write(Write::Append(entries));
                for line in lines {
                    store.machine.note(MachineEvent::Appended(line));
                }
                store
                    .syncs
                    .send((number, OnDisk::Raft(callback)))
                    .map_err(|_| io::Error::other("the log's writer has stopped"))
            }
        }
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        match self {
            Self::Real(store) => store.truncate_after(last).await,
            Self::Simulated(store) => {
                let first_gone = last.map_or(0, |id| id.index + 1);
                store.machine.note(MachineEvent::TruncatedFrom(first_gone));
                store.durably(Write::TruncateFrom(first_gone)).await
            }
        }
    }

    async fn purge(&mut self, upto: LogIdOf<TypeConfig>) -> io::Result<()> {
        match self {
            Self::Real(store) => store.purge(upto).await,
            Self::Simulated(store) => store.durably(Write::Purge(upto)).await,
        }
    }
}
