//! The clock of leases, as the implementations of [`PostgresControl`](crate::PostgresControl) read
//! it.

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use pgraft_core::failover::lease::BootTime;

/// The time since the host booted, including the time that it was suspended. It never goes back and
/// is the same for all processes of the host.
pub fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.num_milliseconds());
    BootTime(now.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let before = boot_time();
        assert!(before.0 > 0 && boot_time() >= before);
    }
}
