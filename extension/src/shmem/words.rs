//! Small pages of shared memory: words that all processes and threads may read and write at any
//! time.
//!
//! They are zero at first and after Postgres has restarted its processes, so zero must mean
//! "closed".

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use pgrx::PGRXSharedMemory;
use pgrx::atomics::PgAtomic;

/// A page of `N` words.
pub struct AtomicWords<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for AtomicWords<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Deref for AtomicWords<N> {
    type Target = [AtomicU64; N];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

// SAFETY: nothing but atomics, no pointers.
unsafe impl<const N: usize> PGRXSharedMemory for AtomicWords<N> {}

/// For `pg::server`: identifies the run of the server that owns this shared memory.
// SAFETY: the name belongs to this extension.
pub static RUN: PgAtomic<AtomicWords<1>> = unsafe { PgAtomic::new(c"pgraft_run") };

/// For `gate`.
// SAFETY: the name belongs to this extension.
pub static GATE: PgAtomic<AtomicWords<1>> = unsafe { PgAtomic::new(c"pgraft_gate") };

/// For `pg::intake`: its words, then the host name.
// SAFETY: as above.
pub static INTAKE: PgAtomic<AtomicWords<{ INTAKE_HOST + INTAKE_HOST_BYTES / 8 }>> =
    unsafe { PgAtomic::new(c"pgraft_intake") };
/// The index at which the host name begins.
pub const INTAKE_HOST: usize = 8;
/// The maximum length of a host name in bytes; DNS allows 253.
pub const INTAKE_HOST_BYTES: usize = 256;

/// For `pg::names`: the checkpointer's word, then one word for each walsender.
// SAFETY: as above.
pub static NAMES: PgAtomic<AtomicWords<{ 2 + NAMES_WALSENDERS }>> =
    unsafe { PgAtomic::new(c"pgraft_names") };
/// The maximum of walsenders.
pub const NAMES_WALSENDERS: usize = 1022;
