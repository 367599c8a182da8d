//! SIGQUIT: the postmaster ends all processes immediately, because one has crashed or because it was
//! told to. Postgres' own handler ends the process at once; ours wakes the main thread first, so
//! that it can release the lease. A second SIGQUIT ends the process at once.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);

/// The exit code of Postgres' processes in this case.
const CRASHED: c_int = 2;

/// Installs the handler: SIGQUIT makes [`was_requested`] true and the other end of `fd` readable.
pub fn listen(fd: RawFd) -> nix::Result<()> {
    WAKE_FD.store(fd, Ordering::SeqCst);
    let action =
        SigAction::new(SigHandler::Handler(on_sigquit), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler calls async-signal-safe functions only.
    unsafe { sigaction(Signal::SIGQUIT, &action) }.map(drop)
}

/// Whether SIGQUIT was received.
pub fn was_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Ends this process without Postgres' exit callbacks, because shared memory may be damaged.
pub fn exit_at_once() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(CRASHED) }
}

extern "C" fn on_sigquit(_: c_int) {
    if REQUESTED.swap(true, Ordering::SeqCst) {
        exit_at_once();
    }
    let errno = Errno::last_raw();
    // SAFETY: one byte of static memory. The descriptor is non-blocking; a full pipe is readable
    // anyway.
    unsafe { libc::write(WAKE_FD.load(Ordering::SeqCst), b"!".as_ptr().cast(), 1) };
    Errno::set_raw(errno);
}
