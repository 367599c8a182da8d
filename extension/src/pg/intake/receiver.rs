//! The part of the WAL intake that runs in a walreceiver.
//!
//! Postgres' walreceiver calls libpq through a table of functions. `install` replaces it by a copy
//! whose functions consult the intake before they connect, receive or send. The worker that copies
//! the primary's logical slots is sent to the same server; other users of the table (logical
//! replication) are not affected. The postmaster forks every walreceiver with the table in place.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgraft_core::SqlState;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

use super::{ADMITTED_GENERATION, ADMITTED_PID, GENERATION, REFUSALS, TIMELINE, target, word};
use crate::pg::ereport::Raised;
use crate::pg::wal;

/// How long a walreceiver waits for the intake to open before it ends. Postgres then starts
/// another.
const WAIT_FOR_OPENING: Duration = Duration::from_secs(10);
/// How often it checks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Postgres' own table.
static POSTGRES: OnceLock<pg_sys::WalReceiverFunctionsType> = OnceLock::new();
/// The generation under which this process, a walreceiver, connected.
static CONNECTED_UNDER: AtomicU64 = AtomicU64::new(0);

/// Replaces the table. Called by the postmaster.
pub fn install() {
    // SAFETY: on the postmaster's only thread; a library of Postgres, which a walreceiver then does
    // not load again.
    unsafe { pg_sys::load_file(c"libpqwalreceiver".as_ptr(), false) };
    // SAFETY: the library has set the pointer to a table that is never freed.
    let Some(original) = (unsafe { pg_sys::WalReceiverFunctions.as_ref() }) else { return };
    let ours = pg_sys::WalReceiverFunctionsType {
        walrcv_connect: Some(connect),
        walrcv_identify_system: Some(identify_system),
        walrcv_startstreaming: Some(start_streaming),
        walrcv_receive: Some(receive),
        walrcv_send: Some(send),
        ..*POSTGRES.get_or_init(|| *original)
    };
    // SAFETY: on the postmaster's only thread; a table that is never freed.
    unsafe { pg_sys::WalReceiverFunctions = Box::leak(Box::new(ours)) };
}

fn is_physical_receiver() -> bool {
    // SAFETY: a word of this process.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_WAL_RECEIVER }
}

/// Whether this is the worker that copies the primary's logical slots. It takes and confirms no
/// WAL.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
fn is_slot_worker() -> bool {
    // SAFETY: a word of this process.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_SLOTSYNC_WORKER }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
const fn is_slot_worker() -> bool {
    false
}

/// Whether a process may connect.
#[derive(Clone, Copy)]
enum IntakeAdmission {
    /// It may, with this connection string.
    To(*const c_char),
    /// It may not, for this reason.
    Refused(*mut c_char),
}

/// Admits a walreceiver, or waits until the intake opens. Without the wait, a server without a
/// primary would start one walreceiver after the other.
fn admit(conninfo: &str) -> IntakeAdmission {
    let mut waited = Duration::ZERO;
    loop {
        if let Some((host, port)) = try_admit() {
            return IntakeAdmission::To(keep(&with_target(conninfo, &host, port)));
        }
        if waited.is_zero() {
            word(REFUSALS).fetch_add(1, Ordering::SeqCst);
        }
        if waited >= WAIT_FOR_OPENING {
            return IntakeAdmission::Refused(keep(
                "pgraft does not accept WAL while the cluster has no primary",
            ));
        }
        pause();
        waited += POLL_INTERVAL;
    }
}

/// Sends the slot worker to the server that WAL is taken from.
fn redirect(conninfo: &str) -> IntakeAdmission {
    match target() {
        Some((_, host, port)) => IntakeAdmission::To(keep(&with_target(conninfo, &host, port))),
        None => IntakeAdmission::Refused(keep("the cluster has no primary")),
    }
}

/// Announces this process before it reads the target: either the thread that closes the intake sees
/// the receiver, or the receiver sees that the intake is closed.
fn try_admit() -> Option<(String, u16)> {
    word(ADMITTED_GENERATION).store(0, Ordering::SeqCst);
    word(ADMITTED_PID).store(u64::from(std::process::id()), Ordering::SeqCst);
    while let Some((generation, host, port)) = target() {
        word(ADMITTED_GENERATION).store(generation, Ordering::SeqCst);
        if word(GENERATION).load(Ordering::SeqCst) == generation {
            CONNECTED_UNDER.store(generation, Ordering::SeqCst);
            return Some((host, port));
        }
    }
    word(ADMITTED_PID).store(0, Ordering::SeqCst);
    None
}

/// Waits for [`POLL_INTERVAL`], unless this walreceiver must end.
fn pause() {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = std::ffi::c_long::try_from(POLL_INTERVAL.as_millis()).unwrap_or(1);
    // SAFETY: on the walreceiver's main thread, with its own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events.cast_signed(),
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        )
    };
    // SAFETY: this process' own latch.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
    // Before Postgres 18 a walreceiver handles SIGTERM on its own.
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as a walreceiver itself does while it waits.
    unsafe {
        pg_sys::ProcessWalRcvInterrupts();
    }
    pgrx::check_for_interrupts!();
}

