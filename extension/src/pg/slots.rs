//! The slots that logical replication waits for (`synchronized_standby_slots`, Postgres 17 and
//! later). A subscriber must not receive WAL that a failover could lose, or it would miss what the
//! next primary writes instead.
//!
//! A failover keeps what any W standbys have, where W is the number that a commit waits for. The
//! setting has no "any", so it names W of them; if one of these disconnects, another replaces it.

use std::ffi::CString;

use pgraft_core::failover::SyncConfig;
use pgraft_core::instance_config::replication_name;
use pgrx::pg_sys;

/// Chooses as many standbys as a commit needs: first those that stream and were named before, then
/// others that stream, then the rest.
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

/// The line of the configuration; empty if Postgres does not have the setting.
pub fn setting(slots: &[String]) -> String {
    if cfg!(any(feature = "pg15", feature = "pg16")) {
        String::new()
    } else {
        format!("synchronized_standby_slots = '{}'\n", slots.join(","))
    }
}

/// Whether a process streams from the slot. On the main thread.
pub fn is_in_use(slot: &str) -> bool {
    let Ok(name) = CString::new(slot) else { return false };
    // SAFETY: on the main thread of a process with shared memory; the name outlives the call.
    let slot = unsafe { pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true) };
    // SAFETY: null, or in shared memory, which is never freed; a word that Postgres writes
    // atomically.
    !slot.is_null() && unsafe { (&raw const (*slot).active_pid).read_volatile() } != 0
}
