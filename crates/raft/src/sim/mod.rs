//! A simulated machine for one member (feature `sim`, for `crates/sim` alone): a disk that loses
//! what was not synced, chance from a seed, a wall clock that can be set, and an ear for what the
//! member does. The member's own code is the one that ships.
//!
//! ```text
//!  crates/sim ── Machine::enter ─▶ this thread is that machine ─▶ machine.rs, files.rs, store: its chance, its clock, its disk
//!             ◀─ Machine::events ── votes, entries, what was applied: each of them, in order
//! ```
//!
//! On a thread that has entered no machine everything is as without the feature. It never ships: a
//! build without debug assertions refuses the feature.

#[cfg(not(debug_assertions))]
compile_error!(
    "the feature `sim` of pgraft-raft is for tests: it can't be part of a release build"
);

mod disk;
mod log_store;
mod machine;
mod rules;
mod runtime;
pub mod watch;

pub use disk::LogLine;
pub use log_store::SimLogStore;
pub use machine::{Crash, EnteredMachine, Machine, MachineEvent, Term};
pub(crate) use machine::{here, note};
pub use rules::Rules;
pub use runtime::SimRuntime;
