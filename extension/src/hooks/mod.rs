//! The hooks that call the fence: before a statement, before a function and before a commit.
//! Installed if `pgraft.failover` is on.
//!
//! In every hook, the part that may fail runs inside a guard and returns the error as plain data.
//! The error is raised, or Postgres is called, from a frame that owns nothing, because either may
//! jump over it.

#![allow(unsafe_code, reason = "called by Postgres, and calls it")]

mod session;

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use pgraft_core::Refusal;
use pgraft_core::fence::{Act, act_of_function, is_ours};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

use crate::fence;
use crate::pg::ereport::Raised;
use crate::pg::{self, cancel, statement};
use crate::shmem::gate;

/// The hooks that were installed before these.
struct Before {
    executor_start: pg_sys::ExecutorStart_hook_type,
    executor_run: pg_sys::ExecutorRun_hook_type,
    utility: pg_sys::ProcessUtility_hook_type,
    object_access: pg_sys::object_access_hook_type,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// `pg_promote(boolean, integer)`
const PG_PROMOTE: u32 = 3436;

// Not through pgrx's bindings, which set a jump point for each call: these are called for every
// statement and commit.
unsafe extern "C-unwind" {
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    #[cfg(not(feature = "pg18"))]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
    fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
    fn RecoveryInProgress() -> bool;
}

/// Installs the hooks in the postmaster, so that every process inherits them.
pub fn install() {
    // SAFETY: on the postmaster's only thread.
    unsafe {
        BEFORE.get_or_init(|| Before {
            executor_start: pg_sys::ExecutorStart_hook,
            executor_run: pg_sys::ExecutorRun_hook,
            utility: pg_sys::ProcessUtility_hook,
            object_access: pg_sys::object_access_hook,
        });
        pg_sys::ExecutorStart_hook = Some(executor_start);
        pg_sys::ExecutorRun_hook = Some(executor_run);
        pg_sys::ProcessUtility_hook = Some(process_utility);
        pg_sys::object_access_hook = Some(object_access);
        pg_sys::RegisterXactCallback(Some(transaction), std::ptr::null_mut());
    }
}

/// Whether this process serves clients. Single-user mode and `pg_upgrade` do not.
fn is_serving() -> bool {
    // SAFETY: variables of this process.
    unsafe { pg_sys::IsUnderPostmaster && !pg_sys::IsBinaryUpgrade }
}

/// Whether statements need no check: the gate is open, or this server is a standby.
fn is_exempt() -> bool {
    // SAFETY: reads shared memory and a variable of this process.
    gate::is_open() || unsafe { RecoveryInProgress() }
}

/// Runs a check that may fail, and raises the refusal that it returns.
///
/// # Safety
/// May jump to Postgres' error handler: no frame between it and here may own anything.
unsafe fn guarded(check: impl FnOnce() -> Option<Refusal>) {
    let check = move || {
        check()
            .map(|refusal| Raised::new(refusal.sqlstate(), &refusal.to_string(), &refusal.hint()))
    };
    // SAFETY: the closure's own frames are unwound before the guard returns.
    if let Some(raised) = unsafe { pgrx_extern_c_guard(check) } {
        // SAFETY: `Raised` is plain data, and nothing else is alive here.
        unsafe { raised.raise() }
    }
}

/// # Safety
/// Called by Postgres, with the query that it is about to start.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    if is_serving() && !(gate::is_open() && session::is_ordinary()) {
        // SAFETY: this frame owns nothing; the query belongs to Postgres.
        unsafe {
            guarded(|| {
                session::statement_begins();
                if is_exempt() { None } else { fence::check(statement::of_query(query, flags)) }
            });
        }
    }
    // SAFETY: as Postgres would call it.
    unsafe {
        match BEFORE.get().and_then(|before| before.executor_start) {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
    }
}

/// # Safety
/// Called by Postgres, to fetch the first rows of a query or the next ones of an open portal.
#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: this frame owns nothing; as Postgres would call it.
    unsafe {
        check_open_query(query);
        match BEFORE.get().and_then(|before| before.executor_run) {
            Some(next) => next(query, direction, count, once),
            None => standard_ExecutorRun(query, direction, count, once),
        }
    }
}

/// # Safety
/// As above.
#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: as above.
    unsafe {
        check_open_query(query);
        match BEFORE.get().and_then(|before| before.executor_run) {
            Some(next) => next(query, direction, count),
            None => standard_ExecutorRun(query, direction, count),
        }
    }
}

