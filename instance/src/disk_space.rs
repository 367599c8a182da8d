//! Has a primary whose disk is full give its place to a standby. Postgres goes on without room for
//! a new WAL segment, or comes back after its PANIC, and holds its lease: nobody can write there,
//! or so much as connect ("could not write init file"), and nobody else takes over. The decision is
//! pure.

use nix::sys::statvfs::statvfs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::control;
use crate::paths;
use crate::view::MemberView;

/// Less than a WAL segment is no room.
const ENOUGH: u64 = 16 << 20;

/// Looks in a row that must agree, and the time between two: a checkpoint may make room.
const MAX_CHECKS: u32 = 3;
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// For how long a server must have run, and the time between two tries: where all disks are full
/// they take turns, slowly.
const SETTLED: Duration = Duration::from_secs(30);

/// What was seen of a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DiskSpaceFacts {
    /// The server is no standby.
    primary: bool,
    /// Looks in a row that found no room.
    full: u32,
    /// Since the server's start, or the last try.
    since: Duration,
}

const fn gives_up(facts: DiskSpaceFacts) -> bool {
    let DiskSpaceFacts { primary, full, since } = facts;
    primary && full >= MAX_CHECKS && since.as_secs() >= SETTLED.as_secs()
}

/// Looks until it is aborted, which is when the server is gone.
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
        if gives_up(DiskSpaceFacts { primary, full, since: since.elapsed() }) {
            since = Instant::now();
            tracing::error!("the disk of this primary is full: it gives its place to a standby");
            match control::hand_over(&settings).await {
                Ok(None) => tracing::info!("a standby has taken over from this primary"),
                Ok(Some(why)) => tracing::warn!(why, "nobody takes over from this primary"),
                Err(error) => tracing::warn!(%error, "nobody takes over from this primary"),
            }
        }
    }
}

/// Where it can't be told there is.
fn has_space(data: &Path) -> bool {
    // WAL may be on a disk of its own.
    ["", "pg_wal"].iter().all(|part| {
        statvfs(&data.join(part))
            .map_or(true, |disk| disk.blocks_available() * disk.fragment_size() >= ENOUGH)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_settled_primary_without_disk_space_gives_up() {
        let full = DiskSpaceFacts { primary: true, full: MAX_CHECKS, since: SETTLED };
        assert!(gives_up(full));
        assert!(!gives_up(DiskSpaceFacts { primary: false, ..full }));
        assert!(!gives_up(DiskSpaceFacts { full: MAX_CHECKS - 1, ..full }));
        assert!(!gives_up(DiskSpaceFacts { since: SETTLED / 2, ..full }));
        assert!(has_space(Path::new("/nowhere")));
    }
}
