//! The WAL intake of a standby: from whom it takes WAL, and whether from anybody.
//!
//! ```text
//!  close()          no walreceiver connects, takes a byte or confirms one from here on
//!  open(host, port, timeline)
//!                   one does, to there, as long as a primary on that timeline answers: primary_conninfo says how (user, password, TLS), never where
//! ```
//!
//! The timeline, since a walreceiver says first of all how far its server has replayed: where that
//! is not WAL of the primary's, the primary would take it for the confirmation of a commit that
//! nobody else has. It asks for WAL from the beginning of a segment on, so that Postgres finds
//! nothing wrong with it (measured with 17).
//!
//! Postgres' walreceiver calls libpq through a table of functions. `install` puts a copy of it in
//! place, whose connect, receive and send ask here first; the worker that copies the primary's
//! logical slots is sent to the same place; everybody else who uses the table (logical replication)
//! passes. A receiver that has confirmed a position had it on disk and in shared memory before, and
//! the order of all accesses is one order: whoever closes the intake and reads the flush position
//! then sees all that was or will be confirmed.
//!
//! A server whose WAL has diverged from its primary's takes none of it. Postgres leaves a gap there
//! (tried on 17): a standby that is started again once it has fetched the primary's history file
//! replays its own WAL past the fork, asks for the primary's behind it, and confirms that, though
//! it can never replay it. One that has the beginning of a record behind the fork, up to the next
//! segment, asks from there on.
//!
//! Written by the worker, from any of its threads. Closed at first, and after Postgres has
//! restarted its processes; the postmaster forks every walreceiver with the table in place.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_core::SqlState;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

use super::ereport::Raised;
use super::wal;
use crate::shmem::words::{INTAKE, INTAKE_HOST, INTAKE_HOST_BYTES};

/// The words of the page. Counts openings and closings: odd is open, and a receiver remembers the
/// number that it connected under.
const GENERATION: usize = 0;
const REFUSALS: usize = 1;
/// Of the receiver that was last let in.
const ADMITTED_PID: usize = 2;
const ADMITTED_GENERATION: usize = 3;
const PORT: usize = 4;
const HOST_LENGTH: usize = 5;
const TIMELINE: usize = 6;

/// How long a walreceiver waits for the intake to open, before it ends and the server starts
/// another, and how often it looks.
const WAIT_FOR_OPENING: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Postgres' own table.
static POSTGRES: OnceLock<pg_sys::WalReceiverFunctionsType> = OnceLock::new();
/// The number that this process, a walreceiver, connected under.
static CONNECTED_UNDER: AtomicU64 = AtomicU64::new(0);
/// One thread of the worker changes the page at a time.
static WRITER: Mutex<()> = Mutex::new(());

unsafe extern "C" {
    // Sets a latch, which any thread may: pgrx's binding is for the main thread alone.
    fn WakeupRecovery();
}

fn word(n: usize) -> &'static AtomicU64 {
    &INTAKE.get()[n]
}

const fn is_open(generation: u64) -> bool {
    generation % 2 == 1
}

/// Takes no more WAL: when this returns no byte is taken or confirmed any more.
pub fn close() {
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    shut();
    stop_receiver();
}

/// Takes WAL from there, on that timeline. The same again changes nothing.
pub fn open(host: &str, port: u16, on: u32) {
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    if timeline() == Some(on) && target().is_some_and(|(_, h, p)| h == host && p == port) {
        return stop_receiver();
    }
    let generation = shut();
    if host.len() > INTAKE_HOST_BYTES {
        return; // no address of a member is
    }
    word(PORT).store(u64::from(port), Ordering::SeqCst);
    word(TIMELINE).store(u64::from(on), Ordering::SeqCst);
    word(HOST_LENGTH).store(host.len() as u64, Ordering::SeqCst);
    for (word, chunk) in INTAKE.get()[INTAKE_HOST..].iter().zip(host.as_bytes().chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(padded), Ordering::SeqCst);
    }
    word(GENERATION).store(generation + 1, Ordering::SeqCst);
    stop_receiver();
    // SAFETY: sets a latch in shared memory; harmless where nobody waits on it.
    unsafe { WakeupRecovery() }
}

/// The number under which it is closed now.
fn shut() -> u64 {
    let before = word(GENERATION).load(Ordering::SeqCst);
    let generation = before + u64::from(is_open(before));
    word(GENERATION).store(generation, Ordering::SeqCst);
    generation
}

/// Whether WAL is taken from nobody.
pub fn is_closed() -> bool {
    !is_open(word(GENERATION).load(Ordering::SeqCst))
}

/// The timeline that it is open for.
pub fn timeline() -> Option<u32> {
    (!is_closed()).then(|| u32::try_from(word(TIMELINE).load(Ordering::SeqCst)).ok()).flatten()
}