/// # Safety
/// Called with a query of Postgres. May jump to its error handler.
unsafe fn check_open_query(query: *mut pg_sys::QueryDesc) {
    if is_serving() && !is_exempt() {
        // SAFETY: the caller's frame owns nothing; the query belongs to Postgres.
        unsafe { guarded(|| fence::check(statement::of_query(query, 0))) }
    }
}

/// # Safety
/// Called by Postgres, with the statement that it is about to run.
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    let is_clients =
        is_serving() && context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
    if is_serving() {
        // SAFETY: this frame owns nothing; the statement belongs to Postgres.
        unsafe {
            let node = (*statement).utilityStmt;
            let mut ends_prepared = false;
            let ends = &raw mut ends_prepared;
            guarded(|| utility(node, ends));
            if ends_prepared {
                // Until the end of the transaction around it, which does nothing else.
                cancel::hold();
            }
        }
    }
    if is_clients {
        cancel::in_statement(true);
    }
    // SAFETY: as Postgres would call it.
    unsafe {
        let next =
            BEFORE.get().and_then(|before| before.utility).unwrap_or(standard_ProcessUtility);
        next(
            statement,
            text,
            read_only_tree,
            context,
            params,
            environment,
            destination,
            completion,
        );
    }
    if is_clients {
        cancel::in_statement(false);
    }
}

/// # Safety
/// Called with a statement of Postgres, and a variable for whether it ends a prepared transaction.
unsafe fn utility(node: *mut pg_sys::Node, ends_prepared: *mut bool) -> Option<Refusal> {
    session::statement_begins();
    // SAFETY: the caller's statement.
    match unsafe { statement::setting(node) } {
        Some((name, true)) if is_ours(&name) => return Some(Refusal::ManagedSetting(name)),
        Some((name, false))
            if matches!(
                name.as_str(),
                "default_transaction_read_only" | "SESSION CHARACTERISTICS"
            ) =>
        {
            session::user_decides();
        }
        _ => {}
    }
    // SAFETY: as above.
    let act = unsafe { statement::of_utility(node) };
    // SAFETY: the caller's variable.
    unsafe { *ends_prepared = act == Act::Commit };
    if is_exempt() && act != Act::Commit { None } else { fence::check(act) }
}

/// # Safety
/// Called by Postgres, for example before it calls a function.
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
        && is_serving()
        && (!is_exempt() || object.to_u32() == PG_PROMOTE)
    {
        // SAFETY: this frame owns nothing.
        unsafe { guarded(|| function(object)) }
    }
    if let Some(next) = BEFORE.get().and_then(|before| before.object_access) {
        // SAFETY: as Postgres would call it.
        unsafe { next(access, class, object, part, argument) }
    }
}

/// Checks a function that is about to be called: `pg_promote`, or any while the gate is closed.
fn function(oid: pg_sys::Oid) -> Option<Refusal> {
    if oid.to_u32() == PG_PROMOTE && pg::server::is_standby() {
        return Some(Refusal::ManualPromotion);
    }
    let (is_volatile, name) = statement::function(oid);
    fence::check(act_of_function(&name, is_volatile, oid.to_u32() < pg_sys::FirstNormalObjectId))
}

/// # Safety
/// Called by Postgres in each phase of a transaction. Transactions of parallel workers commit
/// nothing.
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
        XACT_EVENT_PREPARE,
    };
    if !is_serving() {
        return;
    }
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => {
            // SAFETY: this frame owns nothing.
            unsafe {
                let wrote = wrote();
                if wrote || !session::has_begun() {
                    guarded(|| {
                        session::begin();
                        if wrote { fence::check(Act::Commit) } else { None }
                    });
                }
                cancel::hold();
            }
        }
        XACT_EVENT_COMMIT | XACT_EVENT_PREPARE | XACT_EVENT_ABORT => {
            cancel::release(event != XACT_EVENT_ABORT);
            session::transaction_ended(event != XACT_EVENT_ABORT);
        }
        _ => {}
    }
}

/// Whether a failover could lose the transaction: it has an id and has written WAL. One that only
/// writes a temporary table has not.
fn wrote() -> bool {
    // SAFETY: variables of this process.
    unsafe { GetTopTransactionIdIfAny().into_inner() != 0 && pg_sys::XactLastRecEnd != 0 }
}
