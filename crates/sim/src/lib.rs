//! Whole clusters of the real member (`pgraft-raft`: driver, commands, handshake, state machine,
//! openraft itself) in virtual time, under faults that a seed decides. One seed is one run, byte
//! for byte. For tests alone: nothing here ships.
//!
//! ```text
//!  seed ─▶ chaos ──┐                     ┌─ host: a Tokio runtime a machine, its time paused; a crash drops it
//!          clients ├─▶ world: step by ───┤─ net: connections, delays, cuts, losses
//!          script ─┘   step, 5 ms        └─ pgraft_raft::sim: disk, chance, wall clock, and what the member does
//!                        │                                        │ every vote, entry, applied state
//!                        ▼                                        ▼
//!                      story                                 invariants/*: one file each
//! ```
//!
//! Where the members have servers, `postgres` is what the failover protocol acts upon, and its
//! clients know what they were told.
//!
//! Why not turmoil: it needs `tokio_unstable` to be deterministic, has no disk, and its hosts can't
//! be paused with their clock. Why steps: a message takes 5 ms at least, so that machines can be
//! run one after the other for 5 ms each and none misses what another one sends it.

pub mod chaos;
pub mod clients;
pub mod clock;
pub mod host;
pub mod invariants;
pub mod net;
pub mod note;
pub mod numbers;
pub mod postgres;
pub mod run;
pub mod script;
pub mod story;
pub mod world;
