//! Classifies statements for the fence: they read, write, or do neither.

#![allow(
    clippy::cast_ptr_alignment,
    reason = "Postgres has allocated the node with the type of its tag"
)]

use std::ffi::{CStr, c_void};

use pgraft_core::fence::Act;
use pgrx::list::List;
use pgrx::pg_sys::{self, NodeTag, TransactionStmtKind};

/// Classifies a planned statement: `SELECT`, `INSERT`, and so on.
///
/// # Safety
/// The query must be one that Postgres is about to run.
pub unsafe fn of_query(query: *mut pg_sys::QueryDesc, flags: i32) -> Act {
    // SAFETY: a valid query of Postgres.
    let query = unsafe { &*query };
    // SAFETY: as above.
    let plan = unsafe { &*query.plannedstmt };
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY.cast_signed() != 0 {
        Act::Serve
    } else if query.operation != pg_sys::CmdType::CMD_SELECT
        || plan.hasModifyingCTE
        || !plan.rowMarks.is_null()
    {
        Act::Write
    } else if reads_tables(plan) {
        Act::Read
    } else {
        Act::Serve
    }
}

/// Whether it reads more than the catalogs and pgraft's view. The plan's `relationOids` also has the
/// relation of every constant of type `regclass`, whose data is not read.
fn reads_tables(plan: &pg_sys::PlannedStmt) -> bool {
    pgrx::memcx::current_context(|context| {
        // SAFETY: null, or a list of pointers that lives as long as the plan.
        let entries = unsafe { List::<*mut c_void>::downcast_ptr_in_memcx(plan.rtable, context) };
        entries.is_some_and(|list| {
            list.iter().any(|entry| {
                // SAFETY: the elements of a range table are range table entries.
                let relation = unsafe { (*entry.cast::<pg_sys::RangeTblEntry>()).relid };
                relation.to_u32() != 0 && !is_shown_always(relation)
            })
        })
    })
}

fn is_shown_always(relation: pg_sys::Oid) -> bool {
    /// `pg_statistic`, `pg_largeobject` and `pg_statistic_ext_data`: catalogs with data of tables.
    const DATA: [u32; 3] = [2619, 2613, 3429];
    if relation.to_u32() < pg_sys::FirstNormalObjectId {
        return !DATA.contains(&relation.to_u32());
    }
    // SAFETY: on the main thread, in a transaction.
    name(unsafe { pg_sys::get_rel_name(relation) }).is_some_and(|name| name == "pgraft_members")
}

/// Whether a function is volatile, and its name.
pub fn function(oid: pg_sys::Oid) -> (bool, String) {
    // SAFETY: on the main thread, in a transaction.
    let volatile =
        unsafe { pg_sys::func_volatile(oid) }.cast_unsigned() == pg_sys::PROVOLATILE_VOLATILE;
    // SAFETY: as above.
    (volatile, name(unsafe { pg_sys::get_func_name(oid) }).unwrap_or_default())
}

/// Classifies any other statement.
///
/// # Safety
/// The statement must be one that Postgres is about to run.
pub unsafe fn of_utility(statement: *mut pg_sys::Node) -> Act {
    // SAFETY: every statement is a node.
    match unsafe { (*statement).type_ } {
        // These run other statements, or concern only the session.
        NodeTag::T_AlterSystemStmt
        | NodeTag::T_CallStmt
        | NodeTag::T_CheckPointStmt
        | NodeTag::T_ClosePortalStmt
        | NodeTag::T_ConstraintsSetStmt
        | NodeTag::T_DeallocateStmt
        | NodeTag::T_DeclareCursorStmt
        | NodeTag::T_DiscardStmt
        | NodeTag::T_DoStmt
        | NodeTag::T_ExecuteStmt
        | NodeTag::T_ExplainStmt
        | NodeTag::T_ListenStmt
        | NodeTag::T_LoadStmt
        | NodeTag::T_PrepareStmt
        | NodeTag::T_UnlistenStmt
        | NodeTag::T_VariableSetStmt
        | NodeTag::T_VariableShowStmt => Act::Serve,
        NodeTag::T_FetchStmt | NodeTag::T_LockStmt => Act::Read,
        NodeTag::T_CopyStmt => {
            // SAFETY: as its tag says.
            if unsafe { (*statement.cast::<pg_sys::CopyStmt>()).is_from } {
                Act::Write
            } else {
                Act::Read
            }
        }
        NodeTag::T_TransactionStmt => {
            // SAFETY: as its tag says.
            match unsafe { (*statement.cast::<pg_sys::TransactionStmt>()).kind } {
                TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
                | TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => Act::Commit,
                _ => Act::Serve, // the commit of a transaction that wrote is checked on its own
            }
        }
        _ => Act::Write,
    }
}

/// The parameter of a `SET` or `ALTER SYSTEM`, and whether it is `ALTER SYSTEM`.
///
/// # Safety
/// The statement must be one that Postgres is about to run.
pub unsafe fn setting(statement: *mut pg_sys::Node) -> Option<(String, bool)> {
    // SAFETY: every statement is a node.
    let tag = unsafe { (*statement).type_ };
    let set = match tag {
        NodeTag::T_VariableSetStmt => statement.cast::<pg_sys::VariableSetStmt>(),
        // SAFETY: as its tag says.
        NodeTag::T_AlterSystemStmt => unsafe {
            (*statement.cast::<pg_sys::AlterSystemStmt>()).setstmt
        },
        _ => return None,
    };
    // SAFETY: as its tag says; the name is null for RESET ALL.
    name(unsafe { (*set).name }).map(|name| (name, tag == NodeTag::T_AlterSystemStmt))
}

/// Copies a name from Postgres' memory, which may be null.
fn name(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: zero-terminated, and outlives the call.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
