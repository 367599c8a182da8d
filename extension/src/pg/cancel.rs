//! Delays a cancellation while a commit waits for its standbys.
//!
//! If the statement is cancelled, Postgres ends that wait and reports the transaction as committed,
//! although no standby has confirmed it. Between the last check of a transaction and its end, a
//! SIGINT (the client's cancel request, `pg_cancel_backend`, `statement_timeout`, `lock_timeout`) is
//! therefore only recorded. It is dropped after the commit, unless the statement continues (a
//! procedure, `CREATE INDEX CONCURRENTLY`). A terminated session gets no response at all.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use pgrx::pg_sys;

/// Whether cancellations are delayed. Written by the main thread, read by the signal handler, which
/// runs on it.
static HOLDING: AtomicBool = AtomicBool::new(false);
/// Whether a cancellation was delayed.
static HELD_BACK: AtomicBool = AtomicBool::new(false);
/// Whether a statement is running that may commit more than once.
static IN_STATEMENT: AtomicBool = AtomicBool::new(false);
/// Postgres' own handler of this process, if there is one.
static POSTGRES: OnceLock<Option<extern "C" fn(c_int)>> = OnceLock::new();

unsafe extern "C-unwind" {
    fn ProcessInterrupts();
}

extern "C" fn on_sigint(signal: c_int) {
    if HOLDING.load(Ordering::SeqCst) {
        HELD_BACK.store(true, Ordering::SeqCst);
    } else if let Some(Some(postgres)) = POSTGRES.get() {
        postgres(signal);
    }
}

/// Installs the handler once per process. Without a handler of Postgres it does nothing.
fn install() {
    POSTGRES.get_or_init(|| {
        let sigint = SigSet::from(Signal::SIGINT);
        // SIGINT stays blocked until the handler knows Postgres' own, or it would be lost.
        let before = sigint.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok()?;
        let postgres = replace();
        let _ = before.thread_set_mask();
        postgres
    });
}

fn replace() -> Option<extern "C" fn(c_int)> {
    let ours = |flags, mask| SigAction::new(SigHandler::Handler(on_sigint), flags, mask);
    // SAFETY: the handler touches atomics and calls the handler of Postgres.
    let old =
        unsafe { sigaction(Signal::SIGINT, &ours(SaFlags::SA_RESTART, SigSet::empty())) }.ok()?;
    let (action, postgres) = match old.handler() {
        SigHandler::Handler(postgres) => (ours(old.flags(), old.mask()), Some(postgres)),
        _ => (old, None),
    };
    // SAFETY: as above, or the previous action.
    unsafe { sigaction(Signal::SIGINT, &action) }.ok()?;
    postgres
}

/// Delays cancellations from here on. One that has arrived before ends the transaction here.
///
/// # Safety
/// May jump to Postgres' error handler: no frame between it and here may own anything.
pub unsafe fn hold() {
    install();
    HELD_BACK.store(false, Ordering::SeqCst);
    HOLDING.store(true, Ordering::SeqCst);
    // SAFETY: CHECK_FOR_INTERRUPTS(), where Postgres checks, too.
    unsafe {
        if pg_sys::InterruptPending != 0 {
            ProcessInterrupts();
        }
    }
}

/// The transaction has ended.
pub fn release(committed: bool) {
    let goes_on = if committed {
        IN_STATEMENT.load(Ordering::SeqCst)
    } else {
        IN_STATEMENT.swap(false, Ordering::SeqCst)
    };
    if HOLDING.swap(false, Ordering::SeqCst) && HELD_BACK.swap(false, Ordering::SeqCst) && goes_on {
        on_sigint(Signal::SIGINT as c_int);
    }
}

/// A client's statement that may commit begins or ends.
pub fn in_statement(is: bool) {
    IN_STATEMENT.store(is, Ordering::SeqCst);
}
