//! The mark of a session that was opened behind a closed gate: read-only, so that drivers that look
//! for a primary (`target_session_attrs=read-write`) move on. The mark goes when the gate has
//! opened, with the next statement.

use std::sync::atomic::{AtomicBool, Ordering};

use pgraft_core::fence::{Act, Who};
use pgrx::pg_sys;

use super::names;
use super::who::{backend_type, who};
use crate::fence::{self, gate};

/// Of this process.
static BEGUN: AtomicBool = AtomicBool::new(false);
static MARKED: AtomicBool = AtomicBool::new(false);
/// Whether a statement of the present transaction was seen while the session was marked.
static MID_TRANSACTION: AtomicBool = AtomicBool::new(false);

const READ_ONLY: &std::ffi::CStr = c"default_transaction_read_only";

/// Whether its first transaction has come to its end.
pub fn has_begun() -> bool {
    BEGUN.load(Ordering::Relaxed)
}

/// Whether it has no mark: nothing is to be done before its statements.
pub fn is_ordinary() -> bool {
    !MARKED.load(Ordering::Relaxed)
}

/// At the end of a process' first transaction, which is that of its login: all settings are known
/// then, and none was told to the client.
pub fn begin() {
    if BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    match backend_type() {
        pg_sys::BackendType::B_WAL_SENDER => names::register_walsender(),
        pg_sys::BackendType::B_BACKEND
            if !gate::is_open() && fence::check(Act::Write).is_some() && who() == Who::Client =>
        {
            set_read_only(Some(c"on"));
            MARKED.store(true, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// Before a statement: takes the mark off when the gate has opened, also for a transaction that
/// begins with this statement.
pub fn statement_begins() {
    if is_ordinary() {
        return;
    }
    let mid_transaction = MID_TRANSACTION.swap(true, Ordering::Relaxed);
    if !gate::is_open() {
        return;
    }
    set_read_only(None);
    if !mid_transaction {
        // SAFETY: as Postgres does when a transaction begins; words of this process.
        unsafe { pg_sys::XactReadOnly = pg_sys::DefaultXactReadOnly };
    }
}

/// After a transaction.
pub fn transaction_ended(committed: bool) {
    MID_TRANSACTION.store(false, Ordering::Relaxed);
    // A transaction that was rolled back has put the mark on again.
    // SAFETY: a word of this process.
    if committed && MARKED.load(Ordering::Relaxed) && !unsafe { pg_sys::DefaultXactReadOnly } {
        MARKED.store(false, Ordering::Relaxed);
    }
}

/// The user sets it: from here on it is as the user says.
pub fn user_decides() {
    MARKED.store(false, Ordering::Relaxed);
}

/// `SET`, or `RESET`, for this session.
fn set_read_only(value: Option<&std::ffi::CStr>) {
    use pg_sys::{GucAction::GUC_ACTION_SET, GucContext::PGC_USERSET, GucSource::PGC_S_SESSION};
    let value = value.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: on the main thread; zero-terminated names that outlive the call.
    unsafe {
        pg_sys::set_config_option(
            READ_ONLY.as_ptr(),
            value,
            PGC_USERSET,
            PGC_S_SESSION,
            GUC_ACTION_SET,
            true,
            0,
            false,
        )
    };
}
