//! Resolves the directories, and checks before anything is written whether Postgres and a clone can
//! use them.
//!
//! A clone becomes the data directory by a rename, so the data directory must not be a mount point.
//! A symbolic link is followed first: the clone must be on the disk that it points to.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::paths::Paths;
use crate::postgres::wal_space::WalDisk;
use crate::settings::Settings;

/// The maximum length of a Unix socket's path (`sun_path` without the terminating zero).
const MAX_SOCKET_PATH: usize = 107;

/// What is wrong with a directory.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A symbolic link to a missing target.
    #[error("{name}: {} is a symbolic link to {}, which does not exist", path.display(), target.display())]
    Dangling {
        /// The key.
        name: &'static str,
        /// The link.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// Not a directory.
    #[error("{name}: {} is not a directory", path.display())]
    NotDirectory {
        /// The key.
        name: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A rename cannot replace a mount point.
    #[error(
        "{name}: {} is a mount point, which a clone cannot replace; use a directory within it, such as {}",
        path.display(), path.join("pgdata").display()
    )]
    MountPoint {
        /// The key.
        name: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// The directory beside the data directory is a mount point.
    #[error("{} is a mount point, but must be on the file system of the data directory", .0.display())]
    WorkMounted(PathBuf),
    /// One directory is within the other, when links are followed.
    #[error(
        "raftDirectory ({}) and dataDirectory ({}) must not be within each other, because a base backup would copy the node's identity",
        raft.display(), data.display()
    )]
    Nested {
        /// The Raft directory.
        raft: PathBuf,
        /// The data directory.
        data: PathBuf,
    },
    /// No permission.
    #[error("{name}: {} must be writable by the user that pgraft-instance runs as{why}: {errno}", path.display())]
    NotWritable {
        /// The key.
        name: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the permission is needed for.
        why: &'static str,
        /// The error.
        errno: Errno,
    },
    /// pgraft does not create this directory.
    #[error("socketDirectory: {} does not exist", .0.display())]
    NoSocketDirectory(PathBuf),
    /// The path of a socket is too long.
    #[error("{name}: the path of the socket {} has {} bytes, but at most {MAX_SOCKET_PATH} are allowed", path.display(), path.as_os_str().len())]
    SocketPath {
        /// The key.
        name: &'static str,
        /// The socket.
        path: PathBuf,
    },
    /// The system gave no information.
    #[error("{name}: could not stat {}: {source}", path.display())]
    Stat {
        /// The key.
        name: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Checks the directories and returns the settings with symbolic links resolved.
///
/// # Errors
/// The first problem found.
pub fn resolve(settings: Settings) -> Result<Settings, LayoutError> {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let paths = check(&settings.paths, settings.config.postgresql.port, &mount_points(&mounts))?;
    let wal_disk = WalDisk::of(&paths.data).map(|disk| disk.size);
    Ok(Settings { wal_disk, paths, ..settings })
}

fn check(paths: &Paths, port: u16, mounts: &[PathBuf]) -> Result<Paths, LayoutError> {
    let (data, raft) =
        (follow("dataDirectory", &paths.data)?, follow("raftDirectory", &paths.raft)?);
    let paths = Paths { work: Paths::beside(&data), data, raft, ..paths.clone() };
    let (data, raft) = (real(&paths.data), real(&paths.raft));
    if data.starts_with(&raft) || raft.starts_with(&data) {
        return Err(LayoutError::Nested { raft, data });
    }
    // A directory that is already in use is accepted.
    let in_use = paths.data.join("PG_VERSION").exists();
    if in_use && mounts.contains(&data) {
        tracing::warn!(path = %paths.data.display(), "dataDirectory is a mount point, so this server cannot be replaced by a clone");
    } else if mounts.contains(&data) {
        return Err(LayoutError::MountPoint { name: "dataDirectory", path: paths.data });
    }
    if mounts.contains(&real(&paths.work)) {
        return Err(LayoutError::WorkMounted(paths.work));
    }
    let sockets = [
        ("socketDirectory", paths.socket.join(format!(".s.PGSQL.{port}.lock"))),
        ("raftDirectory", paths.control_socket()),
    ];
    if let Some((name, path)) =
        sockets.into_iter().find(|(_, path)| path.as_os_str().len() > MAX_SOCKET_PATH)
    {
        return Err(LayoutError::SocketPath { name, path });
    }
    match fs::metadata(&paths.socket) {
        Ok(meta) if meta.is_dir() => writable("socketDirectory", &paths.socket, "")?,
        Ok(_) => {
            return Err(LayoutError::NotDirectory { name: "socketDirectory", path: paths.socket });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(LayoutError::NoSocketDirectory(paths.socket));
        }
        Err(source) => {
            return Err(LayoutError::Stat { name: "socketDirectory", path: paths.socket, source });
        }
    }
    writable(
        "dataDirectory",
        paths.parent(),
        ", because a clone is created beside the data directory",
    )?;
    if !paths.raft.exists() {
        writable(
            "raftDirectory",
            paths.raft.parent().unwrap_or(&paths.raft),
            ", because the Raft directory is created there",
        )?;
    }
    Ok(paths)
}

/// The target of a symbolic link; the path itself if it is not a link or does not exist.
fn follow(name: &'static str, path: &Path) -> Result<PathBuf, LayoutError> {
    let stat = |source| LayoutError::Stat { name, path: path.to_owned(), source };
    let link = match fs::symlink_metadata(path) {
        Ok(meta) => meta.is_symlink(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(e) => return Err(stat(e)),
    };
    let there = match fs::canonicalize(path) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let target = fs::read_link(path).map_err(stat)?;
            return Err(LayoutError::Dangling { name, path: path.to_owned(), target });
        }
        Err(e) => return Err(stat(e)),
    };
    if !there.is_dir() {
        return Err(LayoutError::NotDirectory { name, path: path.to_owned() });
    }
    Ok(if link { there } else { path.to_owned() })
}

