//! The applied state: `ClusterState` in memory, rebuilt at start from the snapshot and the
//! committed log, and told to whoever watches.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use pgraft_core::ClusterState;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::machine::{self, watch};
#[cfg(feature = "sim")]
use crate::sim;
use crate::types::{AppliedEntry, LogId, Membership, SnapshotMeta, TypeConfig, core_membership};

const FILE_NAME: &str = "snapshot.json";
const FORMAT: u32 = 1;
/// For how many applied entries `pgraft_log()` knows the time.
const TIMES_KEPT: usize = 1024;

/// What this member has applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppliedState {
    pub cluster: ClusterState,
    pub last_applied: Option<LogId>,
    pub membership: Membership,
    /// Log index and microseconds since the epoch, latest last.
    pub times: VecDeque<(u64, i64)>,
}

/// The state machine. Clones share one state.
#[derive(Clone)]
pub struct StateMachine {
    path: PathBuf,
    state: Arc<watch::Sender<Arc<AppliedState>>>,
    /// The last index in the snapshot on disk; held while it is written, since one may be built
    /// while another is installed.
    on_disk: Arc<Mutex<Option<LogId>>>,
}

/// A snapshot as it lies on disk.
#[derive(Serialize, Deserialize)]
pub struct SnapshotFile {
    format: u32,
    /// CRC-32 of the rest, as [`SnapshotFile::checksum`] writes it: a flipped bit in an address is
    /// an address, too.
    pub crc: u32,
    pub meta: SnapshotMeta,
    pub cluster: ClusterState,
}

impl SnapshotFile {
    pub fn new(meta: SnapshotMeta, cluster: ClusterState) -> io::Result<Self> {
        let mut file = Self { format: FORMAT, crc: 0, meta, cluster };
        file.crc = file.checksum()?;
        Ok(file)
    }

    fn read(path: &Path) -> io::Result<Option<Self>> {
        files::read(path)?.map(|bytes| Self::parse(&bytes)).transpose()
    }

    /// What the file says, when it is whole.
    pub fn parse(bytes: &[u8]) -> io::Result<Self> {
        let value: serde_json::Value = files::versioned(bytes, FILE_NAME, FORMAT)?;
        let file: Self = serde_json::from_value(value.clone())?;
        // A damaged name of an optional field reads as if the field were absent: nothing may stand
        // there that would not be written.
        if file.checksum()? != file.crc || serde_json::to_value(&file)? != value {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{FILE_NAME} is not what its checksum says"),
            ));
        }
        Ok(file)
    }

    fn checksum(&self) -> io::Result<u32> {
        Ok(crc32fast::hash(&serde_json::to_vec(&(&self.meta, &self.cluster))?))
    }
}

impl StateMachine {
    /// Starts from the snapshot in the Raft directory, or from nothing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let mut state = AppliedState::default();
        if let Some(SnapshotFile { meta, cluster, .. }) = SnapshotFile::read(&path)? {
            state = AppliedState {
                cluster,
                last_applied: meta.last_log_id,
                membership: meta.last_membership,
                times: VecDeque::new(),
            };
        }
        #[cfg(feature = "sim")]
        sim::note(|| sim::MachineEvent::Installed {
            index: state.last_applied.map_or(0, |id| id.index),
            state: Box::new(state.cluster.clone()),
        });
        let on_disk = Arc::new(Mutex::new(state.last_applied));
        Ok(Self { path, state: Arc::new(watch::channel(Arc::new(state)).0), on_disk })
    }

    /// Follows the applied state.
    pub fn watch(&self) -> watch::Receiver<Arc<AppliedState>> {
        self.state.subscribe()
    }

    /// Writes the snapshot, unless a younger one is there: the log behind that may be gone already.
    fn keep(&self, meta: &SnapshotMeta, cluster: &ClusterState) -> io::Result<()> {
        let mut on_disk = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
        if *on_disk > meta.last_log_id {
            return Ok(());
        }
        files::replace_json(&self.path, &SnapshotFile::new(meta.clone(), cluster.clone())?)?;
        *on_disk = meta.last_log_id;
        Ok(())
    }

    fn current(&self) -> Arc<AppliedState> {
        self.state.borrow().clone()
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let state = self.current();
        Ok((state.last_applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            #[cfg(feature = "sim")]
            let line = sim::LogLine::of(&entry);
            let mut next = AppliedState::clone(&self.state.borrow());
            let applied = match entry.payload {
                EntryPayload::Blank => AppliedEntry::Raft,
                EntryPayload::Normal(command) => {
                    AppliedEntry::Command(machine::apply(&mut next.cluster, &command.0))
                }
                EntryPayload::Membership(membership) => {
                    next.membership = Membership::new(Some(entry.log_id), membership);
                    next.cluster.apply_membership(&core_membership(&next.membership));
                    AppliedEntry::Raft
                }
            };
            next.last_applied = Some(entry.log_id);
            if next.times.len() >= TIMES_KEPT {
                next.times.pop_front();
            }
            next.times.push_back((entry.log_id.index, machine::wall_clock_us()));
            #[cfg(feature = "sim")]
            sim::note(|| sim::MachineEvent::Applied {
                entry: line,
                outcome: applied.to_string(),
                state: Box::new(next.cluster.clone()),
            });
            self.state.send_replace(Arc::new(next));
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        let cluster: ClusterState = serde_json::from_slice(&snapshot)?;
        self.keep(meta, &cluster)?;
        #[cfg(feature = "sim")]
        sim::note(|| sim::MachineEvent::Installed {
            index: meta.last_log_id.map_or(0, |id| id.index),
            state: Box::new(cluster.clone()),
        });
        self.state.send_replace(Arc::new(AppliedState {
            cluster,
            last_applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            times: VecDeque::new(),
        }));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<
        Option<
            Snapshot<
                openraft::alias::CommittedLeaderIdOf<TypeConfig>,
                u64,
                crate::types::Endpoint,
                Vec<u8>,
            >,
        >,
    > {
        let Some(SnapshotFile { meta, cluster, .. }) = SnapshotFile::read(&self.path)? else {
            return Ok(None);
        };
        Ok(Some(Snapshot { meta, snapshot: serde_json::to_vec(&cluster)? }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<
        Snapshot<
            openraft::alias::CommittedLeaderIdOf<TypeConfig>,
            u64,
            crate::types::Endpoint,
            Vec<u8>,
        >,
    > {
        let state = self.current();
        let meta = SnapshotMeta {
            last_log_id: state.last_applied,
            last_membership: state.membership.clone(),
        };
        self.keep(&meta, &state.cluster)?;
        Ok(Snapshot { meta, snapshot: serde_json::to_vec(&state.cluster)? })
    }
}
