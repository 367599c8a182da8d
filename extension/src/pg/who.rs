//! What this process is, and what its commits wait for.

use pgraft_core::fence::Who;
use pgrx::pg_sys;

/// The type of this process.
pub fn backend_type() -> pg_sys::BackendType::Type {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::MyBackendType }
}

/// On whose behalf this process runs. Must be called in a transaction.
pub fn who() -> Who {
    match backend_type() {
        pg_sys::BackendType::B_BACKEND if is_local_superuser() => Who::Local,
        pg_sys::BackendType::B_BACKEND => Who::Client,
        pg_sys::BackendType::B_AUTOVAC_LAUNCHER | pg_sys::BackendType::B_AUTOVAC_WORKER => {
            Who::Maintenance
        }
        _ => Who::Background,
    }
}

fn is_local_superuser() -> bool {
    // SAFETY: on the main thread.
    let user = unsafe { pg_sys::GetSessionUserId() };
    // SAFETY: on the main thread, in a transaction.
    if !unsafe { pg_sys::superuser_arg(user) } {
        return false;
    }
    // SAFETY: a function of Postgres without arguments; NULL for a Unix socket.
    unsafe { pgrx::direct_function_call::<pg_sys::Datum>(pg_sys::inet_client_addr, &[]) }.is_none()
}

/// Whether commits of this session wait until a standby has flushed them.
pub fn commit_waits() -> bool {
    // SAFETY: a variable of this process.
    let level = unsafe { pg_sys::synchronous_commit };
    level >= pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH.cast_signed()
}

/// The value of `synchronous_commit`.
pub fn synchronous_commit() -> &'static str {
    // SAFETY: a variable of this process.
    match unsafe { pg_sys::synchronous_commit } {
        0 => "off",
        1 => "local",
        2 => "remote_write",
        _ => "on",
    }
}
