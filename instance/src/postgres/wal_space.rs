//! How much WAL a server keeps for absent members, by the size of the WAL's disk, so that a lost
//! member does not fill it. A member that returns later is cloned.

use nix::sys::statvfs::statvfs;
use std::path::Path;

const MB: u64 = 1 << 20;

/// The disk with the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalDisk {
    /// Its size in bytes.
    pub size: u64,
    /// The free space in bytes.
    pub free: u64,
}

impl WalDisk {
    /// The disk for the WAL of a data directory that may not exist yet. None if it is unknown.
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

    /// Whether less than a tenth is free: slots of absent members may be dropped.
    pub const fn is_short(self) -> bool {
        self.free < self.size / 10
    }
}

/// `max_slot_wal_keep_size`, in megabytes: a quarter of the disk.
pub fn for_slots(size: Option<u64>) -> u64 {
    size.map_or(4096, |size| (size / 4 / MB).max(64))
}

/// `wal_keep_size`, in megabytes: 512, and less on a disk below 8 GiB.
pub fn for_all(size: Option<u64>) -> u64 {
    size.map_or(512, |size| (size / 16 / MB).clamp(32, 512))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_wal_fits_the_disk() {
        const GB: u64 = 1 << 30;
        let cases = [
            (None, 4096, 512),
            (Some(128 * MB), 64, 32),
            (Some(GB), 256, 64),
            (Some(8 * GB), 2048, 512),
            (Some(100 * GB), 25_600, 512),
        ];
        for (size, slots, everybody) in cases {
            assert_eq!((for_slots(size), for_all(size)), (slots, everybody), "{size:?}");
        }
        assert!(
            WalDisk { size: 100, free: 9 }.is_short()
                && !WalDisk { size: 100, free: 10 }.is_short()
        );
    }

    #[test]
    fn the_disk_is_found_before_the_data_directory_exists() {
        let dir = tempfile::tempdir().unwrap();
        let disk = WalDisk::of(&dir.path().join("a/b/pgdata")).unwrap();
        assert!(disk.size > 0 && disk.free <= disk.size);
    }
}
