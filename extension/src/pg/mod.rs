//! The calls into Postgres that need `unsafe`: one file a concern, one sound step a block.

#![allow(unsafe_code, reason = "this is where Postgres' own functions are called")]

mod cancel;
pub mod command;
pub mod crash;
pub mod ereport;
mod functions;
pub mod hooks;
pub mod intake;
pub mod names;
pub mod server;
pub mod session;
pub mod slots;
mod statement;
pub mod twophase;
pub mod wal;
pub mod who;

use std::ffi::CStr;
use std::path::PathBuf;

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use pgrx::pg_sys;

/// Whether the postmaster is loading `shared_preload_libraries`.
pub fn is_preloading() -> bool {
    // SAFETY: a plain read of a variable that only this thread writes.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether this is a server, and neither a single user's nor one that only shows its settings.
pub fn is_postmaster() -> bool {
    // SAFETY: a plain read of a variable that was set when the process started.
    unsafe { pg_sys::IsPostmasterEnvironment }
}

/// The server's own port.
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

/// Reads the configuration files again, as every process does on SIGHUP.
pub fn reload() {
    // SAFETY: on the main thread, outside of a transaction.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
}

/// Waits for this process's latch, the end of the postmaster, `fd`, or so long.
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
    if crash::is_told() {
        WakeReason::Crashed
    } else if woken.cast_unsigned() & pg_sys::WL_POSTMASTER_DEATH != 0 {
        WakeReason::PostmasterDied
    } else if pgrx::bgworkers::BackgroundWorker::sigterm_received() {
        WakeReason::ShutdownRequested
    } else {
        WakeReason::GoOn
    }
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// Time, a signal, or news.
    GoOn,
    /// This process is told to end.
    ShutdownRequested,
    /// The postmaster is dead.
    PostmasterDied,
    /// The postmaster ends all processes at once: one has crashed, or somebody asked for that.
    Crashed,
}

/// Ends this process. 1 has the postmaster start the worker again.
#[allow(
    unreachable_code,
    reason = "Postgres 18's headers say that it does not return in a way that the bindings do not show"
)]
pub fn exit(code: i32) -> ! {
    // SAFETY: on the main thread; runs Postgres' exit callbacks and does not return.
    unsafe { pg_sys::proc_exit(code) };
    std::process::abort()
}

/// Milliseconds of a clock that never goes back, goes on while the host sleeps, and is the same for
/// every process of this host.
pub fn monotonic_ms() -> i64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.num_milliseconds())
}

/// The same as a number without a sign: what deadlines in shared memory are compared with.
pub fn boot_ms() -> u64 {
    monotonic_ms().unsigned_abs()
}

/// Runs `make` with all signals blocked, so that the threads that it starts inherit that: signals
/// are the main thread's, and a thread that took one would run Postgres' handler.
pub fn with_signals_blocked<T>(make: impl FnOnce() -> T) -> nix::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let made = make();
    before.thread_set_mask()?;
    Ok(made)
}
