//! The log on a disk that is not what it was: damaged anywhere, or forged with right checksums.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, RaftLogReader};
use pgraft_core::ClusterId;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{commands, id, is_refusal, one, shown};
use crate::identity::{Belonging, Identity};
use crate::store::{LogStore, check};
use crate::types::{Entry, LogCommand, TypeConfig, Vote};

const FIRST_CHUNK: &str = "r-00_000_000_000_000_000_000.wal";
/// The format of the log's records: a type, what belongs to it, and a checksum. The first two make
/// a log somebody's.
const OWNED: usize = 2;

/// What a log holds: its vote's term and the indexes of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HeldEntries {
    term: Option<u64>,
    entries: Vec<u64>,
}

/// A log of six entries, six votes and what else there is, as it was written.
struct Whole {
    runtime: Runtime,
    identity: Identity,
    bytes: Vec<u8>,
    /// Where each record begins, and the end.
    edges: Vec<usize>,
}

fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| Whole::new().expect("a log can be written"))
}

/// In memory where that can be had: nothing here hangs on a real fsync.
fn scratch() -> io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

impl Whole {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let dir = scratch()?;
        let mut identity = Identity::open(dir.path(), one()).map_err(io::Error::other)?;
        let mut log = LogStore::open(dir.path(), &identity)?;
        identity.join(dir.path(), Belonging { id: ClusterId(id(7)), bootstrapped_here: true })?;
        runtime.block_on(async {
            for (index, command) in (0..).zip(commands(one())) {
                log.save_vote(&Vote::new_committed(index + 1, 1)).await?;
                let log_id = openraft::testing::log_id::<TypeConfig>(index + 1, 1, index);
                log.append(
                    [Entry { log_id, payload: EntryPayload::Normal(LogCommand(command)) }],
                    IOFlushed::noop(),
                )
                .await?;
                log.save_committed(Some(log_id)).await?;
            }
            Ok::<_, io::Error>(())
        })?;
        drop(log);
        let bytes = std::fs::read(dir.path().join("log").join(FIRST_CHUNK))?;
        let edges = check::edges(&bytes);
        Ok(Self { runtime, identity, bytes, edges })
    }

    /// What the first `records` records say.
    fn held(&self, records: usize) -> HeldEntries {
        let mut held = HeldEntries { term: None, entries: Vec::new() };
        for edge in &self.edges[..records] {
            match self.bytes[edge + 3] {
                0 => held.term = Some(held.term.map_or(1, |term| term + 1)),
                1 => held.entries.push(held.entries.len() as u64),
                _ => {}
            }
        }
        held
    }

    fn record(&self, n: usize) -> &[u8] {
        &self.bytes[self.edges[n]..self.edges[n + 1]]
    }

    /// How many of the records stand at the beginning of these bytes.
    fn standing(&self, bytes: &[u8]) -> usize {
        let mut records = 0;
        while records + 1 < self.edges.len()
            && bytes.get(self.edges[records]..self.edges[records + 1]) == Some(self.record(records))
        {
            records += 1;
        }
        records
    }

    /// Starts from this file: what it holds then, and the file.
    fn open(&self, bytes: &[u8]) -> (io::Result<HeldEntries>, TempDir) {
        let dir = scratch().expect("a directory");
        std::fs::create_dir(dir.path().join("log")).expect("a directory");
        std::fs::write(chunk(dir.path()), bytes).expect("room for a file");
        let held = LogStore::open(dir.path(), &self.identity).and_then(|mut log| {
            self.runtime.block_on(async {
                let term = log.read_vote().await?.map(|vote| vote.leader_id.term);
                let entries =
                    log.try_get_log_entries(0..).await?.iter().map(|e| e.log_id.index).collect();
                log.tail(10)?;
                Ok(HeldEntries { term, entries })
            })
        });
        (held, dir)
    }
}

fn chunk(dir: &Path) -> PathBuf {
    dir.join("log").join(FIRST_CHUNK)
}

