//! How much WAL a server keeps for members that are away, by the size of the disk that WAL is on: a
//! member that is lost must not fill it. Who comes back later than that is cloned.

use nix::sys::statvfs::statvfs;
use std::path::Path;

const MB: u64 = 1 << 20;

/// A disk that WAL is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalDisk {
    /// Its size in bytes.
    pub size: u64,
    /// What is free of it, in bytes.
    pub free: u64,
}

impl WalDisk {
    /// The one that holds the WAL of this data directory, or will hold it. None where that can't be
    /// told.
    pub fn of(data: &Path) -> Option<Self> {
        let wal = data.join("pg_wal");
        let there =
            std::iter::once(wal.as_path()).chain(data.ancestors()).find(|path| path.exists())?;
        let seen = statvfs(there).ok()?;
        Some(Self {
            size: seen.blocks() * seen.fragment_size(),
            free: seen.blocks_available() * seen.fragment_size(),
        })
    }

    /// Whether so little is free that WAL is no longer kept for members that are away.
    pub const fn is_short(self) -> bool {
        self.free < self.size / 10
    }
}

/// `max_slot_wal_keep_size`, in megabytes: a quarter of the disk.
pub fn for_slots(size: Option<u64>) -> u64 {
    size.map_or(4096, |size| (size / 4 / MB).max(64))
}

/// `wal_keep_size`, in megabytes: 512, and less on a disk below 8 GiB.
pub fn for_everybody(size: Option<u64>) -> u64 {
    size.map_or(512, |size| (size / 16 / MB).clamp(32, 512))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_fits_the_disk() {
        const GB: u64 = 1 << 30;
        let cases = [
            (None, 4096, 512),
            (Some(128 * MB), 64, 32),
            (Some(GB), 256, 64),
            (Some(8 * GB), 2048, 512),
            (Some(100 * GB), 25_600, 512),
        ];
        for (size, slots, everybody) in cases {
            assert_eq!((for_slots(size), for_everybody(size)), (slots, everybody), "{size:?}");
        }
        assert!(
            WalDisk { size: 100, free: 9 }.is_short()
                && !WalDisk { size: 100, free: 10 }.is_short()
        );
    }

    #[test]
    fn a_disk_is_known_before_there_is_any_wal() {
        let dir = tempfile::tempdir().unwrap();
        let disk = WalDisk::of(&dir.path().join("a/b/pgdata")).unwrap();
        assert!(disk.size > 0 && disk.free <= disk.size);
    }
}
