//! Where this server's WAL ends, from Postgres' shared memory: no SQL, so that it works before and during recovery.

use pgraft_core::status::WalPosition;
use pgrx::pg_sys;

/// The end of the WAL that this server has on disk: written as a primary, received or replayed as a standby. None before there is any.
pub fn position() -> Option<WalPosition> {
    let mut timeline = 0;
    // SAFETY: reads shared memory that every process with shared-memory access may read.
    if unsafe { pg_sys::RecoveryInProgress() } {
        let mut replayed_on = 0;
        // SAFETY: as above; writes the timeline to a variable that outlives the call. A null pointer means "not wanted".
        let received = unsafe { pg_sys::GetWalRcvFlushRecPtr(std::ptr::null_mut(), &raw mut timeline) };
        // SAFETY: as above.
        let replayed = unsafe { pg_sys::GetXLogReplayRecPtr(&raw mut replayed_on) };
        // The receiver's timeline may be ahead of the last record's, and then its position begins at a segment's start.
        let lsn = if timeline >= replayed_on { received.max(replayed) } else { replayed };
        return Some(WalPosition { timeline: timeline.max(replayed_on), lsn }).filter(|p| p.lsn != 0);
    }
    // SAFETY: as above; not in recovery, which this function demands, and a server never goes back into it.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&raw mut timeline) };
    Some(WalPosition { timeline, lsn }).filter(|p| p.lsn != 0)
}
