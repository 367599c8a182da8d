//! Removes two-phase state files that recovery must not find (`pgraft_core::twophase` explains why).
//!
//! The postmaster creates its shared memory before each recovery: when it starts, and after the
//! crash of one of its processes, which the instance manager does not see.

use std::path::Path;
use std::sync::OnceLock;

use pgraft_raft::twophase;
use pgrx::prelude::*;

use super::ereport;

static NEXT: OnceLock<pg_sys::shmem_startup_hook_type> = OnceLock::new();

/// Installs the hook in the postmaster.
pub fn install() {
    // SAFETY: on the postmaster's only thread.
    unsafe {
        NEXT.get_or_init(|| pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(on_shared_memory);
    }
}

#[pg_guard]
extern "C-unwind" fn on_shared_memory() {
    if let Some(next) = NEXT.get().copied().flatten() {
        // SAFETY: as Postgres would have called it.
        unsafe { next() };
    }
    // The working directory of a server is its data directory.
    match twophase::remove_not_older(Path::new(".")) {
        Ok(removed) => {
            for file in removed {
                log!(
                    "removed two-phase state file \"{file}\", which is newer than the checkpoint recovery starts from; the WAL restores it"
                );
            }
        }
        Err(error) => ereport::error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            &error.to_string(),
            "Recovery might lose a prepared transaction. Make sure that pg_wal has the WAL file with the checkpoint that backup_label names, or take a new base backup.",
        ),
    }
}
