//! A node on a small disk: a tmpfs mounted over its directory. Its log is outside of it.

use crate::postgres::give;
use crate::{TestNode, unprivileged};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The disk. It is unmounted when this goes out of scope.
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Mounts a tmpfs over the directory of a node that has not been started. Returns `None` if the
    /// process may not mount: that needs root, and `CAP_SYS_ADMIN` in a container.
    pub fn under(node: &TestNode, megabytes: u32) -> Option<Self> {
        let directory = node.directory.clone();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "pgraft-test"])
            .arg(&directory)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return unprivileged("a tmpfs cannot be mounted");
        }
        give(&directory);
        node.make_directories();
        symlink(directory.with_extension("log"), directory.join("log")).unwrap();
        Some(Self { directory })
    }

    /// Fills the disk.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let block = vec![0; 64 * 1024];
        while ballast.write_all(&block).is_ok() {}
    }

    /// Frees the space again.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is ending may still have files open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).status();
        // The directory of the nodes could not be removed while this was mounted.
        if let Some(all) = self.directory.parent().filter(|_| !std::thread::panicking()) {
            let _ = fs::remove_dir_all(all);
        }
    }
}
