//! Host names to addresses. The system's resolver may take ten seconds when the host that it asks
//! is the one that has died: the last good answer serves then.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long an answer serves without a question.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How long an answer is waited for where there is an earlier one.
const WITH_ANOTHER: Duration = Duration::from_millis(200);
/// ... and where there is none.
const WITH_NONE: Duration = Duration::from_secs(3);

/// The last good answers.
#[derive(Clone, Default)]
pub struct AddressCache(Arc<Mutex<HashMap<String, CachedAddress>>>);

#[derive(Clone, Default)]
struct CachedAddress {
    ips: Vec<IpAddr>,
    at: Option<Instant>,
    /// A question is under way.
    asked: bool,
}

impl AddressCache {
    /// As good as it is known now; empty where nothing is. IPv4 first.
    pub async fn addresses(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        let with_port =
            |ips: Vec<IpAddr>| ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return with_port(vec![ip]);
        }
        let earlier = self.all().get(host).cloned().unwrap_or_default();
        let fresh = earlier.at.is_some_and(|at| at.elapsed() < MAX_AGE);
        if fresh || (earlier.asked && !earlier.ips.is_empty()) {
            return with_port(earlier.ips);
        }
        let patience = if earlier.ips.is_empty() { WITH_NONE } else { WITH_ANOTHER };
        // Goes on by itself where nobody waits any more: the next one has its answer.
        let found = timeout(patience, tokio::spawn(self.clone().look_up(host.to_owned()))).await;
        with_port(found.ok().and_then(Result::ok).flatten().unwrap_or(earlier.ips))
    }

    async fn look_up(self, host: String) -> Option<Vec<IpAddr>> {
        self.all().entry(host.clone()).or_default().asked = true;
        let found = lookup_host((host.as_str(), 0)).await;
        let mut ips: Vec<IpAddr> =
            found.map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default();
        ips.sort();
        ips.dedup();
        let mut all = self.all();
        let answer = all.entry(host).or_default();
        answer.asked = false;
        if ips.is_empty() {
            return None;
        }
        (answer.ips, answer.at) = (ips.clone(), Some(Instant::now()));
        Some(ips)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, CachedAddress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_names_and_the_last_good_answer() {
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
