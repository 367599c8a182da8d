//! How long the gateway of a node that stops goes on: for whoever decides from old news that this
//! node is the one to come to. A Service sends clients to a pod until every host has heard that it
//! goes, and from the moment that its process is gone they wait for their time limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;

/// So many times the quiet that is waited for: whoever still comes then was told to come here,
/// whatever becomes of it.
const MAX_FACTOR: u32 = 5;

/// Returns when the gateway may end, by what was set. `told` is when the node was told to stop.
pub async fn drained(gateway: Option<Arc<Gateway>>, told: Instant) {
    let wanted = gateway.as_ref().and_then(|gateway| Some((gateway, gateway.settings.drain?)));
    let Some((gateway, quiet)) = wanted else { return };
    loop {
        let left =
            left(quiet, told.elapsed(), gateway.figures.came_last().map(|came| came.elapsed()));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// For how long at least: pure. `told` and `came` are how long ago the node was told to stop, and
/// the latest client came.
fn left(quiet: Duration, told: Duration, came: Option<Duration>) -> Duration {
    let since = came.map_or(told, |came| came.min(told));
    quiet.saturating_sub(since).min(quiet.saturating_mul(MAX_FACTOR).saturating_sub(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_nobody_comes_and_not_for_ever() {
        let seconds = Duration::from_secs;
        let left =
            |told, came: Option<u64>| left(seconds(2), seconds(told), came.map(seconds)).as_secs();
        assert_eq!(left(0, None), 2);
        assert_eq!(left(1, None), 1);
        assert_eq!(left(1, Some(100)), 1, "whoever came before was led here rightly");
        assert_eq!(left(3, Some(100)), 0, "the server took its time to end");
        assert_eq!(left(3, Some(0)), 2);
        assert_eq!(left(9, Some(0)), 1, "somebody comes again and again");
        assert_eq!(left(20, Some(0)), 0);
    }
}
