//! Removes the two-phase state files that recovery must not find (`pgraft_core::twophase` says why)
//! before a server starts.
//!
//! The instance manager does it before each start, and after a rewind or a clone; the extension
//! when the postmaster makes its shared memory, which covers a server that recovers in place after
//! one of its processes has crashed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pgraft_core::recovery::{self, ENOUGH, Label, Layout};
use pgraft_core::twophase::not_older;

/// Why nothing was removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum TwoPhaseError {
    /// Disk.
    #[error("could not {what} {}: {source}", path.display())]
    File {
        /// The deed.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Started as it is, the server might lose a prepared transaction.
    #[error("could not find the next transaction ID of the checkpoint that recovery starts from, and {} has two-phase state files", directory.display())]
    NoCheckpoint {
        /// `pg_twophase`.
        directory: PathBuf,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TwoPhaseError {
    let path = path.to_owned();
    move |source| TwoPhaseError::File { what, path, source }
}

/// Removes them from a data directory whose server does not run. Gives their names.
///
/// # Errors
/// See [`TwoPhaseError`].
pub fn remove_not_older(data: &Path) -> Result<Vec<String>, TwoPhaseError> {
    let directory = data.join("pg_twophase");
    let files = match names(&directory) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(failed("read", &directory)(e)),
    };
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    // Where 0 is next, all of them are in question.
    if not_older(&files, 0).iter().all(|name| name.len() != 16) {
        // Postgres 15 and 16 find the right name.
        return Ok(vec![]);
    }
    let next_xid =
        next_xid(data)?.ok_or(TwoPhaseError::NoCheckpoint { directory: directory.clone() })?;
    let mut removed = Vec::new();
    for name in not_older(&files, next_xid) {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        removed.push(name.to_owned());
    }
    if !removed.is_empty() {
        File::open(&directory).and_then(|d| d.sync_all()).map_err(failed("sync", &directory))?;
    }
    Ok(removed)
}

/// `nextXid` of the checkpoint that recovery starts from; None where it can't be told.
fn next_xid(data: &Path) -> Result<Option<u64>, TwoPhaseError> {
    let label = data.join("backup_label");
    match fs::read_to_string(&label) {
        Ok(text) => Ok(recovery::label(&text)
            .and_then(|label| checkpoint_next_xid(&data.join("pg_wal"), label))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let control = data.join("global/pg_control");
            fs::read(&control)
                .map(|bytes| recovery::control_next_xid(&bytes))
                .map_err(failed("read", &control))
        }
        Err(e) => Err(failed("read", &label)(e)),
    }
}

/// From the WAL files that have the label's checkpoint record. Of two timelines' copies either will
/// do.
fn checkpoint_next_xid(wal: &Path, label: Label) -> Option<u64> {
    let files = names(wal).ok()?;
    let layouts: BTreeSet<(u64, u64)> = files
        .iter()
        .filter(|f| f.len() == 24)
        .filter_map(|f| layout(&wal.join(f)))
        .map(|l| (l.segment, l.page))
        .collect();
    layouts.into_iter().map(|(segment, page)| Layout { segment, page }).find_map(|layout| {
        let having = |number: u64| {
            let mut having: Vec<(u32, &String)> = files
                .iter()
                .filter_map(|f| Some((recovery::segment(f, layout)?, f)))
                .filter(|((_, n), _)| *n == number)
                .map(|((t, _), f)| (t, f))
                .collect();
            having.sort_unstable_by_key(|(timeline, _)| std::cmp::Reverse(*timeline));
            having.into_iter().map(|(_, file)| wal.join(file)).collect::<Vec<_>>()
        };
        let (number, from) = (label.checkpoint / layout.segment, label.checkpoint % layout.segment);
        let next: Vec<Vec<u8>> = having(number + 1)
            .iter()
            .filter_map(|file| bytes(file, 0, ENOUGH))
            .chain([vec![]])
            .collect();
        having(number)
            .iter()
            .filter_map(|file| bytes(file, from, ENOUGH.min(layout.segment - from)))
            .find_map(|first| {
                next.iter().find_map(|second| {
                    recovery::checkpoint_next_xid(
                        &[first.as_slice(), second.as_slice()].concat(),
                        label,
                        layout,
                    )
                })
            })
    })
}

fn layout(file: &Path) -> Option<Layout> {
    recovery::layout(&bytes(file, 0, 40)?)
}

fn bytes(file: &Path, from: u64, most: u64) -> Option<Vec<u8>> {
    let mut file = File::open(file).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?
        .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const OLD: &str = "00000000000002E3";
    const NEW: &str = "00000000000002E4";

    /// With both files; `pg_control` says that either is old.
    fn data_directory() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        for directory in ["pg_twophase", "pg_wal", "global"] {
            fs::create_dir(data.path().join(directory)).unwrap();
        }
        for name in [OLD, NEW] {
            fs::write(data.path().join("pg_twophase").join(name), "").unwrap();
        }
        control(data.path(), 0x2E5);
        data
    }

    fn control(data: &Path, next_xid: u64) {
        let mut bytes = vec![0; 8192];
        bytes[8..12].copy_from_slice(&1700_u32.to_ne_bytes());
        bytes[64..72].copy_from_slice(&next_xid.to_ne_bytes());
        fs::write(data.join("global/pg_control"), bytes).unwrap();
    }

    /// A checkpoint at 0/1000060 that the label names.
    fn backup_of(data: &Path, file: &str, next_xid: u64) {
        fs::write(
            data.join("backup_label"),
            "START WAL LOCATION: 0/1000028 (file x)\nCHECKPOINT LOCATION: 0/1000060\n",
        )
        .unwrap();
        let mut wal = vec![0; 1 << 20];
        wal[32..36].copy_from_slice(&(1_u32 << 20).to_ne_bytes());
        wal[36..40].copy_from_slice(&8192_u32.to_ne_bytes());
        wal[0x60 + 16] = 0x10;
        wal[0x60 + 24] = 255;
        wal[0x60 + 26..0x60 + 34].copy_from_slice(&0x100_0028_u64.to_ne_bytes());
        wal[0x60 + 50..0x60 + 58].copy_from_slice(&next_xid.to_ne_bytes());
        fs::write(data.join("pg_wal").join(file), wal).unwrap();
    }

    fn left(data: &Path) -> BTreeSet<String> {
        names(&data.join("pg_twophase")).unwrap().into_iter().collect()
    }

    #[test]
    fn by_the_control_file() {
        let data = data_directory();
        assert!(remove_not_older(data.path()).unwrap().is_empty());
        control(data.path(), 0x2E4);
        assert_eq!(remove_not_older(data.path()).unwrap(), [NEW]);
        assert_eq!(left(data.path()), BTreeSet::from([OLD.to_owned()]));
    }

    #[test]
    fn by_the_checkpoint_of_a_backup_whatever_the_control_file_says() {
        let data = data_directory();
        backup_of(data.path(), "000000020000000000000010", 0x2E4);
        // Another timeline's file of that name, which has another record there.
        fs::write(data.path().join("pg_wal/000000030000000000000010"), vec![1; 1 << 20]).unwrap();
        assert_eq!(remove_not_older(data.path()).unwrap(), [NEW]);
        assert_eq!(left(data.path()), BTreeSet::from([OLD.to_owned()]));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let data = data_directory();
        backup_of(data.path(), "000000020000000000000011", 0x2E4);
        let error = remove_not_older(data.path()).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "could not find the next transaction ID of the checkpoint that recovery starts from"
            ),
            "{error}"
        );
        assert_eq!(left(data.path()).len(), 2);
        // Nothing is in question: the checkpoint is not looked for.
        for name in [OLD, NEW] {
            fs::remove_file(data.path().join("pg_twophase").join(name)).unwrap();
        }
        fs::write(data.path().join("pg_twophase/000002E4"), "").unwrap();
        assert!(remove_not_older(data.path()).unwrap().is_empty(), "as Postgres 16 names it");
        fs::remove_dir_all(data.path().join("pg_twophase")).unwrap();
        assert!(remove_not_older(data.path()).unwrap().is_empty());
    }
}
