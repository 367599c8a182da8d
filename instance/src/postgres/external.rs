//! The parts of a data directory that are outside of it: tablespaces, and `pg_wal` behind a symbolic
//! link. A clone copies them to the same places.
//!
//! ```text
//!  plan (queries the primary, reads the disk) ▸ pg_basebackup into staging directories on the same disks ▸ swap ▸ the new PGDATA
//! ```
//!
//! The content of a tablespace's directory is replaced only if it belongs to the PGDATA that is
//! replaced. On a host with several servers it may belong to another one.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pgraft_core::NodeId;

use crate::files::{self, FileError};
use crate::paths::Paths;
use crate::postgres::source::{self, SourceError};
use crate::secrets::Secrets;
use crate::settings::Settings;
use crate::status::Upstream;

/// The name of the directory, within that of a tablespace or of the WAL, that holds a copy until it
/// is complete. Several nodes of one host may copy at once.
fn staging(node: NodeId) -> String {
    format!("pgraft-clone-{node}")
}

/// The primary's tablespaces. Those within PGDATA have a relative path or none.
const TABLESPACES: &str = "SELECT oid::text, spcname::text, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace ORDER BY oid";

/// Why the primary cannot be copied to this host.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The directory contains another server's files.
    #[error(
        "the directory {} of tablespace \"{name}\" contains files of another server; move them, or drop the tablespace on the primary",
        at.display()
    )]
    Taken {
        /// The tablespace.
        name: String,
        /// Its directory.
        at: PathBuf,
    },
    /// The directory cannot be created or read.
    #[error(
        "could not use the directory {} of tablespace \"{name}\": {source}; create it, owned by the user that runs Postgres",
        at.display()
    )]
    Unusable {
        /// The tablespace.
        name: String,
        /// Its directory.
        at: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The primary.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A tablespace of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tablespace {
    oid: String,
    name: String,
    at: PathBuf,
}

/// A tablespace and its staging directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ExternalLocation {
    tablespace: Tablespace,
    staging: PathBuf,
    /// Its path within PGDATA, if its directory is in there.
    within: Option<PathBuf>,
    /// The directory belongs to the PGDATA that is replaced.
    own: bool,
}

/// Everything outside the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    tablespaces: Vec<ExternalLocation>,
    /// Where `pg_wal` leads, and the staging directory in there.
    wal: Option<(PathBuf, PathBuf)>,
}

impl External {
    /// Queries the primary and creates the staging directories.
    ///
    /// # Errors
    /// [`ExternalError`]. Nothing has been changed then.
    pub async fn plan(
        settings: &Settings,
        secrets: &Secrets,
        primary: &Upstream,
    ) -> Result<Self, ExternalError> {
        let all = source::ask(settings, secrets, primary, async |client| {
            let mut all = vec![];
            for row in client.query(TABLESPACES, &[]).await? {
                let at = PathBuf::from(row.try_get::<_, String>(2)?);
                all.push(Tablespace { oid: row.try_get(0)?, name: row.try_get(1)?, at });
            }
            Ok(all)
        })
        .await?;
        Self::of(&settings.paths, settings.node, all)
    }

    fn of(paths: &Paths, node: NodeId, all: Vec<Tablespace>) -> Result<Self, ExternalError> {
        let own: BTreeSet<PathBuf> = [&paths.data, &paths.old()]
            .into_iter()
            .flat_map(|data| links(&data.join("pg_tblspc")))
            .collect();
        let mut tablespaces = vec![];
        for tablespace in all.into_iter().filter(|t| t.at.is_absolute()) {
            let within = tablespace.at.strip_prefix(&paths.data).ok().map(Path::to_owned);
            let staging = match &within {
                Some(_) => paths.work.join("tablespaces").join(&tablespace.oid),
                None => tablespace.at.join(staging(node)),
            };
            let mut place = ExternalLocation { tablespace, staging, within, own: false };
            place.prepare(&own)?;
            tablespaces.push(place);
        }
        let link = paths.data.join("pg_wal");
        let wal =
            fs::read_link(&link).is_ok().then(|| fs::canonicalize(&link)).and_then(Result::ok);
        let wal = wal.map(|wal| (wal.clone(), wal.join(staging(node))));
        if let Some((_, staging)) = &wal {
            files::remove_directory(staging)?;
        }
        Ok(Self { tablespaces, wal })
    }

