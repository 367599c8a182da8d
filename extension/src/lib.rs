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
//! `unsafe` is confined to `hooks/`, `shmem.rs`, `shmem/` and `pg/`, and to what pgrx's macros expand to.

mod fence;
mod gucs;
mod hooks;
mod pg;
mod shmem;
mod sql;
mod worker;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

/// The library's entry point.
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
    if pg::is_postmaster() && gucs::failover_was_switched_off() {
        pg::ereport::error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pgraft.failover cannot be switched off on a member of a cluster with failover",
            "Set pgraft.failover = on (pgraft-instance: failover: true). Without it this server could accept writes that the other members do not know.",
        );
    }
    shmem::request();
    pg::server::request();
    pg::names::request();
    pg::twophase::install();
    if gucs::failover() {
        pg::intake::install();
        hooks::install();
    }
    worker::register();
}