/// How many walreceivers have found it closed, since the server's processes were started: they come
/// when all WAL that is here was replayed.
pub fn refusals() -> u64 {
    word(REFUSALS).load(Ordering::SeqCst)
}

/// Whether a walreceiver lives that was let in. One that was not has read nothing, and ends by
/// itself.
pub fn receiver_lives() -> bool {
    admitted().is_some()
}

/// Has a walreceiver end whose target is not the present one. It may be waiting for its connection
/// or for data.
pub fn stop_receiver() {
    let Some((pid, generation)) = admitted() else { return };
    // One that has no number yet is about to look at the present target.
    if generation != 0 && generation != word(GENERATION).load(Ordering::SeqCst) {
        // One that is gone by now needs no signal.
        let _ = kill(pid, Signal::SIGTERM);
    }
}

/// The living receiver that was let in, and under which number.
fn admitted() -> Option<(Pid, u64)> {
    let admitted = word(ADMITTED_PID).load(Ordering::SeqCst);
    let generation = word(ADMITTED_GENERATION).load(Ordering::SeqCst);
    let pid = i32::try_from(admitted).ok().filter(|pid| *pid != 0 && *pid == receiver())?;
    Some((Pid::from_raw(pid), generation))
}

/// The process that is the server's walreceiver, 0 for none. It takes its name off when it has
/// flushed what it had.
fn receiver() -> i32 {
    // SAFETY: shared memory that is there before the worker is; one word, which Postgres writes as
    // one.
    unsafe { (&raw const (*pg_sys::WalRcv).pid).read_volatile() }
}

/// From whom WAL is taken, and under which number.
fn target() -> Option<(u64, String, u16)> {
    let generation = word(GENERATION).load(Ordering::SeqCst);
    if !is_open(generation) {
        return None;
    }
    let length = usize::try_from(word(HOST_LENGTH).load(Ordering::SeqCst))
        .ok()
        .filter(|l| *l <= INTAKE_HOST_BYTES)?;
    let port = u16::try_from(word(PORT).load(Ordering::SeqCst)).ok()?;
    let words = &INTAKE.get()[INTAKE_HOST..];
    let mut host: Vec<u8> = words[..length.div_ceil(8)]
        .iter()
        .flat_map(|w| w.load(Ordering::SeqCst).to_le_bytes())
        .collect();
    host.truncate(length);
    let same = word(GENERATION).load(Ordering::SeqCst) == generation;
    Some((generation, String::from_utf8(host).ok()?, port)).filter(|_| same)
}

