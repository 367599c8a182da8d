//! Where this server's WAL ends, from Postgres' shared memory: no SQL, so that it works before and
//! during recovery.

use std::path::Path;

use pgraft_core::status::{WalPosition, WalProgress};
use pgrx::pg_sys;

use super::server;

/// The end of the WAL that this server has on disk: written as a primary, received or replayed as a
/// standby. None before there is any.
pub fn position() -> Option<WalPosition> {
    let mut timeline = 0;
    // SAFETY: reads shared memory that every process with shared-memory access may read.
    if unsafe { pg_sys::RecoveryInProgress() } {
        // SAFETY: as above; writes the timeline to a variable that outlives the call. A null
        // pointer means "not wanted".
        let lsn = unsafe { pg_sys::GetWalRcvFlushRecPtr(std::ptr::null_mut(), &raw mut timeline) };
        // SAFETY: as above; one word, which Postgres writes as one.
        let start = unsafe { (&raw const (*pg_sys::WalRcv).receiveStart).read_volatile() };
        return Some(end_of(WalPosition { timeline, lsn }, start, replayed()))
            .filter(|p| p.lsn != 0);
    }
    // SAFETY: as above; not in recovery, which this function demands, and a server never goes back
    // into it.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&raw mut timeline) };
    Some(WalPosition { timeline, lsn }).filter(|p| p.lsn != 0)
}

/// The same, and how much of it a standby has replayed.
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

/// What was received counts where it continues what was replayed: a receiver's timeline and
/// position are those that were asked for, whether or not anything came. Who asks for another
/// timeline from behind what was replayed has the beginning of a record there, on the timeline
/// before.
fn end_of(received: WalPosition, start: u64, replayed: WalPosition) -> WalPosition {
    if received.timeline == replayed.timeline || can_take(received.timeline, start, replayed) {
        return WalPosition { lsn: received.lsn.max(replayed.lsn), ..received };
    }
    let asked = if received.timeline > replayed.timeline { start } else { 0 };
    WalPosition { lsn: asked.max(replayed.lsn), ..replayed }
}

/// Whether WAL of that timeline from there on leaves no gap behind what was replayed, and is of the
/// same history.
pub fn can_take(timeline: u32, start: u64, replayed: WalPosition) -> bool {
    timeline == replayed.timeline
        || (timeline > replayed.timeline && start <= replayed.lsn && continues(timeline, replayed))
}

/// Whether WAL that ends there is the beginning of that timeline, by the history file that is here.
/// Postgres' processes live in PGDATA.
fn continues(timeline: u32, end: WalPosition) -> bool {
    server::history(Path::new(""), timeline).continues(end)
}
