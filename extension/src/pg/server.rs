//! Observes and controls this server for the failover protocol. Works without SQL, before, during
//! and after recovery.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_core::failover::History;
use pgrx::{pg_guard, pg_shmem_init, pg_sys};

use crate::shmem::words::{AtomicWords, RUN};

/// The line of `postmaster.pid` with the status of the server.
const STATUS_LINE: usize = 7;

/// Requests the page from the postmaster.
pub fn request() {
    pg_shmem_init!(RUN = first_page());
}

/// The initial page: the time at which the server's processes were started, or restarted after a
/// crash.
fn first_page() -> AtomicWords<1> {
    let page = AtomicWords::default();
    // SAFETY: reads the clock.
    page[0].store(unsafe { pg_sys::GetCurrentTimestamp() }.cast_unsigned(), Ordering::Relaxed);
    page
}

/// Identifies the run of the server: the time at which its shared memory was created. After the
/// crash of a process, the postmaster creates it again when all processes have ended, so that the
/// lease of the previous run can be released.
pub fn run() -> i64 {
    RUN.get()[0].load(Ordering::Relaxed).cast_signed()
}

/// Whether the server is in recovery. It never returns to it.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory that every process with shared-memory access may read.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether the server has received WAL since its processes were started.
pub fn has_received() -> bool {
    // SAFETY: as above; a null pointer skips the result.
    unsafe { pg_sys::GetWalRcvFlushRecPtr(std::ptr::null_mut(), std::ptr::null_mut()) != 0 }
}

/// Whether recovery has reached a consistent state, so that the server accepts connections.
pub fn is_consistent(data: &Path) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(STATUS_LINE).is_some_and(|status| matches!(status.trim(), "ready" | "standby"))
}

/// `synchronous_standby_names` as loaded by this process.
pub fn sync_names() -> String {
    // SAFETY: a setting of this process, null or zero-terminated; only the main thread, which reads
    // it here, changes it.
    let names = unsafe { pg_sys::SyncRepStandbyNames.as_ref() };
    // SAFETY: as above.
    names.map_or_else(String::new, |first| {
        unsafe { std::ffi::CStr::from_ptr(first) }.to_string_lossy().into_owned()
    })
}

/// Sends a signal to the postmaster.
pub fn signal(signal: Signal) {
    // SAFETY: set once by the postmaster before any process starts.
    let postmaster = unsafe { pg_sys::PostmasterPid };
    // If the postmaster has died, this process ends anyway.
    let _ = kill(Pid::from_raw(postmaster), signal);
}

/// Promotes this standby to timeline `to`. Postgres chooses the first timeline without a history
/// file, so empty files are created for those in between. They stay, because followers fetch the
/// history of every timeline.
pub fn promote(data: &Path, from: u32, to: u32) -> io::Result<()> {
    for between in from + 1..to {
        let path = history_file(data, between);
        if !path.exists() {
            fs::write(path, b"")?;
        }
    }
    fs::write(data.join("promote"), b"")?;
    signal(Signal::SIGUSR1);
    Ok(())
}

/// The highest timeline with a history in `pg_wal`: that of this server, or of a promotion that has
/// begun. Empty files do not count.
pub fn newest_timeline(data: &Path) -> u32 {
    let files = fs::read_dir(data.join("pg_wal")).into_iter().flatten().filter_map(Result::ok);
    let number = |file: fs::DirEntry| {
        let name = file.file_name();
        let number = u32::from_str_radix(name.to_str()?.strip_suffix(".history")?, 16).ok()?;
        (file.metadata().ok()?.len() > 0).then_some(number)
    };
    files.filter_map(number).max().unwrap_or(1)
}

/// The history of a timeline.
pub fn history(data: &Path, timeline: u32) -> History {
    History::parse(timeline, &fs::read_to_string(history_file(data, timeline)).unwrap_or_default())
}

fn history_file(data: &Path, timeline: u32) -> std::path::PathBuf {
    data.join("pg_wal").join(format!("{timeline:08X}.history"))
}
