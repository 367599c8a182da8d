//! Who this process is, and what its commits wait for.

use pgraft_core::fence::Who;
use pgrx::pg_sys;

/// What Postgres made it for.
pub fn backend_type() -> pg_sys::BackendType::Type {
    // SAFETY: a word of this process.
    unsafe { pg_sys::MyBackendType }
}

/// Who runs what this process does. In a transaction.
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
    // SAFETY: Postgres' own function, which takes no argument: NULL for a Unix socket.
    unsafe { pgrx::direct_function_call::<pg_sys::Datum>(pg_sys::inet_client_addr, &[]) }.is_none()
}

/// Whether this session's commits wait until a standby has them on disk.
pub fn commit_waits() -> bool {
    // SAFETY: a word of this process.
    let level = unsafe { pg_sys::synchronous_commit };
    level >= pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH.cast_signed()
}

/// `synchronous_commit`, where it does not.
pub fn synchronous_commit() -> &'static str {
    // SAFETY: a word of this process.
    match unsafe { pg_sys::synchronous_commit } {
        0 => "off",
        1 => "local",
        2 => "remote_write",
        _ => "on",
    }
}
