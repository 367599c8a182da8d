//! The end of this server's WAL, from Postgres' shared memory. Works without SQL, before and during
//! recovery.

use std::path::Path;

use pgraft_core::wal::{WalPosition, WalProgress};
use pgrx::pg_sys;

use super::server;

/// The end of the WAL that this server has on disk: flushed by a primary, received or replayed by a
/// standby. None if there is no WAL yet.
pub fn position() -> Option<WalPosition> {
    let mut timeline = 0;
    // SAFETY: reads shared memory that every process with shared-memory access may read.
    if unsafe { pg_sys::RecoveryInProgress() } {
        // SAFETY: as above; writes the timeline to a variable that outlives the call. A null
        // pointer skips the result.
        let lsn = unsafe { pg_sys::GetWalRcvFlushRecPtr(std::ptr::null_mut(), &raw mut timeline) };
        // SAFETY: as above; one word, which Postgres writes atomically.
        let start = unsafe { (&raw const (*pg_sys::WalRcv).receiveStart).read_volatile() };
        return Some(end_of(WalPosition { timeline, lsn }, start, replayed()))
            .filter(|p| p.lsn != 0);
    }
    // SAFETY: as above; the server is not in recovery, as this function requires, and never returns
    // to it.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&raw mut timeline) };
    Some(WalPosition { timeline, lsn }).filter(|p| p.lsn != 0)
}

/// The end of the WAL, and how much of it a standby has replayed.
pub fn progress() -> Option<WalProgress> {
    // SAFETY: reads shared memory that every process with shared-memory access may read.
    let standby = unsafe { pg_sys::RecoveryInProgress() };
    Some(WalProgress {
        end: position()?,
        replayed: standby.then(|| replayed().lsn).filter(|lsn| *lsn != 0),
    })
}

/// The end of the last record that was replayed, and that record's timeline.
pub fn replayed() -> WalPosition {
    let mut timeline = 0;
    // SAFETY: reads shared memory that every process with shared-memory access may read; writes to
    // a variable that outlives the call.
    let lsn = unsafe { pg_sys::GetXLogReplayRecPtr(&raw mut timeline) };
    WalPosition { timeline, lsn }
}

/// Received WAL counts if it continues what was replayed. A receiver's timeline and position are
/// those that it requested, even if it has received nothing. A server that requests another
/// timeline from beyond what it has replayed has the beginning of a record there, on the previous
/// timeline.
fn end_of(received: WalPosition, start: u64, replayed: WalPosition) -> WalPosition {
    if received.timeline == replayed.timeline || can_take(received.timeline, start, replayed) {
        return WalPosition { lsn: received.lsn.max(replayed.lsn), ..received };
    }
    let asked = if received.timeline > replayed.timeline { start } else { 0 };
    WalPosition { lsn: asked.max(replayed.lsn), ..replayed }
}

/// Whether WAL of that timeline, from `start` on, continues what was replayed without a gap and
/// belongs to the same history.
pub fn can_take(timeline: u32, start: u64, replayed: WalPosition) -> bool {
    timeline == replayed.timeline
        || (timeline > replayed.timeline && start <= replayed.lsn && continues(timeline, replayed))
}

/// Whether that timeline continues WAL that ends at `end`, by the local history file. The working
/// directory of Postgres' processes is PGDATA.
fn continues(timeline: u32, end: WalPosition) -> bool {
    server::history(Path::new(""), timeline).continues(end)
}
