//! Raises an error with a SQLSTATE of our own. pgrx's errors know Postgres' codes only and turn
//! every other one into XX000, also on the way through its guards; so this calls `ereport`'s
//! functions themselves, from a frame that owns nothing (`functions.rs`).

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

const AS_IT_IS: &CStr = c"%s";

/// An error, ready to be raised: its texts live in Postgres' memory, so that nothing is lost when
/// the stack is jumped over.
#[derive(Clone, Copy)]
pub struct Raised {
    code: c_int,
    message: *const c_char,
    hint: *const c_char,
}

impl Raised {
    /// Copies the texts into the current memory context.
    pub fn new(sqlstate: SqlState, message: &str, hint: &str) -> Self {
        let context = PgMemoryContexts::CurrentMemoryContext;
        // SAFETY: the current context is always there; it lives at least until the error is
        // handled.
        let copy = |text: &str| unsafe { context.pstrdup(text) }.cast_const();
        Self { code: encode(sqlstate), message: copy(message), hint: copy(hint) }
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
                errmsg(AS_IT_IS.as_ptr(), self.message);
                errhint(AS_IT_IS.as_ptr(), self.hint);
                errfinish(c"pgraft".as_ptr(), 0, c"pgraft".as_ptr());
            }
        }
        unreachable!("ERROR does not return")
    }
}

/// Postgres' `MAKE_SQLSTATE`: six bits a character.
fn encode(sqlstate: SqlState) -> c_int {
    sqlstate
        .as_str()
        .bytes()
        .enumerate()
        .map(|(n, byte)| c_int::from(byte.wrapping_sub(b'0') & 0x3F) << (6 * n))
        .sum()
}

/// Raises one of Postgres' own errors, with a hint, by pgrx's way: it unwinds.
pub fn error(code: PgSqlErrorCode, message: &str, hint: &str) -> ! {
    ErrorReport::new(code, message.to_owned(), "pgraft")
        .set_hint(hint.to_owned())
        .report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return")
}