    /// The options for `pg_basebackup`.
    pub fn arguments(&self) -> Vec<String> {
        let escaped = |path: &Path| path.display().to_string().replace('=', "\\=");
        let mapped = self.tablespaces.iter().map(|place| {
            format!(
                "--tablespace-mapping={}={}",
                escaped(&place.tablespace.at),
                escaped(&place.staging)
            )
        });
        mapped
            .chain(self.wal.iter().map(|(_, staging)| format!("--waldir={}", staging.display())))
            .collect()
    }

    /// Moves everything to its place, and makes the new PGDATA point there. The previous content is
    /// lost, so `rewind_in_progress` marks the present PGDATA as unusable. The caller removes the mark
    /// when the new PGDATA is in place.
    ///
    /// # Errors
    /// IO errors, and [`ExternalError::Taken`]. The next clone starts again.
    pub fn swap(&self, paths: &Paths) -> Result<(), ExternalError> {
        let fresh = paths.fresh();
        for place in &self.tablespaces {
            place.check_owner()?;
        }
        if !(self.tablespaces.is_empty() && self.wal.is_none())
            && paths.data.exists()
            && !paths.rewind_in_progress().exists()
        {
            files::write_atomically(&paths.rewind_in_progress(), b"")?;
        }
        for ExternalLocation { tablespace, staging, within, own: _ } in &self.tablespaces {
            let home =
                within.as_ref().map_or_else(|| tablespace.at.clone(), |within| fresh.join(within));
            move_content(staging, &home)?;
            point(&fresh.join("pg_tblspc").join(&tablespace.oid), &tablespace.at)?;
        }
        if let Some((wal, staging)) = &self.wal {
            for entry in entries(wal)?.into_iter().filter(|path| is_wal(path)) {
                remove(&entry)?;
            }
            move_content(staging, wal)?;
            point(&fresh.join("pg_wal"), wal)?;
        }
        Ok(())
    }
}

impl ExternalLocation {
    /// Creates the directories. `own` are those of the PGDATA that is replaced.
    fn prepare(&mut self, own: &BTreeSet<PathBuf>) -> Result<(), ExternalError> {
        if self.within.is_none() {
            let at = &self.tablespace.at;
            fs::create_dir_all(at).map_err(|e| self.unusable(e))?;
            self.own = own.contains(&fs::canonicalize(at).map_err(|e| self.unusable(e))?);
            self.check_owner()?;
        }
        files::remove_directory(&self.staging)?;
        fs::create_dir_all(&self.staging).map_err(|e| self.unusable(e))
    }

    /// Refuses a directory with another server's files. Checked again before the swap: another node
    /// of this host may have finished its clone in the meantime.
    fn check_owner(&self) -> Result<(), ExternalError> {
        if self.within.is_some() || self.own {
            return Ok(());
        }
        let Tablespace { name, at, .. } = &self.tablespace;
        let taken = fs::read_dir(at)
            .map_err(|e| self.unusable(e))?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().starts_with("PG_"));
        if taken {
            return Err(ExternalError::Taken { name: name.clone(), at: at.clone() });
        }
        Ok(())
    }

    fn unusable(&self, source: io::Error) -> ExternalError {
        let Tablespace { name, at, .. } = &self.tablespace;
        ExternalError::Unusable { name: name.clone(), at: at.clone(), source }
    }
}

/// The targets of the symbolic links in a directory.
fn links(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return vec![] };
    entries
        .filter_map(|entry| fs::canonicalize(fs::read_link(entry.ok()?.path()).ok()?).ok())
        .collect()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(directory).map_err(FileError::at("read", directory))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

/// Moves the content of a directory to another one on the same file system, replacing entries of the
/// same name. Removes the first directory.
fn move_content(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::create_dir_all(to).map_err(FileError::at("create", to))?;
    for entry in entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        remove(&target)?;
        fs::rename(&entry, &target).map_err(FileError::at("rename", &entry))?;
    }
    fs::remove_dir(from).map_err(FileError::at("remove", from))?;
    files::sync_directory(to)
}

/// Removes a file or a directory, if it exists.
fn remove(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => files::remove_directory(path),
        Ok(_) => fs::remove_file(path).map_err(FileError::at("remove", path)),
        Err(_) => Ok(()),
    }
}

