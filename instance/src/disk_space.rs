//! Hands over from a primary whose disk is full. Postgres keeps running without space for a new WAL
//! segment, or restarts after its PANIC, and keeps its lease. Clients can neither write nor connect
//! ("could not write init file"), and no standby would take over. The decision is pure.

use nix::sys::statvfs::statvfs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::control;
use crate::paths;
use crate::view::MemberView;

/// The size of a WAL segment.
const MIN_FREE: u64 = 16 << 20;

/// How many consecutive checks must find a full disk, and how often they run. A checkpoint may free
/// space in between.
const MAX_CHECKS: u32 = 3;
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How long a server must have run, and the time between two attempts. If all disks are full the
/// members take turns slowly.
const SETTLED: Duration = Duration::from_secs(30);

/// Observations of a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DiskSpaceFacts {
    /// The server is not a standby.
    primary: bool,
    /// Consecutive checks that found a full disk.
    full: u32,
    /// The time since the server's start or the last attempt.
    since: Duration,
}

const fn must_hand_over(facts: DiskSpaceFacts) -> bool {
    let DiskSpaceFacts { primary, full, since } = facts;
    primary && full >= MAX_CHECKS && since.as_secs() >= SETTLED.as_secs()
}

/// Checks until it is aborted when the server has ended.
pub async fn run(view: watch::Receiver<MemberView>) {
    let settings = Arc::clone(&view.borrow().settings);
    if !settings.failover {
        return;
    }
    let (mut full, mut since) = (0, Instant::now());
    loop {
        sleep(POLL_INTERVAL).await;
        let data = &settings.paths.data;
        full = if has_space(data) { 0 } else { full + 1 };
        // Postgres removes the file when a promotion is complete.
        let primary = !paths::standby_signal(data).exists();
        if must_hand_over(DiskSpaceFacts { primary, full, since: since.elapsed() }) {
            since = Instant::now();
            tracing::error!("the disk of this primary is full; handing over to a standby");
            match control::hand_over(&settings).await {
                Ok(None) => tracing::info!("a standby has taken over from this primary"),
                Ok(Some(why)) => tracing::warn!(why, "no standby takes over from this primary"),
                Err(error) => tracing::warn!(%error, "could not hand over to a standby"),
            }
        }
    }
}

/// True if the free space is unknown.
fn has_space(data: &Path) -> bool {
    // WAL may be on a disk of its own.
    ["", "pg_wal"].iter().all(|part| {
        statvfs(&data.join(part))
            .map_or(true, |disk| disk.blocks_available() * disk.fragment_size() >= MIN_FREE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_settled_primary_without_disk_space_must_hand_over() {
        let full = DiskSpaceFacts { primary: true, full: MAX_CHECKS, since: SETTLED };
        assert!(must_hand_over(full));
        assert!(!must_hand_over(DiskSpaceFacts { primary: false, ..full }));
        assert!(!must_hand_over(DiskSpaceFacts { full: MAX_CHECKS - 1, ..full }));
        assert!(!must_hand_over(DiskSpaceFacts { since: SETTLED / 2, ..full }));
        assert!(has_space(Path::new("/nowhere")));
    }
}
