//! SIGQUIT: the postmaster ends all processes at once, since one has crashed or since it was told
//! to. Postgres' own handler ends the process in the same moment; ours wakes the main thread first,
//! so that the lease is released and not waited for. A second one ends it like Postgres'.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static TOLD: AtomicBool = AtomicBool::new(false);
static WAKES: AtomicI32 = AtomicI32::new(-1);

/// What Postgres' processes end with in such a case.
const CRASHED: c_int = 2;

/// From now on SIGQUIT makes [`is_told`] true and `fd` readable at its other end.
pub fn listen(fd: RawFd) -> nix::Result<()> {
    WAKES.store(fd, Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(told), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler calls nothing but functions that are safe in one.
    unsafe { sigaction(Signal::SIGQUIT, &action) }.map(drop)
}

/// Whether SIGQUIT has come.
pub fn is_told() -> bool {
    TOLD.load(Ordering::SeqCst)
}

/// Ends this process without Postgres' exit callbacks: shared memory may be damaged.
pub fn exit_at_once() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(CRASHED) }
}

extern "C" fn told(_: c_int) {
    if TOLD.swap(true, Ordering::SeqCst) {
        exit_at_once();
    }
    let errno = Errno::last_raw();
    // SAFETY: one byte of static memory; the descriptor does not block, and a full pipe wakes as
    // well.
    unsafe { libc::write(WAKES.load(Ordering::SeqCst), b"!".as_ptr().cast(), 1) };
    Errno::set_raw(errno);
}
