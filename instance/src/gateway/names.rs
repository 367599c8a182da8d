//! Resolves host names. If a DNS server was on a host that is lost, the system's resolver may take
//! ten seconds; the last good answer is used then.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long an answer is used without another lookup.
const MAX_AGE: Duration = Duration::from_secs(1);
/// For a lookup if there is an earlier answer.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(200);
/// For a lookup if there is none.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);

/// The last good answers, by host name.
#[derive(Clone, Default)]
pub struct AddressCache(Arc<Mutex<HashMap<String, CachedAddress>>>);

#[derive(Clone, Default)]
struct CachedAddress {
    ips: Vec<IpAddr>,
    at: Option<Instant>,
    /// A lookup is in progress.
    pending: bool,
}

impl AddressCache {
    /// The addresses of a host, IPv4 first. Empty if they are unknown.
    pub async fn addresses(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        let with_port =
            |ips: Vec<IpAddr>| ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return with_port(vec![ip]);
        }
        let earlier = self.all().get(host).cloned().unwrap_or_default();
        let fresh = earlier.at.is_some_and(|at| at.elapsed() < MAX_AGE);
        if fresh || (earlier.pending && !earlier.ips.is_empty()) {
            return with_port(earlier.ips);
        }
        let limit = if earlier.ips.is_empty() { FIRST_TIMEOUT } else { REFRESH_TIMEOUT };
        // A lookup that takes longer continues in the background, for the next caller.
        let found = timeout(limit, tokio::spawn(self.clone().look_up(host.to_owned()))).await;
        with_port(found.ok().and_then(Result::ok).flatten().unwrap_or(earlier.ips))
    }

    async fn look_up(self, host: String) -> Option<Vec<IpAddr>> {
        self.all().entry(host.clone()).or_default().pending = true;
        let found = lookup_host((host.as_str(), 0)).await;
        let mut ips: Vec<IpAddr> =
            found.map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default();
        ips.sort();
        ips.dedup();
        let mut all = self.all();
        let answer = all.entry(host).or_default();
        answer.pending = false;
        if ips.is_empty() {
            return None;
        }
        (answer.ips, answer.at) = (ips.clone(), Some(Instant::now()));
        Some(ips)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, CachedAddress>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_lookup_gives_the_last_good_answer() {
        let names = AddressCache::default();
        assert_eq!(names.addresses("127.0.0.9", 7).await, ["127.0.0.9:7".parse().unwrap()]);
        assert!(
            names
                .addresses("localhost", 7)
                .await
                .iter()
                .all(|a| a.ip().is_loopback() && a.port() == 7)
        );
        assert!(names.addresses("no.such.host.invalid", 7).await.is_empty());
        names.all().entry("no.such.host.invalid".into()).or_default().ips =
            vec!["127.0.0.8".parse().unwrap()];
        assert_eq!(
            names.addresses("no.such.host.invalid", 7).await,
            ["127.0.0.8:7".parse().unwrap()]
        );
    }
}
