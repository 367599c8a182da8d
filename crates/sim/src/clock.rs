//! Virtual time: one clock for the whole simulation, counted from its beginning, and each machine's
//! own as Tokio shows it.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Since the beginning of the simulation.
pub type Time = Duration;

thread_local! {
    static BORN: Cell<Option<(Instant, Time)>> = const { Cell::new(None) };
}

/// While it lives, this thread runs a machine whose own clock said `.0` at the time `.1`.
pub struct EnteredClock(Option<(Instant, Time)>);

/// Enters a machine's clock.
pub fn enter(born: (Instant, Time)) -> EnteredClock {
    EnteredClock(BORN.replace(Some(born)))
}

impl Drop for EnteredClock {
    fn drop(&mut self) {
        BORN.set(self.0.take());
    }
}

/// What time it is on the machine that this thread runs; None on none.
pub fn here() -> Option<Time> {
    BORN.get().map(|(instant, time)| time + (Instant::now() - instant))
}

/// As the story shows it: `12.340s`.
pub fn show(time: Time) -> String {
    format!("{:3}.{:03}s", time.as_secs(), time.subsec_millis())
}
