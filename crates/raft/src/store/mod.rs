//! What a member keeps: the log and the vote in the library `raft-log`, the applied state in memory
//! with a snapshot on disk.

pub mod check;
#[cfg(all(test, not(feature = "sim")))]
mod faults;
mod log;
mod on_disk;
mod state_machine;

#[cfg(not(feature = "sim"))]
pub use log::LogStore;
#[cfg(all(any(test, feature = "fuzz"), not(feature = "sim")))]
pub use state_machine::SnapshotFile;
pub use state_machine::{AppliedState, StateMachine};
#[cfg(feature = "sim")]
pub use {crate::sim::SimLogStore as LogStore, log::LogStore as RealLogStore, on_disk::OnDisk};

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
        async fn build(
            &self,
        ) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
            let dir = tempfile::tempdir().unwrap();
            let identity = Identity::open(dir.path(), NodeId::new(1).unwrap()).unwrap();
            let log = LogStore::open(dir.path(), &identity).unwrap();
            let state_machine = StateMachine::open(dir.path()).unwrap();
            Ok((dir, log, state_machine))
        }
    }

    #[cfg(feature = "sim")]
    struct SimulatedBuilder;

    #[cfg(feature = "sim")]
    impl StoreBuilder<TypeConfig, LogStore, StateMachine, crate::sim::EnteredMachine>
        for SimulatedBuilder
    {
        async fn build(
            &self,
        ) -> Result<(crate::sim::EnteredMachine, LogStore, StateMachine), StorageError<TypeConfig>>
        {
            let entered = crate::sim::Machine::new(1, crate::sim::Rules::default()).enter();
            let dir = std::path::Path::new("/raft");
            let identity = Identity::open(dir, NodeId::new(1).unwrap()).unwrap();
            Ok((entered, LogStore::open(dir, &identity).unwrap(), StateMachine::open(dir).unwrap()))
        }
    }

    /// The same suite for the store of the simulation. On one thread, which is the machine.
    #[cfg(feature = "sim")]
    #[tokio::test(start_paused = true)]
    async fn openraft_accepts_the_simulated_store() {
        Suite::test_all(SimulatedBuilder).await.unwrap();
    }

    /// Openraft's own conformance suite for stores.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn openraft_accepts_the_store() {
        Suite::test_all(Builder).await.unwrap();
    }
}
