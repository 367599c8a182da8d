//! Small pages of shared memory: words that every process and every thread may read and write at
//! any time.
//!
//! All zeros at first, also after Postgres has restarted its processes: whoever reads them must
//! mean "closed" by zero.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use pgrx::PGRXSharedMemory;
use pgrx::atomics::PgAtomic;

/// A page of so many words.
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

/// Of `pg::server`: which server it is that has this shared memory.
// SAFETY: the name belongs to this extension.
pub static RUN: PgAtomic<AtomicWords<1>> = unsafe { PgAtomic::new(c"pgraft_run") };

/// Of `fence::gate`.
// SAFETY: the name belongs to this extension.
pub static GATE: PgAtomic<AtomicWords<1>> = unsafe { PgAtomic::new(c"pgraft_gate") };

/// Of `pg::intake`: its words, then the host.
// SAFETY: as above.
pub static INTAKE: PgAtomic<AtomicWords<{ INTAKE_HOST + INTAKE_HOST_BYTES / 8 }>> =
    unsafe { PgAtomic::new(c"pgraft_intake") };
/// Where the host begins in it.
pub const INTAKE_HOST: usize = 8;
/// How long a host name can be: DNS allows 253.
pub const INTAKE_HOST_BYTES: usize = 256;

/// Of `pg::names`: the checkpointer's word, then one for each walsender.
// SAFETY: as above.
pub static NAMES: PgAtomic<AtomicWords<{ 2 + NAMES_WALSENDERS }>> =
    unsafe { PgAtomic::new(c"pgraft_names") };
/// How many walsenders it has room for.
pub const NAMES_WALSENDERS: usize = 1022;
