//! What a member keeps: the log and the vote in the library `raft-log`, the applied state in memory with a snapshot on disk.

mod log;
mod state_machine;

pub use log::LogStore;
pub use state_machine::{AppliedState, StateMachine};

#[cfg(test)]
mod tests {
    use super::{LogStore, StateMachine};
    use crate::identity::Identity;
    use crate::types::TypeConfig;
    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};
    use pgraft_core::NodeId;
    use tempfile::TempDir;

    struct Builder;

    impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
        async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
            let dir = tempfile::tempdir().unwrap();
            let identity = Identity::open(dir.path(), NodeId::new(1).unwrap()).unwrap();
            let log = LogStore::open(dir.path(), &identity).unwrap();
            let state_machine = StateMachine::open(dir.path()).unwrap();
            Ok((dir, log, state_machine))
        }
    }

    /// Openraft's own conformance suite for stores.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn openraft_accepts_the_store() {
        Suite::test_all(Builder).await.unwrap();
    }
}
