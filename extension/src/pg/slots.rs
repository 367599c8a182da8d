//! Whose slots logical replication waits for (`synchronized_standby_slots`, Postgres 17 and later):
//! a subscriber must get nothing that a failover could take back, or it would never get what the
//! next primary writes in its place.
//!
//! A failover keeps what any W standbys have, W being how many a commit waits for. Postgres knows
//! no "any" here, so W of them are named; when one of these is gone another one takes its place.

use std::ffi::CString;

use pgraft_core::failover::SyncConfig;
use pgraft_core::instance_config::replication_name;
use pgrx::pg_sys;

/// Of the standbys that commits wait for as many as a commit needs: those that were named before
/// and stream, then others that do, then the rest.
pub fn to_wait_for(
    config: &SyncConfig,
    before: &[String],
    is_in_use: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut slots: Vec<String> = config.standbys.iter().map(|id| replication_name(*id)).collect();
    slots.sort_by_cached_key(|slot| (!is_in_use(slot), !before.contains(slot)));
    slots.truncate(config.required);
    slots.sort();
    slots
}

/// The line of the configuration; nothing where Postgres knows no such setting.
pub fn setting(slots: &[String]) -> String {
    if cfg!(any(feature = "pg15", feature = "pg16")) {
        String::new()
    } else {
        format!("synchronized_standby_slots = '{}'\n", slots.join(","))
    }
}

/// Whether somebody streams by the slot of that name. On the main thread.
pub fn is_in_use(slot: &str) -> bool {
    let Ok(name) = CString::new(slot) else { return false };
    // SAFETY: on the main thread of a process with shared-memory access; a name that outlives the
    // call.
    let slot = unsafe { pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true) };
    // SAFETY: null, or a place in shared memory, which is never freed; a word that Postgres writes
    // as one.
    !slot.is_null() && unsafe { (&raw const (*slot).active_pid).read_volatile() } != 0
}
