//! The status of the worker in shared memory. One thread of the worker writes it; every backend
//! reads it without a lock.
//!
//! It is a sequence lock over atomics: the writer makes the sequence odd, writes, and makes it even.
//! A reader that sees an odd or changed sequence reads again. Only atomics are shared, so a race
//! yields old words, never undefined behaviour.

#![allow(unsafe_code, reason = "shared memory belongs to Postgres")]

pub mod gate;
pub mod words;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use pgraft_core::wal::{WalPosition, WalProgress};
use pgraft_core::{NodeId, NodeState, NodeStatus};
use pgraft_raft::boot_time;
use pgrx::atomics::PgAtomic;
use pgrx::{PGRXSharedMemory, pg_guard, pg_shmem_init, pg_sys};
use serde_json::json;

use words::{GATE, INTAKE};

/// Words of the page: 128 KiB, and 64 members with long names need about 40.
const WORDS: usize = 16 * 1024;
/// Milliseconds after which a status is stale. The worker publishes twice a second.
const STALE_AFTER_MS: u64 = 3_000;
/// How often a reader tries. A writer that was killed while writing leaves the sequence odd.
const MAX_ATTEMPTS: usize = 10_000;

// SAFETY: the name belongs to this extension.
static PAGE: PgAtomic<StatusPage> = unsafe { PgAtomic::new(c"pgraft_page") };

/// The shared page. All zeros is a valid initial state.
pub struct StatusPage {
    sequence: AtomicU32,
    length: AtomicU32,
    /// Boot time in milliseconds of the last write; 0 before the first one.
    published_at: AtomicU64,
    /// Node id of the leader; 0 if there is none.
    leader: AtomicU32,
    leading: AtomicU32,
    term: AtomicU64,
    /// The end of the WAL: written by the worker's main thread for its other threads.
    wal_timeline: AtomicU32,
    wal_lsn: AtomicU64,
    wal_replayed: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Default for StatusPage {
    #[allow(
        clippy::large_stack_arrays,
        reason = "built once, by the postmaster, whose stack is the main thread's"
    )]
    fn default() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            length: AtomicU32::new(0),
            published_at: AtomicU64::new(0),
            leader: AtomicU32::new(0),
            leading: AtomicU32::new(0),
            term: AtomicU64::new(0),
            wal_timeline: AtomicU32::new(0),
            wal_lsn: AtomicU64::new(0),
            wal_replayed: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }
}

// SAFETY: nothing but atomics, no pointers.
unsafe impl PGRXSharedMemory for StatusPage {}

/// Requests the status page, the gate and the intake from the postmaster. `pg::server` and
/// `pg::names` request their own pages.
pub fn request() {
    pg_shmem_init!(PAGE);
    pg_shmem_init!(GATE);
    pg_shmem_init!(INTAKE);
}

/// The content of the page.
pub enum Published {
    /// The status that the worker published last.
    Status(Box<NodeStatus>),
    /// The worker has stopped permanently, for this reason.
    Stopped(String),
    /// The worker has not published anything yet.
    Nothing,
}

/// Publishes the status. Called by one thread of the worker.
pub fn publish(status: &NodeStatus) {
    let page = PAGE.get();
    page.leader.store(status.leader.map_or(0, NodeId::get), Ordering::Relaxed);
    page.leading.store(
        u32::from(status.state == NodeState::Leader && status.leader == Some(status.node_id)),
        Ordering::Relaxed,
    );
    page.term.store(status.term, Ordering::Relaxed);
    let text = json!({ "status": status }).to_string();
    if text.len() > WORDS * 8 {
        return publish_stopped(
            "the status does not fit into shared memory; use shorter addresses",
        );
    }
    write(page, &text);
}

/// Publishes why the worker has stopped.
pub fn publish_stopped(why: &str) {
    let page = PAGE.get();
    page.leader.store(0, Ordering::Relaxed);
    page.leading.store(0, Ordering::Relaxed);
    write(page, &json!({ "stopped": why }).to_string());
}

/// Reads what the worker published last.
pub fn read() -> Published {
    let Some(text) = read_text(PAGE.get()) else { return Published::Nothing };
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(&text) else {
        return Published::Nothing;
    };
    if let Some(why) = value["stopped"].as_str() {
        return Published::Stopped(why.to_owned());
    }
    match serde_json::from_value(value["status"].take()) {
        Ok(status) => Published::Status(Box::new(status)),
        Err(_) => Published::Nothing,
    }
}

/// The node id of the leader; None if there is none or the worker has stopped.
pub fn leader() -> Option<u32> {
    let page = PAGE.get();
    let leader = page.leader.load(Ordering::Relaxed);
    (leader != 0 && is_fresh()).then_some(leader)
}

/// Whether this node is the leader and the worker is running.
pub fn is_leader() -> bool {
    PAGE.get().leading.load(Ordering::Relaxed) == 1 && is_fresh()
}

/// The Raft term that was published last.
pub fn term() -> u64 {
    PAGE.get().term.load(Ordering::Relaxed)
}

/// Whether the worker has published recently.
pub fn is_fresh() -> bool {
    let at = PAGE.get().published_at.load(Ordering::Relaxed);
    at != 0 && boot_time().0.saturating_sub(at) <= STALE_AFTER_MS
}

/// Stores how far this server is, for the worker's other threads.
pub fn set_wal(progress: WalProgress) {
    let page = PAGE.get();
    page.wal_timeline.store(progress.end.timeline, Ordering::Relaxed);
    page.wal_lsn.store(progress.end.lsn, Ordering::Relaxed);
    page.wal_replayed.store(progress.replayed.unwrap_or(0), Ordering::Relaxed);
}

/// How far this server is, as last observed by the main thread.
pub fn wal() -> Option<WalProgress> {
    let page = PAGE.get();
    let (timeline, lsn) =
        (page.wal_timeline.load(Ordering::Relaxed), page.wal_lsn.load(Ordering::Relaxed));
    let replayed = Some(page.wal_replayed.load(Ordering::Relaxed)).filter(|lsn| *lsn != 0);
    (lsn != 0).then_some(WalProgress { end: WalPosition { timeline, lsn }, replayed })
}

fn write(page: &StatusPage, text: &str) {
    let bytes = text.as_bytes();
    let Some(length) = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= WORDS * 8) else {
        return;
    };
    // It is odd already if the last writer was killed while writing.
    let before = page.sequence.load(Ordering::Relaxed) | 1;
    page.sequence.store(before, Ordering::Relaxed);
    fence(Ordering::Release);
    page.length.store(length, Ordering::Relaxed);
    for (word, chunk) in page.words.iter().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
    page.published_at.store(boot_time().0, Ordering::Relaxed);
    page.sequence.store(before.wrapping_add(1), Ordering::Release);
}

fn read_text(page: &StatusPage) -> Option<String> {
    for _ in 0..MAX_ATTEMPTS {
        let before = page.sequence.load(Ordering::Acquire);
        if before == 0 {
            return None;
        }
        if before % 2 == 1 {
            std::hint::spin_loop();
            continue;
        }
        let length = usize::try_from(page.length.load(Ordering::Relaxed))
            .ok()
            .filter(|l| *l <= WORDS * 8)?;
        let mut bytes: Vec<u8> = page.words[..length.div_ceil(8)]
            .iter()
            .flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        fence(Ordering::Acquire);
        if page.sequence.load(Ordering::Relaxed) == before {
            bytes.truncate(length);
            return String::from_utf8(bytes).ok();
        }
    }
    None
}
