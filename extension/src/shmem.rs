//! What the worker knows, in shared memory: written by one of its threads, read by every backend
//! without a lock and without asking.
//!
//! A sequence lock over atomics: the writer makes the sequence odd, writes, makes it even; a reader
//! that sees an odd or a changed sequence reads again. Only atomics are shared, so a reader at the
//! wrong moment sees old words, never undefined ones.

#![allow(unsafe_code, reason = "shared memory is Postgres' to give")]

pub mod words;

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use pgraft_core::status::{WalPosition, WalProgress};
use pgraft_core::{NodeId, NodeState, NodeStatus};
use pgrx::atomics::PgAtomic;
use pgrx::pg_sys;
use pgrx::{PGRXSharedMemory, pg_guard, pg_shmem_init};
use serde_json::json;

use crate::pg::{names, server};
use words::{GATE, INTAKE, NAMES, RUN};

/// Words of the page: 128 KiB, and 64 members with long names need about 40.
const WORDS: usize = 16 * 1024;
/// Older than this the worker is taken for dead: it publishes twice a second.
const STALE_AFTER_MS: i64 = 3_000;
/// A reader gives up after so many tries; a writer that was killed half way would make it try for
/// ever.
const MAX_ATTEMPTS: usize = 10_000;

// SAFETY: the name belongs to this extension.
static PAGE: PgAtomic<StatusPage> = unsafe { PgAtomic::new(c"pgraft_page") };

/// The shared page. All zeros is its valid first state.
pub struct StatusPage {
    sequence: AtomicU32,
    length: AtomicU32,
    /// Milliseconds of the monotonic clock at which it was last written; 0 before the first time.
    published_at: AtomicI64,
    /// 0 for none.
    leader: AtomicU32,
    leading: AtomicU32,
    term: AtomicU64,
    /// Written by the worker's main thread for its other threads.
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
            published_at: AtomicI64::new(0),
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

/// Asks the postmaster for the pages.
pub fn request() {
    pg_shmem_init!(PAGE);
    pg_shmem_init!(RUN = server::first_page());
    pg_shmem_init!(GATE);
    pg_shmem_init!(INTAKE);
    pg_shmem_init!(NAMES = names::first_page());
}

/// What a backend finds in the page.
pub enum Published {
    /// The worker's last word.
    Status(Box<NodeStatus>),
    /// The worker has ended for good, and why.
    Stopped(String),
    /// The worker has said nothing yet.
    Nothing,
}

/// Writes the status. From one thread of the worker.
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
            "its status is larger than the shared page; shorten the members' addresses",
        );
    }
    write(page, &text);
}

/// Leaves word why there is no worker.
pub fn publish_stopped(why: &str) {
    let page = PAGE.get();
    page.leader.store(0, Ordering::Relaxed);
    page.leading.store(0, Ordering::Relaxed);
    write(page, &json!({ "stopped": why }).to_string());
}

/// The worker's last word.
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

/// The leader, as long as the worker lives: what a dead worker knew of it is nothing.
pub fn leader() -> Option<u32> {
    let page = PAGE.get();
    let leader = page.leader.load(Ordering::Relaxed);
    (leader != 0 && is_fresh()).then_some(leader)
}

/// Whether this node leads, as long as the worker lives.
pub fn is_leader() -> bool {
    PAGE.get().leading.load(Ordering::Relaxed) == 1 && is_fresh()
}

/// Raft's term as it was last published.
pub fn term() -> u64 {
    PAGE.get().term.load(Ordering::Relaxed)
}

/// Whether the worker has published lately.
pub fn is_fresh() -> bool {
    let at = PAGE.get().published_at.load(Ordering::Relaxed);
    at != 0 && crate::pg::monotonic_ms() - at <= STALE_AFTER_MS
}

/// Leaves how far this server is for the worker's other threads.
pub fn set_wal(progress: WalProgress) {
    let page = PAGE.get();
    page.wal_timeline.store(progress.end.timeline, Ordering::Relaxed);
    page.wal_lsn.store(progress.end.lsn, Ordering::Relaxed);
    page.wal_replayed.store(progress.replayed.unwrap_or(0), Ordering::Relaxed);
}

/// How far this server is, as the main thread last saw it.
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
    // A writer that was killed half way left it odd: go on from there.
    let before = page.sequence.load(Ordering::Relaxed) | 1;
    page.sequence.store(before, Ordering::Relaxed);
    fence(Ordering::Release);
    page.length.store(length, Ordering::Relaxed);
    for (word, chunk) in page.words.iter().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
    page.published_at.store(crate::pg::monotonic_ms(), Ordering::Relaxed);
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
