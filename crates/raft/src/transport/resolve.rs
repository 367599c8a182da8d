//! Host names to addresses. The system's resolver blocks, can't be cancelled and may take ten
//! seconds for a name that is not there: so each name is looked up by one thread at a time, whoever
//! waits for it waits for the same answer, and the last good answer serves while there is none. (A
//! wrong address does no harm: the handshake says who is there.)

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::machine::watch;

/// How long a caller waits for the answer before the last good one has to do.
const TIMEOUT: Duration = Duration::from_millis(1500);

type Resolution = Option<Result<Vec<IpAddr>, String>>;

/// Shared by all clients of a member.
#[derive(Clone, Default)]
pub struct Resolver(Arc<Mutex<ResolverCache>>);

#[derive(Default)]
struct ResolverCache {
    in_flight: HashMap<String, watch::Receiver<Resolution>>,
    good: HashMap<String, Vec<IpAddr>>,
}

impl Resolver {
    /// The addresses behind a name, as far as can be told now.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let with_port =
            |ips: Vec<IpAddr>| ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(with_port(vec![ip]));
        }
        let failure = match self.ask(host).await {
            Ok(ips) => return Ok(with_port(ips)),
            Err(failure) => failure,
        };
        let known = self.names().good.get(host).cloned();
        known.map(with_port).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("can't resolve {host}: {failure}"))
        })
    }

    /// Whether this is an address, or a name that the system's resolver knows now; a remembered
    /// answer does not count.
    pub async fn check(&self, host: &str) -> Result<(), String> {
        if host.parse::<IpAddr>().is_ok() { Ok(()) } else { self.ask(host).await.map(drop) }
    }

    async fn ask(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let mut answer = self.lookup(host);
        let heard = timeout(TIMEOUT, answer.wait_for(Option::is_some)).await;
        let heard = heard
            .map_err(|_| "no answer yet".to_owned())?
            .map_err(|_| "the lookup ended without an answer".to_owned())?;
        heard.clone().unwrap_or_else(|| Err("no answer".into()))
    }

    /// Joins the lookup that is under way, or begins one.
    fn lookup(&self, host: &str) -> watch::Receiver<Resolution> {
        let mut names = self.names();
        if let Some(in_flight) = names.in_flight.get(host) {
            return in_flight.clone();
        }
        let (tell, answer) = watch::channel(None);
        names.in_flight.insert(host.to_owned(), answer.clone());
        let (resolver, host) = (self.clone(), host.to_owned());
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            let found =
                found.map(|all| all.map(|a| a.ip()).collect::<Vec<_>>()).map_err(|e| e.to_string());
            let found = found.and_then(|ips| {
                if ips.is_empty() { Err("it has no address".to_owned()) } else { Ok(ips) }
            });
            let mut names = resolver.names();
            names.in_flight.remove(&host);
            if let Ok(ips) = &found {
                names.good.insert(host, ips.clone());
            }
            drop(names);
            tell.send_replace(Some(found));
        });
        answer
    }

    fn names(&self) -> MutexGuard<'_, ResolverCache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_addresses_and_names_that_are_none() {
        let resolver = Resolver::default();
        assert_eq!(
            resolver.resolve("127.0.0.1", 7).await.unwrap(),
            ["127.0.0.1:7".parse().unwrap()]
        );
        assert_eq!(resolver.resolve("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
        assert!(
            resolver.resolve("localhost", 7).await.unwrap().iter().all(|a| a.ip().is_loopback())
        );
        assert!(resolver.resolve("no.such.host.invalid", 7).await.is_err());
    }

    #[tokio::test]
    async fn one_lookup_serves_all_and_the_last_good_answer_stays() {
        let resolver = Resolver::default();
        let (never, pending) = watch::channel(None);
        resolver.names().in_flight.insert("slow".into(), pending);
        // The lookup under way is joined: no second one begins, and there is nothing good yet.
        assert!(resolver.resolve("slow", 7).await.is_err());
        resolver.names().good.insert("slow".into(), vec!["127.0.0.9".parse().unwrap()]);
        assert_eq!(resolver.resolve("slow", 7).await.unwrap(), ["127.0.0.9:7".parse().unwrap()]);
        never.send_replace(Some(Ok(vec!["127.0.0.8".parse().unwrap()])));
        assert_eq!(resolver.resolve("slow", 7).await.unwrap(), ["127.0.0.8:7".parse().unwrap()]);
    }
}
