//! What a disk does to a log, and what a start makes of it.
//!
//! Promised: what was acknowledged and lies before the damage is there, or the member does not
//! start and nothing was changed. Not promised, since nobody can see it: that bytes which are gone
//! from the very end were ever there. A disk that loses what it has confirmed loses votes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, which may end anywhere"
)]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, RaftLogReader};
use pgraft_core::{Address, ClusterId, Command, NodeId};
use raft_log::ChunkId;
use raft_log::chunked_wal::Config;
use tempfile::TempDir;
use uuid::Uuid;

use super::log::LogStore;
use crate::identity::{Belonging, Identity};
use crate::types::{Entry, LogCommand, LogId, TypeConfig, Vote};

const ENTRIES: u64 = 3;

/// A small log of a member, and what it holds when whole.
struct Fixture {
    dir: TempDir,
    identity: Identity,
    bytes: Vec<u8>,
    /// Where each record begins, and the end.
    edges: Vec<usize>,
}

/// What a log holds: its vote's term and the indexes of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HeldRecords {
    term: Option<u64>,
    entries: Vec<u64>,
}

impl Fixture {
    async fn new() -> Self {
        // In memory where that can be had: nothing here hangs on a real fsync, and there are
        // thousands.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut identity = Identity::open(dir.path(), NodeId::new(1).unwrap()).unwrap();
        let mut log = LogStore::open(dir.path(), &identity).unwrap();
        identity
            .join(dir.path(), Belonging { id: ClusterId(Uuid::nil()), bootstrapped_here: true })
            .unwrap();
        for index in 0..ENTRIES {
            log.save_vote(&Vote::new_committed(index + 1, 1)).await.unwrap();
            append(&mut log, index).await;
            log.save_committed(Some(id(index))).await.unwrap();
        }
        let wait = log.clone();
        drop(log);
        drop(wait);
        let mut fixture = Self { dir, identity, bytes: Vec::new(), edges: Vec::new() };
        fixture.open().await.unwrap();
        fixture.bytes = std::fs::read(fixture.chunk()).unwrap();
        fixture.edges = super::check::edges(&fixture.bytes);
        fixture
    }

    fn chunk(&self) -> PathBuf {
        let chunks = files(&self.dir.path().join("log"));
        assert_eq!(chunks.len(), 1, "{chunks:?}");
        chunks[0].clone()
    }

    /// Puts the log back as it was, but for this.
    fn put(&self, bytes: &[u8]) {
        let log = self.dir.path().join("log");
        std::fs::remove_dir_all(&log).unwrap();
        std::fs::create_dir(&log).unwrap();
        std::fs::write(log.join("r-00_000_000_000_000_000_000.wal"), bytes).unwrap();
    }

    /// Makes the file that comes next, or one behind it, and leaves it empty.
    fn begin_next(&self, behind: u64) {
        let name = Config::chunk_file_name(ChunkId(self.bytes.len() as u64 + behind));
        std::fs::write(self.dir.path().join("log").join(name), b"").unwrap();
    }

    async fn open(&self) -> io::Result<HeldRecords> {
        let mut log = LogStore::open(self.dir.path(), &self.identity)?;
        let term = log.read_vote().await?.map(|vote| vote.leader_id.term);
        let entries = log.try_get_log_entries(0..).await?.iter().map(|e| e.log_id.index).collect();
        Ok(HeldRecords { term, entries })
    }

    /// What the first `records` records say.
    fn held(&self, records: usize) -> HeldRecords {
        let mut held = HeldRecords { term: None, entries: Vec::new() };
        for n in 0..records {
            match self.bytes[self.edges[n] + 3] {
                0 => held.term = Some(held.term.map_or(1, |term| term + 1)),
                1 => held.entries.push(held.entries.len() as u64),
                _ => {}
            }
        }
        held
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| !p.ends_with("LOCK"))
        .collect();
    files.sort();
    files
}

fn id(index: u64) -> LogId {
    openraft::testing::log_id::<TypeConfig>(index + 1, 1, index)
}

async fn append(log: &mut LogStore, index: u64) {
    let node = NodeId::new(i64::try_from(index).unwrap() + 2).unwrap();
    let command = Command::Join { node, address: Address::new("a-member", 7001).unwrap() };
    let entry = Entry { log_id: id(index), payload: EntryPayload::Normal(LogCommand(command)) };
    log.append([entry], IOFlushed::noop()).await.unwrap();
}