/// Replaces a symbolic link.
fn point(link: &Path, to: &Path) -> Result<(), FileError> {
    remove(link)?;
    symlink(to, link).map_err(FileError::at("create", link))?;
    files::sync_directory(link.parent().unwrap_or(link))
}

/// Whether this is a file of Postgres in `pg_wal`. A separate disk may contain others.
fn is_wal(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return false };
    let hex = |length: usize| {
        name.get(..length).is_some_and(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    matches!(name, "archive_status" | "summaries")
        || name.starts_with("xlogtemp.")
        || hex(24)
        || (hex(8) && name.ends_with(".history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestDisk(tempfile::TempDir, Paths);

    impl TestDisk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| fs::canonicalize(dir.path()).unwrap().join(name);
            let paths = Paths {
                data: at("d"),
                work: at("d.pgraft"),
                ..crate::settings::tests::example().paths
            };
            for directory in ["d/pg_tblspc", "d.pgraft", "ts", "wal"] {
                fs::create_dir_all(at(directory)).unwrap();
            }
            Self(dir, paths)
        }

        fn at(&self, name: &str) -> PathBuf {
            fs::canonicalize(self.0.path()).unwrap().join(name)
        }

        fn plan(&self, at: &str) -> Result<External, String> {
            let all = vec![
                Tablespace { oid: "1663".into(), name: "pg_default".into(), at: PathBuf::new() },
                Tablespace { oid: "9".into(), name: "in_place".into(), at: "pg_tblspc/9".into() },
                Tablespace { oid: "7".into(), name: "fast".into(), at: self.at(at) },
            ];
            External::of(&self.1, NodeId::new(2).unwrap(), all)
                .map_err(|e| e.to_string().replace(&self.at("").display().to_string(), "/"))
        }

        fn write(&self, name: &str, text: &str) {
            fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
            fs::write(self.at(name), text).unwrap();
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.at(name)).unwrap()
        }

        /// The result of `pg_basebackup`.
        fn copy(&self, plan: &External) {
            fs::create_dir_all(self.at("d.pgraft/new/pg_tblspc")).unwrap();
            let staging = &plan.tablespaces[0].staging;
            fs::create_dir(staging.join("PG_17_1")).unwrap();
            fs::write(staging.join("PG_17_1/f"), "new").unwrap();
            symlink(staging, self.at("d.pgraft/new/pg_tblspc/7")).unwrap();
            if plan.wal.is_some() {
                self.write("wal/pgraft-clone-2/000000010000000000000002", "new");
                fs::create_dir(self.at("wal/pgraft-clone-2/archive_status")).unwrap();
                symlink(self.at("wal/pgraft-clone-2"), self.at("d.pgraft/new/pg_wal")).unwrap();
            }
        }
    }

    #[test]
    fn a_tablespace_and_the_wal_stay_where_they_were() {
        let disk = TestDisk::new();
        symlink(disk.at("ts"), disk.at("d/pg_tblspc/7")).unwrap();
        symlink(disk.at("wal"), disk.at("d/pg_wal")).unwrap();
        for (file, text) in [
            ("ts/PG_17_1/f", "old"),
            ("ts/PG_17_1/gone", "old"),
            ("wal/000000010000000000000001", "old"),
            ("wal/archive_status/x", "old"),
            ("wal/lost+found/x", "kept"),
            ("ts/pgraft-clone-2/left", "from an interrupted attempt"),
        ] {
            disk.write(file, text);
        }
        let plan = disk.plan("ts").unwrap();
        let shown = plan.arguments().join("\n").replace(&disk.at("").display().to_string(), "/");
        assert_eq!(
            shown,
            "--tablespace-mapping=/ts=/ts/pgraft-clone-2\n--waldir=/wal/pgraft-clone-2"
        );
        assert_eq!(disk.read("ts/PG_17_1/f"), "old", "nothing is lost before the copy is complete");
        disk.copy(&plan);
        plan.swap(&disk.1).unwrap();
        assert!(disk.1.rewind_in_progress().exists(), "what is PGDATA still must not be started");
        assert_eq!(
            (disk.read("ts/PG_17_1/f"), disk.read("wal/lost+found/x")),
            ("new".into(), "kept".into())
        );
        assert_eq!(disk.read("d.pgraft/new/pg_tblspc/7/PG_17_1/f"), "new");
        assert_eq!(disk.read("d.pgraft/new/pg_wal/000000010000000000000002"), "new");
        assert_eq!(fs::read_link(disk.at("d.pgraft/new/pg_wal")).unwrap(), disk.at("wal"));
        for gone in [
            "ts/PG_17_1/gone",
            "ts/pgraft-clone-2",
            "wal/pgraft-clone-2",
            "wal/000000010000000000000001",
            "wal/archive_status/x",
        ] {
            assert!(!disk.at(gone).exists(), "{gone}");
        }
    }

    #[test]
    fn a_tablespace_within_the_data_directory_moves_with_it() {
        let disk = TestDisk::new();
        let plan = disk.plan("d/ts").unwrap();
        fs::create_dir_all(disk.at("d.pgraft/new/ts")).unwrap();
        disk.copy(&plan);
        plan.swap(&disk.1).unwrap();
        assert_eq!(disk.read("d.pgraft/new/ts/PG_17_1/f"), "new");
        assert_eq!(fs::read_link(disk.at("d.pgraft/new/pg_tblspc/7")).unwrap(), disk.at("d/ts"));
    }

    #[test]
    fn files_of_another_server_are_left_alone() {
        let disk = TestDisk::new();
        disk.write("ts/PG_17_1/f", "another server's");
        disk.write("file", "");
        let taken = "the directory /ts of tablespace \"fast\" contains files of another server; move them, or drop the tablespace on the primary";
        assert_eq!(disk.plan("ts").unwrap_err(), taken);
        let unusable = disk.plan("file/ts").unwrap_err();
        assert!(
            unusable.contains(
                "could not use the directory /file/ts of tablespace \"fast\": Not a directory"
            ) && unusable.contains("; create it"),
            "{unusable}"
        );
        assert_eq!(disk.read("ts/PG_17_1/f"), "another server's");
        // As after a kill when the old PGDATA had already been moved.
        fs::create_dir_all(disk.at("d.pgraft/old/pg_tblspc")).unwrap();
        symlink(disk.at("ts"), disk.at("d.pgraft/old/pg_tblspc/7")).unwrap();
        disk.plan("ts").unwrap();
        disk.plan("another/new/one").unwrap();
        assert_eq!(disk.plan("a=b").unwrap().arguments()[0].matches("\\=").count(), 2);
    }

    #[test]
    fn two_nodes_of_one_host_that_clone_at_once_do_not_collide() {
        let disk = TestDisk::new();
        let all = || vec![Tablespace { oid: "7".into(), name: "fast".into(), at: disk.at("ts") }];
        let plan = |node, data: &str| {
            let paths = Paths { data: disk.at(data), ..disk.1.clone() };
            External::of(&paths, NodeId::new(node).unwrap(), all()).unwrap()
        };
        let (first, second) = (plan(2, "d"), plan(3, "e"));
        disk.write("ts/pgraft-clone-3/PG_17_1/f", "the copy of node 3");
        disk.copy(&first);
        first.swap(&disk.1).unwrap();
        assert_eq!(disk.read("ts/pgraft-clone-3/PG_17_1/f"), "the copy of node 3");
        let refused = second.swap(&disk.1).unwrap_err();
        assert!(matches!(refused, ExternalError::Taken { .. }), "{refused}");
        assert_eq!(disk.read("ts/PG_17_1/f"), "new", "the files of node 2 are kept");
    }

    #[test]
    fn a_data_directory_without_external_parts_needs_nothing() {
        let disk = TestDisk::new();
        let plan = External::of(&disk.1, NodeId::new(2).unwrap(), vec![]).unwrap();
        assert_eq!((plan.arguments(), &plan), (vec![], &External::default()));
        plan.swap(&disk.1).unwrap();
        assert!(!disk.1.rewind_in_progress().exists());
    }

    #[test]
    fn recognizes_files_of_postgres_in_pg_wal() {
        for name in [
            "000000010000000000000001",
            "000000010000000000000001.partial",
            "00000002.history",
            "archive_status",
            "xlogtemp.17",
        ] {
            assert!(is_wal(Path::new(name)), "{name}");
        }
        for name in ["lost+found", "pgraft-clone", "00000002", "my.history"] {
            assert!(!is_wal(Path::new(name)), "{name}");
        }
    }
}
