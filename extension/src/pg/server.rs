//! What the failover protocol needs to know of this server and to do to it, without SQL: it works
//! before, in and after recovery.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_core::failover::History;
use pgrx::pg_sys;

use crate::shmem::words::{AtomicWords, RUN};

/// The line of `postmaster.pid` that says how far the server has come.
const STATUS_LINE: usize = 7;

/// The page as it is when the server's processes start, and start again after a crash of one: when
/// that was.
pub fn first_page() -> AtomicWords<1> {
    let page = AtomicWords::default();
    // SAFETY: asks the clock.
    page[0].store(unsafe { pg_sys::GetCurrentTimestamp() }.cast_unsigned(), Ordering::Relaxed);
    page
}

/// Which run of the server this is: when its shared memory was made. A postmaster that outlives the
/// crash of a process makes another one when all processes of the old one are dead, so that the
/// lease of the old run can be released.
pub fn run() -> i64 {
    RUN.get()[0].load(Ordering::Relaxed).cast_signed()
}

/// Whether it is in recovery. A server that has left it never goes back.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory that every process with shared-memory access may read.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether any WAL was received since the server's processes were started.
pub fn has_received() -> bool {
    // SAFETY: as above; null pointers mean "not wanted".
    unsafe { pg_sys::GetWalRcvFlushRecPtr(std::ptr::null_mut(), std::ptr::null_mut()) != 0 }
}

/// Whether the server takes connections: it has recovered to a point where its files fit each
/// other.
pub fn is_consistent(data: &Path) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(STATUS_LINE).is_some_and(|status| matches!(status.trim(), "ready" | "standby"))
}

/// `synchronous_standby_names` as this process has read it.
pub fn sync_names() -> String {
    // SAFETY: a setting of this process, null or zero-terminated; read on the main thread, which
    // alone changes it.
    let names = unsafe { pg_sys::SyncRepStandbyNames.as_ref() };
    // SAFETY: as above.
    names.map_or_else(String::new, |first| {
        unsafe { std::ffi::CStr::from_ptr(first) }.to_string_lossy().into_owned()
    })
}

/// Signals the postmaster.
pub fn signal(signal: Signal) {
    // SAFETY: set once by the postmaster before any process starts.
    let postmaster = unsafe { pg_sys::PostmasterPid };
    // One that is gone takes this process along anyway.
    let _ = kill(Pid::from_raw(postmaster), signal);
}

/// Has a standby become a primary on that timeline and no other. Postgres takes the first number
/// behind its own that has no history file: empty files stand in the way of the numbers between,
/// and stay, since followers fetch every number in between.
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

/// The highest timeline whose history stands in `pg_wal`: that of this server, or of a promotion
/// that was begun. Placeholders don't count.
pub fn newest_timeline(data: &Path) -> u32 {
    let files = fs::read_dir(data.join("pg_wal")).into_iter().flatten().filter_map(Result::ok);
    let number = |file: fs::DirEntry| {
        let name = file.file_name();
        let number = u32::from_str_radix(name.to_str()?.strip_suffix(".history")?, 16).ok()?;
        (file.metadata().ok()?.len() > 0).then_some(number)
    };
    files.filter_map(number).max().unwrap_or(1)
}

/// What a primary's WAL continues.
pub fn history(data: &Path, timeline: u32) -> History {
    History::parse(timeline, &fs::read_to_string(history_file(data, timeline)).unwrap_or_default())
}

fn history_file(data: &Path, timeline: u32) -> std::path::PathBuf {
    data.join("pg_wal").join(format!("{timeline:08X}.history"))
}
