//! A node on a disk of its own, which has an end: a tmpfs of some size in place of its directory.
//! Its log stays outside.

use crate::{TestNode, give};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The disk; gone with this.
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Before the node is started. None, with a word why, where nothing can be mounted: that needs
    /// root, and `CAP_SYS_ADMIN` in a container.
    pub fn under(node: &TestNode, megabytes: u32) -> Option<Self> {
        let directory = node.directory.clone();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "pgraft-test"])
            .arg(&directory)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no disk can be mounted here");
            return None;
        }
        give(&directory);
        node.furnish();
        symlink(directory.with_extension("log"), directory.join("log")).unwrap();
        Some(Self { directory })
    }

    /// Leaves no room.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let block = vec![0; 64 * 1024];
        while ballast.write_all(&block).is_ok() {}
    }

    /// Gives the room back.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that ends may have files open still.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).status();
        // The nodes' directory could not go before.
        if let Some(all) = self.directory.parent().filter(|_| !std::thread::panicking()) {
            let _ = fs::remove_dir_all(all);
        }
    }
}
