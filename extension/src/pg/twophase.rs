//! Before recovery begins: two-phase state files that it must not find are removed
//! (`pgraft_core::twophase` says why).
//!
//! The postmaster makes its shared memory before each recovery, at its start and after a crash of
//! one of its processes; no instance manager sees the latter.

use std::path::Path;
use std::sync::OnceLock;

use pgraft_raft::twophase;
use pgrx::prelude::*;

use super::ereport;

static NEXT: OnceLock<pg_sys::shmem_startup_hook_type> = OnceLock::new();

/// Sets the hook; in the postmaster.
pub fn install() {
    // SAFETY: on the postmaster's only thread.
    unsafe {
        NEXT.get_or_init(|| pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(shared_memory_is_made);
    }
}

#[pg_guard]
extern "C-unwind" fn shared_memory_is_made() {
    if let Some(next) = NEXT.get().copied().flatten() {
        // SAFETY: as Postgres would have called it.
        unsafe { next() };
    }
    // A server works in its data directory.
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
