//! The calls into Postgres that need `unsafe`, one file for each concern.

#![allow(unsafe_code, reason = "calls functions of Postgres")]

pub mod cancel;
pub mod command;
pub mod crash;
pub mod ereport;
mod functions;
pub mod intake;
pub mod names;
pub mod server;
pub mod slots;
pub mod statement;
pub mod twophase;
pub mod wal;
pub mod who;

use std::ffi::CStr;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, SigmaskHow};
use pgrx::pg_sys;

/// Whether the postmaster is loading `shared_preload_libraries`.
pub fn is_preloading() -> bool {
    // SAFETY: a plain read of a variable that only this thread writes.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether this is a server: neither single-user mode nor `postgres -C`.
pub fn is_postmaster() -> bool {
    // SAFETY: a plain read of a variable that was set when the process started.
    unsafe { pg_sys::IsPostmasterEnvironment }
}

/// The server's port.
pub fn port() -> i32 {
    // SAFETY: set once by the postmaster before any worker starts.
    unsafe { pg_sys::PostPortNumber }
}

/// The server's data directory.
pub fn data_directory() -> PathBuf {
    // SAFETY: set once by the postmaster, zero-terminated, never freed.
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(path.to_string_lossy().into_owned())
}

/// Reloads the configuration files, as every process does on SIGHUP.
pub fn reload() {
    // SAFETY: on the main thread, outside of a transaction.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
}

/// Waits for this process's latch, the end of the postmaster, `fd`, or the timeout.
pub fn wait(timeout: std::time::Duration, fd: std::os::fd::RawFd) -> WakeReason {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_POSTMASTER_DEATH
        | pg_sys::WL_SOCKET_READABLE;
    let ms = std::ffi::c_long::try_from(timeout.as_millis()).unwrap_or(std::ffi::c_long::MAX);
    // SAFETY: on the main thread, with this process's own latch and a descriptor that outlives the
    // call.
    let woken = unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events.cast_signed(),
            fd,
            ms,
            pg_sys::PG_WAIT_EXTENSION,
        )
    };
    // SAFETY: as above.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
    if crash::was_requested() {
        WakeReason::Crashed
    } else if woken.cast_unsigned() & pg_sys::WL_POSTMASTER_DEATH != 0 {
        WakeReason::PostmasterDied
    } else if pgrx::bgworkers::BackgroundWorker::sigterm_received() {
        WakeReason::ShutdownRequested
    } else {
        WakeReason::Continue
    }
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// The timeout, a signal, or `fd`.
    Continue,
    /// The postmaster has requested this process to stop.
    ShutdownRequested,
    /// The postmaster has died.
    PostmasterDied,
    /// The postmaster ends all processes immediately: one has crashed, or it was told to.
    Crashed,
}

/// Ends this process. With exit code 1 the postmaster restarts the worker.
#[allow(
    unreachable_code,
    reason = "in Postgres 18 the bindings do not show that it does not return"
)]
pub fn exit(code: i32) -> ! {
    // SAFETY: on the main thread; runs Postgres' exit callbacks and does not return.
    unsafe { pg_sys::proc_exit(code) };
    std::process::abort()
}

/// Runs `make` with all signals blocked. The threads that it starts inherit the mask: a signal must
/// be handled on the main thread, by Postgres' handler.
pub fn with_signals_blocked<T>(make: impl FnOnce() -> T) -> nix::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let made = make();
    before.thread_set_mask()?;
    Ok(made)
}
