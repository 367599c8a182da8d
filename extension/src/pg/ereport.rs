//! Errors with a SQLSTATE of pgraft. pgrx supports Postgres' codes only and turns every other one
//! into XX000, also in its guards. This module therefore calls the functions behind `ereport`
//! itself, from a frame that owns nothing (`functions.rs`).

use std::ffi::{CStr, c_char, c_int};

use pgraft_core::SqlState;
use pgrx::PgMemoryContexts;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(code: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

const PLAIN: &CStr = c"%s";

/// An error, ready to be raised. Its texts are in Postgres' memory, which survives the jump to the
/// error handler.
#[derive(Clone, Copy)]
pub struct Raised {
    code: c_int,
    message: *const c_char,
    hint: *const c_char,
}

impl Raised {
    /// Copies the texts into the current memory context. An empty hint is left out.
    pub fn new(sqlstate: SqlState, message: &str, hint: &str) -> Self {
        let context = PgMemoryContexts::CurrentMemoryContext;
        // SAFETY: there always is a current context; it lives at least until the error is handled.
        let copy = |text: &str| unsafe { context.pstrdup(text) }.cast_const();
        let hint = if hint.is_empty() { std::ptr::null() } else { copy(hint) };
        Self { code: encode(sqlstate), message: copy(message), hint }
    }

    /// Raises it.
    ///
    /// # Safety
    /// Does not return: it jumps to Postgres' error handler. No frame between that and this call
    /// may own anything.
    pub unsafe fn raise(self) -> ! {
        // SAFETY: ereport's own sequence; the texts are zero-terminated and outlive it.
        unsafe {
            if errstart(PgLogLevel::ERROR as c_int, std::ptr::null()) {
                errcode(self.code);
                errmsg(PLAIN.as_ptr(), self.message);
                if !self.hint.is_null() {
                    errhint(PLAIN.as_ptr(), self.hint);
                }
                errfinish(c"pgraft".as_ptr(), 0, c"pgraft".as_ptr());
            }
        }
        unreachable!("ERROR does not return")
    }
}

/// Postgres' `MAKE_SQLSTATE`: six bits per character.
fn encode(sqlstate: SqlState) -> c_int {
    sqlstate
        .as_str()
        .bytes()
        .enumerate()
        .map(|(n, byte)| c_int::from(byte.wrapping_sub(b'0') & 0x3F) << (6 * n))
        .sum()
}

/// Raises an error with a SQLSTATE of Postgres through pgrx. It unwinds.
pub fn error(code: PgSqlErrorCode, message: &str, hint: &str) -> ! {
    ErrorReport::new(code, message.to_owned(), "pgraft")
        .set_hint(hint.to_owned())
        .report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return")
}
