//! What a start looks at before the library opens the log, since the library mends what it takes
//! for a torn tail, and a flipped bit in a length looks like one to it: it would cut off all that
//! follows, entries and votes that this node has acknowledged.
//!
//! Decides by framing and checksums alone: a record that ends behind the file's end is torn only
//! when no whole record follows. Changes nothing when it refuses. Called by `LogStore::open`, which
//! holds the directory's lock.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use codeq::{Decode, Encode};
use pgraft_core::InstanceId;
use raft_log::chunked_wal::Config;
use raft_log::{RaftLogRecord, WALRecord};
use serde::{Deserialize, Serialize};

use super::on_disk::OnDisk;

/// The format of the log's records that this version writes and reads. Another one is refused,
/// never guessed at.
pub const FORMAT: u32 = 1;

/// Chunks whose last bytes may have been on their way to disk when the process ended: the open one
/// and the one before.
const UNSETTLED: usize = 2;

/// Whose log it is; in its first records, and in each of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub format: u32,
    pub instance: InstanceId,
}

/// Looks through all of the log. None when nothing was ever written to it.
pub fn check(dir: &Path) -> io::Result<Option<Owner>> {
    let chunks = chunks(dir)?;
    let mut owner = None;
    for (n, path) in chunks.iter().enumerate() {
        let bytes = std::fs::read(path)?;
        let found = walk(&bytes);
        if let Some(at) = found.broken_at {
            let is_last = n + 1 == chunks.len();
            if !is_last || whole_record_in(&bytes[at + 1..]) {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                return Err(damaged(format!(
                    "the record at byte {at} of log/{file} is damaged, and whole ones follow it"
                )));
            }
        }
        owner = found.owner.or(owner);
    }
    owner.as_deref().map(read_owner).transpose()
}

/// Writes the latest bytes once more and waits for the disk. A process that was killed before its
/// fsync, or whose fsync failed, has left them in the kernel's cache as if they were written.
/// Openraft confirms to the leader whatever a start finds: read from there they would count for a
/// majority, and be gone after the next power cut.
pub fn settle(dir: &Path) -> io::Result<()> {
    for path in chunks(dir)?.iter().rev().take(UNSETTLED) {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = std::fs::read(path)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

/// The log's files that hold anything, oldest first: their names carry the offset in digits of one
/// length. The library makes the next one, empty, while bytes of the one before may be on their way
/// to disk, and writes to it when they are there.
fn chunks(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut chunks = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_chunk = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| Config::parse_chunk_file_name(name).is_ok());
        if is_chunk && path.metadata()?.len() > 0 {
            chunks.push(path);
        }
    }
    chunks.sort();
    Ok(chunks)
}

struct Walk {
    /// The last word on whose log it is.
    owner: Option<Vec<u8>>,
    /// Where the first record begins that is not whole.
    broken_at: Option<usize>,
}

fn walk(bytes: &[u8]) -> Walk {
    let (mut rest, mut owner) = (bytes, None);
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        match RaftLogRecord::<RawTypes>::decode(&mut rest) {
            Ok(WALRecord::Checkpoint(state)) => owner = state.user_data.map(|raw| raw.0).or(owner),
            Ok(WALRecord::Action(_)) => {}
            Err(_) => return Walk { owner, broken_at: Some(at) },
        }
    }
    Walk { owner, broken_at: None }
}

/// Whether a record that is whole begins anywhere in here. (Its checksum makes a chance hit one in
/// four thousand millions.)
pub fn whole_record_in(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|n| RaftLogRecord::<RawTypes>::decode(&bytes[n..]).is_ok())
}

fn read_owner(json: &[u8]) -> io::Result<Owner> {
    #[derive(Deserialize)]
    struct Marked {
        format: u32,
    }
    // The first format had no number, and no release.
    let format = serde_json::from_slice::<Marked>(json).map_or(0, |marked| marked.format);
    if format != FORMAT {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the log has format {format}, and this version reads format {FORMAT}"),
        ));
    }
    serde_json::from_slice(json).map_err(|e| damaged(format!("whose log it is can't be read: {e}")))
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The bytes of one value: a length and so many bytes. A length that promises more than there is
/// takes no memory.
pub fn read_bytes<R: Read>(mut r: R) -> io::Result<Vec<u8>> {
    let length = u32::decode(&mut r)?;
    let mut bytes = Vec::new();
    r.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(length) {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The log's records without their meaning.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct RawTypes;

impl raft_log::Types for RawTypes {
    type LogId = Raw;
    type LogPayload = Raw;
    type Vote = Raw;
    type Callback = OnDisk;
    type UserData = Raw;

    fn log_index(_: &Raw) -> u64 {
        0
    }

    fn payload_size(_: &Raw) -> u64 {
        0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Raw(Vec<u8>);

impl Encode for Raw {
    fn encode<W: io::Write>(&self, w: W) -> io::Result<usize> {
        self.0.encode(w)
    }
}

impl Decode for Raw {
    fn decode<R: Read>(r: R) -> io::Result<Self> {
        read_bytes(r).map(Self)
    }
}

/// How many records are whole before the first that is not.
#[cfg(all(any(test, feature = "fuzz"), not(feature = "sim")))]
pub fn whole(bytes: &[u8]) -> usize {
    edges(bytes).len() - 1
}

/// Where each whole record begins, and the end of the last: for those who damage one.
#[cfg(all(any(test, feature = "fuzz"), not(feature = "sim")))]
pub fn edges(bytes: &[u8]) -> Vec<usize> {
    let (mut rest, mut edges) = (bytes, vec![0]);
    while RaftLogRecord::<RawTypes>::decode(&mut rest).is_ok() {
        edges.push(bytes.len() - rest.len());
    }
    edges
}

/// A record of this type that says this, with the right checksum.
#[cfg(all(any(test, feature = "fuzz"), not(feature = "sim")))]
pub fn record(kind: u32, fields: &[u8]) -> Vec<u8> {
    let mut record = [&kind.to_be_bytes()[..], fields].concat();
    let checksum = u64::from(crc32fast::hash(&record));
    record.extend(checksum.to_be_bytes());
    record
}

/// A log's first record, with this owner.
#[cfg(all(test, not(feature = "sim")))]
#[allow(clippy::unwrap_used, reason = "a test's")]
pub fn first_record(owner: &[u8]) -> Vec<u8> {
    let mut fields = vec![1, 0, 0, 0, 0, 1];
    Raw(owner.to_vec()).encode(&mut fields).unwrap();
    let record = record(5, &fields);
    assert!(RaftLogRecord::<RawTypes>::decode(&record[..]).is_ok());
    record
}
