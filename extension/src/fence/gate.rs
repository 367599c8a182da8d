//! The gate: open until the lease of this primary ends. Every backend compares the deadline with
//! the clock itself, so that a worker that was stopped can't leave it open. Closed at first, and
//! after Postgres has restarted its processes.
//!
//! Written by the worker, from any of its threads; read before every statement.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::gucs;
use crate::pg::boot_ms;
use crate::shmem::words::GATE;

/// The deadline in milliseconds of the boot-time clock (`pg::boot_ms`); 0 is closed.
fn page() -> &'static AtomicU64 {
    &GATE.get()[0]
}

/// Opens it until then.
pub fn open_until(deadline_boot_ms: u64) {
    page().store(deadline_boot_ms, Ordering::SeqCst);
}

/// Closes it: statements that begin from now on are refused, and commits that have not passed it
/// yet.
pub fn close() {
    page().store(0, Ordering::SeqCst);
}

/// Whether it is open now. Where pgraft decides nothing it always is.
pub fn is_open() -> bool {
    !gucs::failover() || page().load(Ordering::SeqCst) > boot_ms()
}

/// For how many milliseconds it stays open, unless it is opened for longer.
pub fn remaining() -> Option<u64> {
    page().load(Ordering::SeqCst).checked_sub(boot_ms()).filter(|left| *left > 0)
}
