//! The SQL functions that change the cluster, as plain C functions. pgrx's own way would lose the
//! SQLSTATEs of pgraft (`ereport.rs`).

use pgraft_core::control::{Request, Response};
use pgrx::fcinfo::pg_getarg;
use pgrx::{notice, pg_sys};

use super::command;
use super::ereport::Raised;

/// Postgres requires a function `pg_finfo_<name>` for each function.
macro_rules! finfo {
    ($name:ident) => {
        #[doc = "States that the function uses version-1 calling conventions."]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> &'static pg_sys::Pg_finfo_record {
            const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}

finfo!(pg_finfo_pgraft_init);
finfo!(pg_finfo_pgraft_add_node);
finfo!(pg_finfo_pgraft_remove_node);
finfo!(pg_finfo_pgraft_set_address);
finfo!(pg_finfo_pgraft_switchover);
finfo!(pg_finfo_pgraft_force_primary);

/// `pgraft_init()`
///
/// # Safety
/// Called by Postgres, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgraft_init(_: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    run(|| Request::Init)
}

/// `pgraft_add_node(node_id, address, port)`
///
/// # Safety
/// Called by Postgres, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgraft_add_node(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    run(|| Request::AddNode {
        // SAFETY: the SQL declares (integer, text, integer), and STRICT keeps NULLs away.
        node_id: unsafe { pg_getarg::<i32>(fcinfo, 0) }.map_or(0, i64::from),
        // SAFETY: as above.
        address: unsafe { pg_getarg::<String>(fcinfo, 1) }.unwrap_or_default(),
        // SAFETY: as above.
        port: unsafe { pg_getarg::<i32>(fcinfo, 2) }.map_or(0, i64::from),
    })
}

/// `pgraft_switchover(node_id)`
///
/// # Safety
/// Called by Postgres, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgraft_switchover(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    run(|| Request::Switchover {
        // SAFETY: the SQL declares (integer), and STRICT keeps NULLs away.
        target: unsafe { pg_getarg::<i32>(fcinfo, 0) }.map_or(0, i64::from),
    })
}

/// `pgraft_force_primary(node_id, accept_data_loss)`
///
/// # Safety
/// Called by Postgres, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgraft_force_primary(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    run(|| Request::ForcePrimary {
        // SAFETY: the SQL declares (integer, boolean), and STRICT keeps NULLs away.
        node_id: unsafe { pg_getarg::<i32>(fcinfo, 0) }.map_or(0, i64::from),
        // SAFETY: as above.
        accept_data_loss: unsafe { pg_getarg::<bool>(fcinfo, 1) }.unwrap_or_default(),
    })
}

/// `pgraft_set_address(node_id, address, port)`
///
/// # Safety
/// Called by Postgres, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgraft_set_address(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    run(|| Request::SetAddress {
        // SAFETY: the SQL declares (integer, text, integer), and STRICT keeps NULLs away.
        node_id: unsafe { pg_getarg::<i32>(fcinfo, 0) }.map_or(0, i64::from),
        // SAFETY: as above.
        address: unsafe { pg_getarg::<String>(fcinfo, 1) }.unwrap_or_default(),
        // SAFETY: as above.
        port: unsafe { pg_getarg::<i32>(fcinfo, 2) }.map_or(0, i64::from),
    })
}

/// `pgraft_remove_node(node_id)`
///
/// # Safety
/// Called by Postgres, with its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgraft_remove_node(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    run(|| Request::RemoveNode {
        // SAFETY: the SQL declares (integer), and STRICT keeps NULLs away.
        node_id: unsafe { pg_getarg::<i32>(fcinfo, 0) }.map_or(0, i64::from),
    })
}

/// Sends a request to the worker, and returns `true` or raises the error.
fn run(request: impl FnOnce() -> Request) -> pg_sys::Datum {
    // SAFETY: this frame and its callers own nothing that a jump would lose.
    let refused = unsafe { pg_sys::panic::pgrx_extern_c_guard(move || ask(&request())) };
    if let Some(raised) = refused {
        // SAFETY: `Raised` is plain data, and nothing else is alive here.
        unsafe { raised.raise() }
    }
    pg_sys::Datum::from(true)
}

fn ask(request: &Request) -> Option<Raised> {
    match command::ask(request) {
        Ok(Response::Done { notice }) => {
            if let Some(notice) = notice {
                notice!("{notice}");
            }
            None
        }
        Ok(Response::Refused { sqlstate, message, hint }) => {
            Some(Raised::new(sqlstate, &message, &hint))
        }
        Ok(_) => Some(stopped("it sent an unexpected response")),
        Err(why) => Some(stopped(&why)),
    }
}

fn stopped(why: &str) -> Raised {
    let refusal = pgraft_core::Refusal::Stopped(why.to_owned());
    Raised::new(refusal.sqlstate(), &refusal.to_string(), &refusal.hint())
}
