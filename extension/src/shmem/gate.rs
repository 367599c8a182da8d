//! The gate: open until the lease of this primary ends. Every backend compares the deadline with
//! the clock itself, so a stopped worker cannot leave it open. It is closed at first, and after
//! Postgres has restarted its processes.
//!
//! Written by any thread of the worker; read before every statement.

use std::sync::atomic::{AtomicU64, Ordering};

use pgraft_raft::boot_time;

use super::words::GATE;
use crate::gucs;

/// The deadline as boot time in milliseconds; 0 means closed.
fn page() -> &'static AtomicU64 {
    &GATE.get()[0]
}

/// Opens the gate until that boot time.
pub fn open_until(deadline_boot_ms: u64) {
    page().store(deadline_boot_ms, Ordering::SeqCst);
}

/// Closes the gate. New statements are refused, and so are commits that have not been checked yet.
pub fn close() {
    page().store(0, Ordering::SeqCst);
}

/// Whether the gate is open. Without `pgraft.failover` it always is.
pub fn is_open() -> bool {
    !gucs::failover() || page().load(Ordering::SeqCst) > boot_time().0
}

/// For how many milliseconds the gate stays open; None if it is closed.
pub fn remaining() -> Option<u64> {
    page().load(Ordering::SeqCst).checked_sub(boot_time().0).filter(|left| *left > 0)
}
