//! How long the gateway of a node that stops continues. A Service sends clients to a pod until
//! every host has learned that the pod is being deleted. Once the pod's process has ended, these
//! clients would wait for their connection timeouts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;

/// The gateway continues for at most this many times `gateway.drainTime`. A client that still
/// connects then does so for another reason than a delay.
const MAX_FACTOR: u32 = 5;

/// Returns when the gateway may end. `stopped_at` is when the node was asked to stop.
pub async fn drained(gateway: Option<Arc<Gateway>>, stopped_at: Instant) {
    let wanted = gateway.as_ref().and_then(|gateway| Some((gateway, gateway.settings.drain?)));
    let Some((gateway, quiet)) = wanted else { return };
    loop {
        let last_client = gateway.counters.last_client_at().map(|at| at.elapsed());
        let left = left(quiet, stopped_at.elapsed(), last_client);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// How much longer the gateway continues if no client connects. Pure: `stopped` and `last_client`
/// are how long ago the node was asked to stop, and the latest client connected.
fn left(quiet: Duration, stopped: Duration, last_client: Option<Duration>) -> Duration {
    let since = last_client.map_or(stopped, |at| at.min(stopped));
    quiet.saturating_sub(since).min(quiet.saturating_mul(MAX_FACTOR).saturating_sub(stopped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_continues_until_no_client_connects_within_a_bound() {
        let seconds = Duration::from_secs;
        let left = |stopped, last_client: Option<u64>| {
            left(seconds(2), seconds(stopped), last_client.map(seconds)).as_secs()
        };
        assert_eq!(left(0, None), 2);
        assert_eq!(left(1, None), 1);
        assert_eq!(left(1, Some(100)), 1, "clients from before the stop do not matter");
        assert_eq!(left(3, Some(100)), 0, "stopping the server took longer");
        assert_eq!(left(3, Some(0)), 2);
        assert_eq!(left(9, Some(0)), 1, "clients keep coming");
        assert_eq!(left(20, Some(0)), 0);
    }
}