/// Puts the table in place; in the postmaster.
pub fn install() {
    // SAFETY: on the postmaster's only thread; a library of Postgres' own, which walreceiver finds
    // loaded then and does not load again.
    unsafe { pg_sys::load_file(c"libpqwalreceiver".as_ptr(), false) };
    // SAFETY: the library has set the pointer to a table that lives as long as it.
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

/// The worker that copies the primary's logical slots. It takes no WAL and confirms none.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
fn is_slot_worker() -> bool {
    // SAFETY: a word of this process.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_SLOTSYNC_WORKER }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
const fn is_slot_worker() -> bool {
    false
}

/// What the wrapped connect does before Postgres' own.
#[derive(Clone, Copy)]
enum IntakeAdmission {
    /// Connect with these words.
    To(*const c_char),
    /// Don't, and say this.
    Refused(*mut c_char),
}

/// Lets the walreceiver in, or not. Its number is told before the intake is looked at: whoever
/// closes it sees the receiver, or the receiver sees it closed. A receiver that finds it closed
/// waits a while: a server that has nobody to follow would start one after the other.
fn admit(conninfo: &str) -> IntakeAdmission {
    let mut waited = Duration::ZERO;
    loop {
        if let Some((host, port)) = let_in() {
            return IntakeAdmission::To(keep(&with_target(conninfo, &host, port)));
        }
        if waited.is_zero() {
            word(REFUSALS).fetch_add(1, Ordering::SeqCst);
        }
        if waited >= WAIT_FOR_OPENING {
            return IntakeAdmission::Refused(keep(
                "pgraft takes no WAL here until the group has a primary",
            ));
        }
        pause();
        waited += POLL_INTERVAL;
    }
}

/// To where WAL comes from, if it comes.
fn guide(conninfo: &str) -> IntakeAdmission {
    match target() {
        Some((_, host, port)) => IntakeAdmission::To(keep(&with_target(conninfo, &host, port))),
        None => IntakeAdmission::Refused(keep("the group has no primary")),
    }
}

fn let_in() -> Option<(String, u16)> {
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

/// Waits, unless this walreceiver is to end.
fn pause() {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = std::ffi::c_long::try_from(POLL_INTERVAL.as_millis()).unwrap_or(1);
    // SAFETY: on the main thread of walreceiver, with its own latch.
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
    // Before Postgres 18 a walreceiver's SIGTERM is no interrupt like others'.
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as walreceiver itself does while it waits.
    unsafe {
        pg_sys::ProcessWalRcvInterrupts();
    }
    pgrx::check_for_interrupts!();
}

/// libpq takes the last word of each keyword. A standby is not let in at all: it may be promoted
/// while it sends.
fn with_target(conninfo: &str, host: &str, port: u16) -> String {
    let host = host.replace('\\', "\\\\").replace('\'', "\\'");
    format!("{conninfo} host='{host}' hostaddr='' port='{port}' target_session_attrs='primary'")
}

/// Copied to Postgres' memory, where nothing is lost when the stack is jumped over.
fn keep(text: &str) -> *mut c_char {
    // SAFETY: the current context of the walreceiver lives as long as it.
    unsafe { pgrx::PgMemoryContexts::CurrentMemoryContext.pstrdup(text) }
}

/// # Safety
/// Called by walreceiver or the slot worker, with its arguments.
unsafe fn admission(conninfo: *const c_char) -> IntakeAdmission {
    // SAFETY: zero-terminated, and outlives the call.
    let conninfo = unsafe { CStr::from_ptr(conninfo) };
    let ask = if is_physical_receiver() { admit } else { guide };
    // SAFETY: the closure owns nothing that a jump would lose, and the frames around it neither.
    unsafe { pgrx_extern_c_guard(move || ask(&conninfo.to_string_lossy())) }
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
/// Called by whoever uses the table, with what connect is given. Owns nothing when it calls
/// Postgres, which may jump over it.
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
                // SAFETY: the caller gives a place for the reason; no connection is returned with
                // it.
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
/// Called by whoever uses the table, with its arguments.
unsafe extern "C-unwind" fn identify_system(
    conn: *mut pg_sys::WalReceiverConn,
    timeline: *mut pg_sys::TimeLineID,
) -> *mut c_char {
    // SAFETY: nothing is owned here.
    unsafe { end_if_cut() };
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

/// Ends this walreceiver when the server that it has found is on another timeline than the one that
/// is followed.
///
/// # Safety
/// As `end_if_cut`.
unsafe fn end_unless_followed(found: u32) {
    let followed = word(TIMELINE).load(Ordering::SeqCst);
    // In this order: where the number is still the same, the timeline was the one of this opening.
    // SAFETY: nothing is owned here.
    unsafe { end_if_cut() };
    if followed != u64::from(found) {
        // SAFETY: nothing is owned here.
        unsafe {
            end(
                "pgraft takes no WAL from this server: it is not on the timeline that the group gave its primary",
            )
        }
    }
}

/// # Safety
/// Called by whoever uses the table, with its arguments.
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

/// Ends this walreceiver when that timeline from there on does not continue what was replayed here.
/// Whoever asks for WAL has replayed all that it had.
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
            end(
                "this server has WAL that is not in its primary's history: it is to be rewound before it takes more",
            )
        }
    }
}

/// # Safety
/// Called by whoever uses the table, with its arguments.
unsafe extern "C-unwind" fn receive(
    conn: *mut pg_sys::WalReceiverConn,
    buffer: *mut *mut c_char,
    wait_fd: *mut c_int,
) -> c_int {
    // SAFETY: nothing is owned here.
    unsafe { end_if_cut() };
    // SAFETY: Postgres' own function, with its own arguments.
    POSTGRES
        .get()
        .and_then(|table| table.walrcv_receive)
        .map_or(-1, |next| unsafe { next(conn, buffer, wait_fd) })
}

/// # Safety
/// Called by whoever uses the table, with its arguments.
unsafe extern "C-unwind" fn send(
    conn: *mut pg_sys::WalReceiverConn,
    buffer: *const c_char,
    length: c_int,
) {
    // SAFETY: nothing is owned here.
    unsafe { end_if_cut() };
    if let Some(next) = POSTGRES.get().and_then(|table| table.walrcv_send) {
        // SAFETY: Postgres' own function, with its own arguments.
        unsafe { next(conn, buffer, length) }
    }
}

/// Ends this walreceiver when the intake was closed, or turned elsewhere, since it connected.
///
/// # Safety
/// May jump to Postgres' error handler: no frame between it and here may own anything.
unsafe fn end_if_cut() {
    if is_physical_receiver()
        && CONNECTED_UNDER.load(Ordering::SeqCst) != word(GENERATION).load(Ordering::SeqCst)
    {
        // SAFETY: nothing is owned here.
        unsafe { end("pgraft takes no more WAL from this server") }
    }
}

/// Ends this walreceiver, and says why.
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