#[tokio::test]
async fn a_log_cut_at_any_byte_keeps_what_lies_before() {
    let fixture = Fixture::new().await;
    let whole = fixture.edges.len() - 1;
    assert_eq!(
        fixture.held(whole),
        HeldRecords { term: Some(ENTRIES), entries: (0..ENTRIES).collect() },
        "the records are read rightly"
    );
    assert_eq!(fixture.open().await.unwrap(), fixture.held(whole));
    let owned = fixture.edges[2]; // before it nobody owns the log
    for cut in owned..fixture.bytes.len() {
        fixture.put(&fixture.bytes[..cut]);
        let records = fixture.edges.iter().filter(|edge| **edge <= cut).count() - 1;
        let held = fixture.open().await.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert_eq!(held, fixture.held(records), "cut at {cut}");
        // What comes next is written behind it, and stays.
        let mut log = LogStore::open(fixture.dir.path(), &fixture.identity).unwrap();
        let next = held.entries.len() as u64;
        append(&mut log, next).await;
        log.save_vote(&Vote::new_committed(ENTRIES + 7, 1)).await.unwrap();
        drop(log);
        let again = fixture.open().await.unwrap();
        assert_eq!(
            (again.term, again.entries.last()),
            (Some(ENTRIES + 7), Some(&next)),
            "cut at {cut}"
        );
    }
    for cut in 0..owned {
        fixture.put(&fixture.bytes[..cut]);
        refused(&fixture, &format!("cut at {cut}")).await;
    }
}

/// A filesystem that wrote the length before the data leaves zeros.
#[tokio::test]
async fn a_tail_of_zeros_is_torn_too() {
    let fixture = Fixture::new().await;
    for records in 2..fixture.edges.len() {
        let mut bytes = fixture.bytes[..fixture.edges[records]].to_vec();
        bytes.resize(bytes.len() + 300, 0);
        fixture.put(&bytes);
        assert_eq!(fixture.open().await.unwrap(), fixture.held(records));
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_unless_it_is_in_the_last_record() {
    let fixture = Fixture::new().await;
    let last = fixture.edges[fixture.edges.len() - 2];
    for at in 0..fixture.bytes.len() {
        for bit in 0..8 {
            let mut bytes = fixture.bytes.clone();
            bytes[at] ^= 1 << bit;
            fixture.put(&bytes);
            if at < last {
                refused(&fixture, &format!("bit {bit} of byte {at}")).await;
            } else if let Ok(held) = fixture.open().await {
                assert_eq!(
                    held,
                    fixture.held(fixture.edges.len() - 2),
                    "bit {bit} of byte {at}: taken for torn, and only that record"
                );
            }
        }
    }
}

/// Damage, by our own words, and not a byte is another one than before.
async fn refused(fixture: &Fixture, what: &str) {
    let log = fixture.dir.path().join("log");
    let before: Vec<_> =
        files(&log).iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let error = fixture.open().await.expect_err(what);
    assert!(
        matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Unsupported),
        "{what}: {error}"
    );
    let after: Vec<_> =
        files(&log).iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert!(before == after, "{what}: the disk is not as before");
}

/// What a killed process had not synced would count for a majority otherwise, and be gone after the
/// next power cut.
#[tokio::test]
async fn a_start_writes_the_latest_bytes_once_more() {
    let fixture = Fixture::new().await;
    let chunk = std::fs::File::options().write(true).open(fixture.chunk()).unwrap();
    chunk.set_modified(UNIX_EPOCH).unwrap();
    for n in 0..3 {
        fixture.begin_next(n);
    }
    fixture.open().await.unwrap();
    assert!(chunk.metadata().unwrap().modified().unwrap() > UNIX_EPOCH, "nothing was written");
    assert_eq!(std::fs::read(fixture.chunk()).unwrap(), fixture.bytes);
}

/// The power goes when the next file is there already.
#[tokio::test]
async fn a_torn_end_before_an_empty_file_is_cut_too() {
    let fixture = Fixture::new().await;
    let records = fixture.edges.len() - 2;
    for cut in fixture.edges[records]..fixture.bytes.len() {
        fixture.put(&fixture.bytes[..cut]);
        fixture.begin_next(0);
        assert_eq!(fixture.open().await.unwrap(), fixture.held(records), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_log_of_another_format_or_another_directory_is_refused() {
    let fixture = Fixture::new().await;
    let other = tempfile::tempdir().unwrap();
    let other = Identity::open(other.path(), NodeId::new(1).unwrap()).unwrap();
    let error = LogStore::open(fixture.dir.path(), &other).err().unwrap();
    assert_eq!(error.to_string(), "the log belongs to another directory");
    let instance = fixture.identity.instance;
    let owners = [
        (format!("\"{instance}\""), "the log has format 0, and this version reads format 1"),
        (
            format!("{{\"format\":2,\"owner\":\"{instance}\"}}"),
            "the log has format 2, and this version reads format 1",
        ),
    ];
    for (owner, words) in owners {
        fixture.put(&super::check::first_record(owner.as_bytes()));
        let error = fixture.open().await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::Unsupported, words));
        refused(&fixture, words).await;
    }
    let kinds: BTreeSet<u8> = fixture
        .edges
        .iter()
        .take(fixture.edges.len() - 1)
        .map(|edge| fixture.bytes[edge + 3])
        .collect();
    assert_eq!(
        kinds,
        BTreeSet::from([0, 1, 2, 5]),
        "votes, entries, commits and checkpoints were all cut and flipped"
    );
}
