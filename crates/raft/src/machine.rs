//! What a member takes from the machine that it runs on, apart from the network: chance, the wall
//! clock, and how its tasks are told of a change. A simulation (feature `sim`) has its own of each;
//! without that feature these are the plain calls and nothing else.

use pgraft_core::{ClusterState, Command, Outcome, Refusal};
use uuid::Uuid;

#[cfg(feature = "sim")]
pub use crate::sim::{SimRuntime as Runtime, watch};
#[cfg(not(feature = "sim"))]
pub use tokio::sync::watch;

/// What openraft runs on.
#[cfg(not(feature = "sim"))]
pub type Runtime = openraft::impls::TokioRuntime;

/// An id that nobody else has.
pub fn new_uuid() -> Uuid {
    #[cfg(feature = "sim")]
    if let Some(id) = crate::sim::here(|machine| machine.uuid()) {
        return id;
    }
    Uuid::new_v4()
}

/// Microseconds since the Unix epoch, by a clock that can be set.
pub fn wall_clock_us() -> i64 {
    #[cfg(feature = "sim")]
    if let Some(now) = crate::sim::here(|machine| machine.wall_clock_us()) {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|d| i64::try_from(d.as_micros()).ok()).unwrap_or(0)
}

/// Whether this member lives in a simulation, where there are no sockets and no other threads.
pub fn is_simulated() -> bool {
    #[cfg(feature = "sim")]
    return crate::sim::here(|_| ()).is_some();
    #[cfg(not(feature = "sim"))]
    false
}

/// What the command makes of the state: [`ClusterState::apply`], unless a simulation has taken one
/// of its rules out to see what breaks.
pub fn apply(state: &mut ClusterState, command: &Command) -> Result<Outcome, Refusal> {
    #[cfg(feature = "sim")]
    if let Some(rules) = crate::sim::here(|machine| machine.rules()) {
        return rules.apply(state, command);
    }
    state.apply(command)
}

/// Whether a primary waits for its standbys before it takes writes. It does, unless a simulation
/// has taken that rule out to see what breaks.
pub fn keeps_the_barrier() -> bool {
    #[cfg(feature = "sim")]
    return crate::sim::here(|machine| machine.rules().barrier).unwrap_or(true);
    #[cfg(not(feature = "sim"))]
    true
}

/// Whether a standby compares its WAL with the primary's history before it follows. It does, unless
/// a simulation leaves that out.
pub fn compares_histories() -> bool {
    #[cfg(feature = "sim")]
    return crate::sim::here(|machine| machine.rules().compares).unwrap_or(true);
    #[cfg(not(feature = "sim"))]
    true
}

/// Whether the group gives each promotion its timeline. It does, unless a simulation leaves the
/// number to Postgres.
pub fn gives_timelines() -> bool {
    #[cfg(feature = "sim")]
    return crate::sim::here(|machine| machine.rules().timelines).unwrap_or(true);
    #[cfg(not(feature = "sim"))]
    true
}