/// The path with the links of its existing part resolved.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|p| Some((p, fs::canonicalize(p).ok()?)));
    there.map_or_else(
        || path.to_owned(),
        |(p, real)| path.strip_prefix(p).map_or_else(|_| real.clone(), |rest| real.join(rest)),
    )
}

/// Checks that files can be created in a directory, or in the nearest existing one above it.
fn writable(name: &'static str, path: &Path, why: &'static str) -> Result<(), LayoutError> {
    let Some(there) = path.ancestors().find(|p| p.exists()) else { return Ok(()) };
    access(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| LayoutError::NotWritable {
        name,
        path: there.to_owned(),
        why,
        errno,
    })
}

/// The fifth field of each line of `mountinfo`, in which special characters are octal.
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    lines
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(unescaped(field)))
        .collect()
}

fn unescaped(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, more @ ..] = rest {
        let octal = (*first == b'\\')
            .then(|| more.get(..3))
            .flatten()
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &more[3..] } else { more };
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct HostFacts {
        dir: tempfile::TempDir,
        mounts: Vec<PathBuf>,
    }

    impl HostFacts {
        fn new() -> Self {
            let dir = tempfile::Builder::new().prefix("p").tempdir().unwrap();
            for name in ["disk/data", "disk2", "base", "socket"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            Self { dir, mounts: vec![] }
        }

        fn at(&self, name: &str) -> PathBuf {
            fs::canonicalize(self.dir.path()).unwrap().join(name)
        }

        fn check(&self, data: &str, raft: &str) -> Result<Paths, String> {
            let base = crate::settings::tests::example().paths;
            let (data, raft, socket) = (self.at(data), self.at(raft), self.at("socket"));
            let paths = Paths { work: Paths::beside(&data), data, raft, socket, ..base };
            let shown = self.at("").display().to_string();
            check(&paths, 5432, &self.mounts).map_err(|e| e.to_string().replace(&shown, "/"))
        }
    }

    #[test]
    fn symbolic_links_are_resolved() {
        let host = HostFacts::new();
        symlink(host.at("disk/data"), host.at("base/pgdata")).unwrap();
        symlink(host.at("disk2"), host.at("base/raft")).unwrap();
        let paths = host.check("base/pgdata", "base/raft").unwrap();
        assert_eq!(
            (paths.data.clone(), paths.raft.clone()),
            (host.at("disk/data"), host.at("disk2"))
        );
        assert_eq!(paths.work, host.at("disk/data.pgraft"), "a clone is made on the same disk");
        // A link further up changes nothing.
        symlink(host.at("disk"), host.at("up")).unwrap();
        assert_eq!(host.check("up/data", "base/r").unwrap().data, host.at("up/data"));
    }

    #[test]
    fn refuses_an_unusable_layout_in_one_sentence() {
        let mut host = HostFacts::new();
        for (link, target) in [
            ("base/nowhere", "gone"),
            ("base/inside", "disk/data/raft"),
            ("base/link", "disk/data"),
        ] {
            symlink(host.at(target), host.at(link)).unwrap();
        }
        fs::write(host.at("base/file"), "").unwrap();
        fs::create_dir(host.at("disk/data/raft")).unwrap();
        fs::create_dir(host.at("disk2/pgdata.pgraft")).unwrap();
        host.mounts = vec![host.at("disk/data"), host.at("disk2/pgdata.pgraft")];
        let long = format!("base/{}", "r".repeat(120));
        let all = [
            host.check("base/nowhere", "base/raft"),
            host.check("base/pgdata", "base/nowhere"),
            host.check("base/file", "base/raft"),
            host.check("base/link", "base/inside"),
            host.check("disk/data", "base/raft"),
            host.check("base/link", "base/raft"),
            host.check("disk2/pgdata", "base/raft"),
            host.check("base/pgdata", "base/pgdata/raft"),
            host.check("base/pgdata", &long)
                .map_err(|e| e.split(" is ").next().unwrap().to_owned()),
        ];
        insta::assert_snapshot!(all.map(|refused| refused.unwrap_err()).join("\n"));
        host.check("base/pgdata", "base/raft").unwrap();
        fs::remove_dir(host.at("socket")).unwrap();
        assert_eq!(
            host.check("base/pgdata", "base/raft").unwrap_err(),
            "socketDirectory: /socket does not exist"
        );
    }

    #[test]
    fn mount_points_are_unescaped() {
        let text = b"36 35 98:0 /mnt1 /mnt/my\\040disk rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:5 / / rw - ext4 /dev/sda rw\n";
        assert_eq!(mount_points(text), [Path::new("/mnt/my disk"), Path::new("/")]);
        assert!(
            mount_points(&fs::read("/proc/self/mountinfo").unwrap())
                .contains(&PathBuf::from("/proc"))
        );
        assert_eq!(unescaped(b"a\\"), OsString::from("a\\"));
    }
}
