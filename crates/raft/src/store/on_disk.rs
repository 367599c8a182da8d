//! Who waits for a write of `raft-log`'s to be on disk.

use std::io;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::types::TypeConfig;

/// Who is told that a write is on disk.
pub enum OnDisk {
    Raft(IOFlushed<TypeConfig>),
    Signal(oneshot::Sender<io::Result<()>>),
    Opened(std::sync::mpsc::SyncSender<io::Result<()>>),
}

impl raft_log::Callback for OnDisk {
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Raft(callback) => callback.io_completed(result),
            Self::Signal(tx) => drop(tx.send(result)),
            Self::Opened(tx) => raft_log::Callback::send(tx, result),
        }
    }
}