/// Appends the target. libpq uses the last value of each keyword. The server must be a primary: a
/// standby may be promoted while it sends.
fn with_target(conninfo: &str, host: &str, port: u16) -> String {
    let host = host.replace('\\', "\\\\").replace('\'', "\\'");
    format!("{conninfo} host='{host}' hostaddr='' port='{port}' target_session_attrs='primary'")
}

/// Copies a text to Postgres' memory, which survives a jump to the error handler.
fn keep(text: &str) -> *mut c_char {
    // SAFETY: the walreceiver's current context lives as long as the process.
    unsafe { pgrx::PgMemoryContexts::CurrentMemoryContext.pstrdup(text) }
}

/// # Safety
/// Called by a walreceiver or the slot worker, with its arguments.
unsafe fn admission(conninfo: *const c_char) -> IntakeAdmission {
    // SAFETY: zero-terminated, and outlives the call.
    let conninfo = unsafe { CStr::from_ptr(conninfo) };
    let admission = if is_physical_receiver() { admit } else { redirect };
    // SAFETY: neither the closure nor the frames around it own anything that a jump would lose.
    unsafe { pgrx_extern_c_guard(move || admission(&conninfo.to_string_lossy())) }
}

#[cfg(feature = "pg15")]
unsafe extern "C-unwind" fn connect(
    conninfo: *const c_char,
    logical: bool,
    appname: *const c_char,
    err: *mut *mut c_char,
) -> *mut pg_sys::WalReceiverConn {
    // SAFETY: Postgres' own function, with its own arguments; see `connecting`.
    unsafe {
        connecting(conninfo, err, |conninfo, next| next.map(|f| f(conninfo, logical, appname, err)))
    }
}

#[cfg(feature = "pg16")]
unsafe extern "C-unwind" fn connect(
    conninfo: *const c_char,
    logical: bool,
    must_use_password: bool,
    appname: *const c_char,
    err: *mut *mut c_char,
) -> *mut pg_sys::WalReceiverConn {
    // SAFETY: as above.
    unsafe {
        connecting(conninfo, err, |conninfo, next| {
            next.map(|f| f(conninfo, logical, must_use_password, appname, err))
        })
    }
}

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
unsafe extern "C-unwind" fn connect(
    conninfo: *const c_char,
    replication: bool,
    logical: bool,
    must_use_password: bool,
    appname: *const c_char,
    err: *mut *mut c_char,
) -> *mut pg_sys::WalReceiverConn {
    // SAFETY: as above.
    unsafe {
        connecting(conninfo, err, |conninfo, next| {
            next.map(|f| f(conninfo, replication, logical, must_use_password, appname, err))
        })
    }
}

/// # Safety
/// Called through the table, with the arguments of connect. Owns nothing when it calls Postgres,
/// which may jump over it.
unsafe fn connecting(
    conninfo: *const c_char,
    err: *mut *mut c_char,
    call: impl FnOnce(*const c_char, pg_sys::walrcv_connect_fn) -> Option<*mut pg_sys::WalReceiverConn>,
) -> *mut pg_sys::WalReceiverConn {
    let next = POSTGRES.get().and_then(|table| table.walrcv_connect);
    let conninfo = if is_physical_receiver() || is_slot_worker() {
        // SAFETY: its own argument.
        match unsafe { admission(conninfo) } {
            IntakeAdmission::To(there) => there,
            IntakeAdmission::Refused(why) => {
                // SAFETY: the caller's variable for the reason, which goes with a null connection.
                unsafe { *err = why };
                return std::ptr::null_mut();
            }
        }
    } else {
        conninfo
    };
    call(conninfo, next).unwrap_or(std::ptr::null_mut())
}