/// A log after what a disk may do to it. Promised: it opens with all that stood before the damage,
/// and no whole record is cut off; or it is refused, and nothing was changed; where whole records
/// contradict each other the library sees it only when it has cut off the torn one behind them.
/// (What whole records that nobody wrote there would mean is promised by nobody.)
pub fn damaged(damage: &[u8]) {
    let whole = whole();
    let mut bytes = whole.bytes.clone();
    for step in damage.chunks_exact(4).take(8) {
        edit(&mut bytes, step);
    }
    let (held, dir) = whole.open(&bytes);
    let standing = whole.standing(&bytes);
    match held {
        Ok(held) if check::whole(&bytes) == standing => {
            assert!(standing >= OWNED, "a log that is nobody's was opened: {}", shown(&damage));
            assert_eq!(held, whole.held(standing), "{}", shown(&damage));
            for lost in standing..whole.edges.len() - 1 {
                let is_there = bytes
                    .windows(whole.record(lost).len())
                    .any(|window| window == whole.record(lost));
                assert!(!is_there, "record {lost} was whole and is cut off: {}", shown(&damage));
            }
        }
        Ok(_) => {}
        Err(error) => {
            assert!(is_refusal(&error), "{error}: {}", shown(&damage));
            let after = std::fs::read(chunk(dir.path())).unwrap_or_default();
            let cut =
                bytes.strip_prefix(&after[..]).filter(|cut| cut.is_empty() || looks_whole(&bytes));
            assert!(
                cut.is_some_and(|cut| !check::whole_record_in(cut)),
                "refused, and changed: {error}: {}",
                shown(&damage)
            );
        }
    }
}

/// Whether all that a start looks at before the library does is right.
fn looks_whole(bytes: &[u8]) -> bool {
    let dir = scratch().expect("a directory");
    std::fs::write(dir.path().join(FIRST_CHUNK), bytes).expect("room for a file");
    check::check(dir.path()).is_ok()
}

/// A log whose records have right checksums and say anything. Nobody promises what it holds: it
/// opens or is refused.
pub fn forged(records: &[u8]) {
    let whole = whole();
    let mut bytes = whole.bytes[..whole.edges[OWNED]].to_vec();
    let mut rest = records;
    while let [kind, length, more @ ..] = rest {
        let (fields, after) = more.split_at(usize::from(*length).min(more.len()));
        bytes.extend(check::record(u32::from(*kind) % 7, fields));
        rest = after;
    }
    if let (Err(error), _) = whole.open(&bytes) {
        assert!(is_refusal(&error), "{error}: {}", shown(&records));
    }
}

fn edit(bytes: &mut Vec<u8>, step: &[u8]) {
    let [kind, high, low, value] = step else { return };
    let at = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
    let to = (at + usize::from(*value)).min(bytes.len());
    match kind % 7 {
        0 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
        1 if at < bytes.len() => bytes[at] = *value,
        2 => bytes.truncate(at),
        3 => bytes[at..to].fill(0),
        4 => drop(bytes.drain(at..to)),
        5 => bytes.resize(bytes.len() + usize::from(*value), 0),
        6 => drop(bytes.splice(at..at, vec![*value; usize::from(*value)])),
        _ => {}
    }
}

pub fn damages() -> Vec<Vec<u8>> {
    let steps = [
        [0, 0, 99, 3],
        [1, 1, 44, 0],
        [2, 3, 0, 0],
        [3, 2, 0, 200],
        [4, 2, 0, 80],
        [5, 0, 0, 250],
        [6, 1, 0, 7],
    ];
    // Found by the fuzzer: whole records that contradict each other, and a torn one behind them.
    let torn_contradiction =
        [93, 4, 2, 253, 255, 255, 255, 0, 186, 186, 83, 186, 186, 186, 186].to_vec();
    steps
        .iter()
        .map(|step| step.to_vec())
        .chain([steps.concat(), Vec::new(), torn_contradiction])
        .collect()
}

/// Each of the records, alone and all together.
pub fn forgeries() -> Vec<Vec<u8>> {
    let whole = whole();
    let written = |n: usize| {
        let record = whole.record(n);
        let fields = &record[4..record.len() - 8];
        u8::try_from(fields.len()).ok().map(|length| [&[record[3], length], fields].concat())
    };
    let all: Vec<Vec<u8>> = (0..whole.edges.len() - 1).filter_map(written).collect();
    let together = all.concat();
    all.into_iter().chain([together]).collect()
}
