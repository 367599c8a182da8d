//! Sessions that were opened while the gate was closed are read-only, so that drivers that look for
//! a primary (`target_session_attrs=read-write`) try the next server. The first statement after the
//! gate has opened makes the session writable again.

use std::sync::atomic::{AtomicBool, Ordering};

use pgraft_core::fence::{Act, Who};
use pgrx::pg_sys;

use crate::fence;
use crate::pg::names;
use crate::pg::who::{backend_type, who};
use crate::shmem::gate;

/// Whether the first transaction of this process has ended.
static BEGUN: AtomicBool = AtomicBool::new(false);
/// Whether this session was made read-only.
static READ_ONLY: AtomicBool = AtomicBool::new(false);
/// Whether the current transaction has had a statement while the session was read-only.
static MID_TRANSACTION: AtomicBool = AtomicBool::new(false);

const SETTING: &std::ffi::CStr = c"default_transaction_read_only";

/// Whether the first transaction of this process has ended.
pub fn has_begun() -> bool {
    BEGUN.load(Ordering::Relaxed)
}

/// Whether the session was not made read-only, so that its statements need no preparation.
pub fn is_ordinary() -> bool {
    !READ_ONLY.load(Ordering::Relaxed)
}

/// Called at the end of a process' first transaction, the login. All settings are known by then, and
/// none was reported to the client.
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
            READ_ONLY.store(true, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// Called before a statement. If the gate has opened, makes the session writable, also for a
/// transaction that begins with this statement.
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
        // SAFETY: as Postgres does when a transaction begins; variables of this process.
        unsafe { pg_sys::XactReadOnly = pg_sys::DefaultXactReadOnly };
    }
}

/// Called after a transaction.
pub fn transaction_ended(committed: bool) {
    MID_TRANSACTION.store(false, Ordering::Relaxed);
    // A rollback restores the setting.
    // SAFETY: a variable of this process.
    if committed && READ_ONLY.load(Ordering::Relaxed) && !unsafe { pg_sys::DefaultXactReadOnly } {
        READ_ONLY.store(false, Ordering::Relaxed);
    }
}

/// The user has set `default_transaction_read_only`, which then stays as it is.
pub fn user_decides() {
    READ_ONLY.store(false, Ordering::Relaxed);
}

/// Sets the value for this session, or resets it.
fn set_read_only(value: Option<&std::ffi::CStr>) {
    use pg_sys::{GucAction::GUC_ACTION_SET, GucContext::PGC_USERSET, GucSource::PGC_S_SESSION};
    let value = value.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: on the main thread; zero-terminated names that outlive the call.
    unsafe {
        pg_sys::set_config_option(
            SETTING.as_ptr(),
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
