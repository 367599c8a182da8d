//! The extension: settings, SQL functions, and a background worker that is a member of the
//! cluster's Raft group.
//!
//! ```text
//!  backend ── sql ──▶ shmem  (reads: no round trip)             ┌─ worker ──────────────────────────────────────────┐
//!          └─ pg::command ──▶ control socket (changes) ────────▶│ tokio threads: pgraft_raft::Node                   │
//!                                 shmem ◀── publish ────────────│ main thread:   Postgres calls only (worker::main_loop) │
//!                                                               └────────────────────────────────────────────────────┘
//! ```
//!
//! `unsafe` stands in `shmem.rs`, `shmem/` and `pg/` alone, and where pgrx's macros put it.

mod fence;
mod gucs;
mod pg;
mod shmem;
mod sql;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

/// Called by Postgres when it loads the library.
#[pg_guard]
#[allow(unsafe_code, non_snake_case, reason = "Postgres looks for this symbol by name")]
pub extern "C-unwind" fn _PG_init() {
    if !pg::is_preloading() {
        pg::ereport::error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pgraft must be loaded when the server starts",
            "Add pgraft to shared_preload_libraries and restart the server.",
        );
    }
    gucs::define();
    pg::names::define();
    if pg::is_postmaster() && gucs::failover_was_left() {
        pg::ereport::error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pgraft.failover is off, and the cluster of this node chooses its primary itself",
            "Set pgraft.failover = on (pgraft-instance: failover: true). Without it this server would take writes that the others don't know of.",
        );
    }
    shmem::request();
    pg::twophase::install();
    if gucs::failover() {
        pg::intake::install();
        pg::hooks::install();
    }
    worker::register();
}
