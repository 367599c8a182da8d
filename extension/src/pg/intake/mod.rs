//! The WAL intake of a standby: from which node, and on which timeline, it takes WAL, if at all.
//!
//! ```text
//!  close()                     from here on no walreceiver connects, takes a byte or confirms one
//!  open(host, port, timeline)  a walreceiver connects there while a primary on that timeline answers
//! ```
//!
//! `primary_conninfo` says how to connect (user, password, TLS), never where.
//!
//! The timeline matters because a walreceiver first reports how far its server has replayed. If
//! that is not WAL of the primary, the primary would count it as the confirmation of a commit.
//!
//! A server whose WAL has diverged from that of its primary takes none of it. Postgres does not
//! prevent that (seen with 17): a standby that is restarted after it has fetched the primary's
//! history file replays its own WAL beyond the fork, requests the primary's WAL from there, and
//! confirms it, although it can never replay it. It requests WAL from the beginning of a segment,
//! so Postgres finds nothing wrong.
//!
//! This file has the state in shared memory. The worker writes it, from any of its threads;
//! [`receiver`] has the part that runs in a walreceiver. The intake is closed at first, and after
//! Postgres has restarted its processes.
//!
//! A receiver has a position on disk and in shared memory before it confirms it, and all accesses
//! are sequentially consistent. After closing the intake, the flush position therefore includes
//! everything that was or will be confirmed.

mod receiver;

pub use receiver::install;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrx::pg_sys;

use crate::shmem::words::{INTAKE, INTAKE_HOST, INTAKE_HOST_BYTES};

// The words of the page.
/// Counts openings and closings; odd means open. A receiver keeps the generation under which it
/// connected.
const GENERATION: usize = 0;
/// Counts the receivers that found the intake closed.
const REFUSALS: usize = 1;
/// The receiver that was admitted last.
const ADMITTED_PID: usize = 2;
const ADMITTED_GENERATION: usize = 3;
const PORT: usize = 4;
const HOST_LENGTH: usize = 5;
const TIMELINE: usize = 6;

/// Serializes the worker's threads that change the page.
static WRITER: Mutex<()> = Mutex::new(());

unsafe extern "C" {
    // Sets a latch, which any thread may do. pgrx's binding is restricted to the main thread.
    fn WakeupRecovery();
}

fn word(n: usize) -> &'static AtomicU64 {
    &INTAKE.get()[n]
}

const fn is_open(generation: u64) -> bool {
    generation % 2 == 1
}

/// Closes the intake. When this returns, no more WAL is taken or confirmed.
pub fn close() {
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    shut();
    stop_receiver();
}

/// Opens the intake for WAL of `timeline` from that server. Has no effect if it is open for that
/// already.
pub fn open(host: &str, port: u16, timeline: u32) {
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    if open_timeline() == Some(timeline) && target().is_some_and(|(_, h, p)| h == host && p == port)
    {
        return stop_receiver();
    }
    let generation = shut();
    if host.len() > INTAKE_HOST_BYTES {
        return; // longer than any address of a member
    }
    word(PORT).store(u64::from(port), Ordering::SeqCst);
    word(TIMELINE).store(u64::from(timeline), Ordering::SeqCst);
    word(HOST_LENGTH).store(host.len() as u64, Ordering::SeqCst);
    for (word, chunk) in INTAKE.get()[INTAKE_HOST..].iter().zip(host.as_bytes().chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(padded), Ordering::SeqCst);
    }
    word(GENERATION).store(generation + 1, Ordering::SeqCst);
    stop_receiver();
    // SAFETY: sets a latch in shared memory, which is harmless if no process waits for it.
    unsafe { WakeupRecovery() }
}

/// Returns the generation under which it is now closed.
fn shut() -> u64 {
    let before = word(GENERATION).load(Ordering::SeqCst);
    let generation = before + u64::from(is_open(before));
    word(GENERATION).store(generation, Ordering::SeqCst);
    generation
}

/// Whether the intake is closed.
pub fn is_closed() -> bool {
    !is_open(word(GENERATION).load(Ordering::SeqCst))
}

/// The timeline for which the intake is open.
pub fn open_timeline() -> Option<u32> {
    (!is_closed()).then(|| u32::try_from(word(TIMELINE).load(Ordering::SeqCst)).ok()).flatten()
}

/// How many walreceivers have found the intake closed since the server's processes were started.
/// Postgres starts one when it has replayed all local WAL.
pub fn refusals() -> u64 {
    word(REFUSALS).load(Ordering::SeqCst)
}

/// Whether an admitted walreceiver is running. One that was not admitted has read nothing and ends
/// by itself.
pub fn has_receiver() -> bool {
    admitted().is_some()
}

/// Terminates a walreceiver that was admitted for an earlier target. It may be waiting for its
/// connection or for data.
pub fn stop_receiver() {
    let Some((pid, generation)) = admitted() else { return };
    // Without a generation it is about to read the current target.
    if generation != 0 && generation != word(GENERATION).load(Ordering::SeqCst) {
        // The process may have ended already.
        let _ = kill(pid, Signal::SIGTERM);
    }
}

/// The running receiver that was admitted, and its generation.
fn admitted() -> Option<(Pid, u64)> {
    let admitted = word(ADMITTED_PID).load(Ordering::SeqCst);
    let generation = word(ADMITTED_GENERATION).load(Ordering::SeqCst);
    let pid = i32::try_from(admitted).ok().filter(|pid| *pid != 0 && *pid == receiver_pid())?;
    Some((Pid::from_raw(pid), generation))
}

/// The process id of the server's walreceiver, or 0. A walreceiver removes it after it has flushed
/// its WAL.
fn receiver_pid() -> i32 {
    // SAFETY: shared memory that exists before the worker starts; one word, which Postgres writes
    // atomically.
    unsafe { (&raw const (*pg_sys::WalRcv).pid).read_volatile() }
}

/// The generation, and the host and port from which WAL is taken.
fn target() -> Option<(u64, String, u16)> {
    let generation = word(GENERATION).load(Ordering::SeqCst);
    if !is_open(generation) {
        return None;
    }
    let length = usize::try_from(word(HOST_LENGTH).load(Ordering::SeqCst))
        .ok()
        .filter(|l| *l <= INTAKE_HOST_BYTES)?;
    let port = u16::try_from(word(PORT).load(Ordering::SeqCst)).ok()?;
    let words = &INTAKE.get()[INTAKE_HOST..];
    let mut host: Vec<u8> = words[..length.div_ceil(8)]
        .iter()
        .flat_map(|w| w.load(Ordering::SeqCst).to_le_bytes())
        .collect();
    host.truncate(length);
    let same = word(GENERATION).load(Ordering::SeqCst) == generation;
    Some((generation, String::from_utf8(host).ok()?, port)).filter(|_| same)
}
