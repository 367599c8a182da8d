//! Holds a cancellation back while a commit waits for its standbys.
//!
//! Postgres ends that wait when the statement is cancelled, and then tells the client that it is
//! committed: a promise that nobody has confirmed. So from the last look at the transaction to its
//! end a SIGINT (the client's cancel, `pg_cancel_backend`, `statement_timeout`, `lock_timeout`) is
//! remembered and nothing else. What is committed by then is not reported as cancelled: the signal
//! is forgotten, unless the statement goes on behind that commit (a procedure, `CREATE INDEX
//! CONCURRENTLY`). A session that is terminated gets no answer at all.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use pgrx::pg_sys;

/// Of this process; written by its main thread, read by its signal handler, which runs on it.
static HOLDING: AtomicBool = AtomicBool::new(false);
static HELD_BACK: AtomicBool = AtomicBool::new(false);
/// Whether a statement is in the middle of its work: a commit then is not its last.
static GOES_ON: AtomicBool = AtomicBool::new(false);
/// Postgres' own handler of this process; None where it had none.
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

/// Puts our handler before Postgres' own, once in a process. Where Postgres has none there is
/// nothing to hold back.
fn install() {
    POSTGRES.get_or_init(|| {
        let sigint = SigSet::from(Signal::SIGINT);
        // Meanwhile it waits: a handler that does not know the other one yet would lose it.
        let before = sigint.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok()?;
        let postgres = replace();
        let _ = before.thread_set_mask();
        postgres
    });
}

fn replace() -> Option<extern "C" fn(c_int)> {
    let ours = |flags, mask| SigAction::new(SigHandler::Handler(on_sigint), flags, mask);
    // SAFETY: the handler touches atomics, and calls what Postgres has put in its place.
    let old =
        unsafe { sigaction(Signal::SIGINT, &ours(SaFlags::SA_RESTART, SigSet::empty())) }.ok()?;
    let (action, postgres) = match old.handler() {
        SigHandler::Handler(postgres) => (ours(old.flags(), old.mask()), Some(postgres)),
        _ => (old, None),
    };
    // SAFETY: as above, or what was there before.
    unsafe { sigaction(Signal::SIGINT, &action) }.ok()?;
    postgres
}

/// From here on a cancellation waits. One that has come before ends the transaction here.
///
/// # Safety
/// May jump to Postgres' error handler: no frame between it and here may own anything.
pub unsafe fn hold() {
    install();
    HELD_BACK.store(false, Ordering::SeqCst);
    HOLDING.store(true, Ordering::SeqCst);
    // SAFETY: CHECK_FOR_INTERRUPTS(), in a place where Postgres has it too.
    unsafe {
        if pg_sys::InterruptPending != 0 {
            ProcessInterrupts();
        }
    }
}

/// The transaction is over, one way or the other.
pub fn release(committed: bool) {
    let goes_on = if committed {
        GOES_ON.load(Ordering::SeqCst)
    } else {
        GOES_ON.swap(false, Ordering::SeqCst)
    };
    if HOLDING.swap(false, Ordering::SeqCst) && HELD_BACK.swap(false, Ordering::SeqCst) && goes_on {
        on_sigint(Signal::SIGINT as c_int);
    }
}

/// A client's statement that can hold commits begins, or ends.
pub fn in_statement(is: bool) {
    GOES_ON.store(is, Ordering::SeqCst);
}
