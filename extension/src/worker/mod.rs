//! The background worker: a process whose main thread calls Postgres and whose other threads are the
//! Raft member.

mod bridge;
mod main_loop;
mod server;

use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_guard;

/// The time between the end of the worker and its restart.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Registers the worker. It starts before recovery, because it votes on standbys and during crash
/// recovery, too.
pub fn register() {
    BackgroundWorkerBuilder::new("pgraft")
        .set_type("pgraft")
        .set_library("pgraft")
        .set_function("pgraft_worker_main")
        .enable_shmem_access(None)
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(RESTART_DELAY))
        .load();
}

/// The worker's entry point.
#[pg_guard]
#[allow(unsafe_code, reason = "the postmaster looks for this symbol by name")]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgraft_worker_main(_argument: pgrx::pg_sys::Datum) {
    main_loop::run();
}