/// # Safety
/// Called through the table, with its arguments.
unsafe extern "C-unwind" fn identify_system(
    conn: *mut pg_sys::WalReceiverConn,
    timeline: *mut pg_sys::TimeLineID,
) -> *mut c_char {
    // SAFETY: nothing is owned here.
    unsafe { end_if_closed() };
    // SAFETY: Postgres' own function, with its own arguments.
    let system = POSTGRES
        .get()
        .and_then(|table| table.walrcv_identify_system)
        .map_or(std::ptr::null_mut(), |next| unsafe { next(conn, timeline) });
    // SAFETY: it has just been written.
    let found = unsafe { *timeline };
    if is_physical_receiver() {
        // SAFETY: `system` is Postgres' own memory.
        unsafe { end_unless_followed(found) };
    }
    system
}

/// Ends this walreceiver if the server that it has reached is not on the timeline to follow.
///
/// # Safety
/// As [`end_if_closed`].
unsafe fn end_unless_followed(found: u32) {
    let followed = word(TIMELINE).load(Ordering::SeqCst);
    // In this order: if the generation has not changed, the timeline belongs to it.
    // SAFETY: nothing is owned here.
    unsafe { end_if_closed() };
    if followed != u64::from(found) {
        // SAFETY: nothing is owned here.
        unsafe {
            end(
                "cannot receive WAL from this server because it is not on the timeline of the primary",
            )
        }
    }
}

/// # Safety
/// Called through the table, with its arguments.
unsafe extern "C-unwind" fn start_streaming(
    conn: *mut pg_sys::WalReceiverConn,
    options: *const pg_sys::WalRcvStreamOptions,
) -> bool {
    if is_physical_receiver() {
        // SAFETY: walreceiver's own options, of which physical replication has this part.
        let (timeline, start) =
            unsafe { ((*options).proto.physical.startpointTLI, (*options).startpoint) };
        // SAFETY: nothing is owned here.
        unsafe { end_if_diverged(timeline, start) };
    }
    // SAFETY: Postgres' own function, with its own arguments.
    POSTGRES
        .get()
        .and_then(|table| table.walrcv_startstreaming)
        .is_some_and(|next| unsafe { next(conn, options) })
}

/// Ends this walreceiver if that timeline, from `start` on, does not continue what was replayed
/// here. A server that requests WAL has replayed all of its own.
///
/// # Safety
/// May jump to Postgres' error handler: no frame between it and here may own anything.
unsafe fn end_if_diverged(timeline: u32, start: u64) {
    let replayed = wal::replayed();
    // SAFETY: the closure owns nothing that a jump would lose.
    let follows = unsafe {
        pgrx_extern_c_guard(move || {
            timeline < replayed.timeline || wal::can_take(timeline, start, replayed)
        })
    };
    if !follows {
        // SAFETY: nothing is owned here.
        unsafe {
            end("this server has WAL that is not in the history of the primary and must be rewound")
        }
    }
}

/// # Safety
/// Called through the table, with its arguments.
unsafe extern "C-unwind" fn receive(
    conn: *mut pg_sys::WalReceiverConn,
    buffer: *mut *mut c_char,
    wait_fd: *mut c_int,
) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe { end_if_closed() };
    // SAFETY: Postgres' own function, with its own arguments.
    POSTGRES
        .get()
        .and_then(|table| table.walrcv_receive)
        .map_or(-1, |next| unsafe { next(conn, buffer, wait_fd) })
}

/// # Safety
/// Called through the table, with its arguments.
unsafe extern "C-unwind" fn send(
    conn: *mut pg_sys::WalReceiverConn,
    buffer: *const c_char,
    length: c_int,
) {
    // SAFETY: nothing is owned here.
    unsafe { end_if_closed() };
    if let Some(next) = POSTGRES.get().and_then(|table| table.walrcv_send) {
        // SAFETY: Postgres' own function, with its own arguments.
        unsafe { next(conn, buffer, length) }
    }
}

/// Ends this walreceiver if the intake was closed, or opened for another target, since it connected.
///
/// # Safety
/// May jump to Postgres' error handler: no frame between it and here may own anything.
unsafe fn end_if_closed() {
    if is_physical_receiver()
        && CONNECTED_UNDER.load(Ordering::SeqCst) != word(GENERATION).load(Ordering::SeqCst)
    {
        // SAFETY: nothing is owned here.
        unsafe { end("terminating walreceiver because the source of WAL has changed") }
    }
}

/// Ends this walreceiver with an error.
///
/// # Safety
/// Jumps to Postgres' error handler: no frame between it and here may own anything.
unsafe fn end(why: &'static str) -> ! {
    // SAFETY: the closure owns nothing that a jump would lose.
    let raised = unsafe {
        pgrx_extern_c_guard(|| Raised::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, why, ""))
    };
    // SAFETY: `Raised` is plain data, and nothing else is alive here.
    unsafe { raised.raise() }
}
