//! Whether the primary's server takes connections now, and whether it speaks TLS.
//!
//! A client without TLS is asked for nothing: the gateway reads the server's answer to its startup
//! packet. With TLS that answer is hidden, and the client can't be led elsewhere once it has spoken
//! to the server. So the server is asked first, by a startup packet of the gateway's own.
//!
//! ```text
//!  connect for the client ▸ connect for the probe ▸ the probe is taken ▸ the client is passed on
//! ```
//!
//! The postmaster decides whether it takes a connection when it accepts that connection, and it
//! accepts them in the order in which they came. So a probe that was taken vouches for the client
//! that had connected before it. One probe serves all who wait for one.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgraft_core::instance_config::PROBE_ROLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::names::AddressCache;
use super::route::PrimaryServer;
use super::startup::{StartupReply, startup_packet};

/// For one address of the server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server that did not take connections is left alone.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What is known of the primary's server.
#[derive(Default)]
pub struct Readiness {
    last: Mutex<Option<Probe>>,
    /// The last server that has granted TLS.
    tls: watch::Sender<Option<PrimaryServer>>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
}

/// One answer.
struct Probe {
    of: PrimaryServer,
    began: Instant,
    taken: bool,
}

impl Readiness {
    /// Whether it took a connection that began at that time, or later.
    pub async fn takes_since(
        &self,
        names: &AddressCache,
        target: &PrimaryServer,
        since: Instant,
    ) -> bool {
        let _asking = self.asking.lock().await;
        let last = self
            .last()
            .as_ref()
            .filter(|last| last.of == *target && last.began >= since)
            .map(|last| last.taken);
        if let Some(taken) = last {
            return taken;
        }
        let began = Instant::now();
        let taken = probe(names, target).await;
        *self.last() = Some(Probe { of: target.clone(), began, taken });
        taken
    }

    /// Whether it is worth a try: a server that did not take the last connection is asked again by
    /// one for all.
    pub async fn may_take(&self, names: &AddressCache, target: &PrimaryServer) -> bool {
        let refused = self.last().as_ref().is_some_and(|last| last.of == *target && !last.taken);
        let since = Instant::now().checked_sub(RETRY_DELAY).unwrap_or_else(Instant::now);
        !refused || self.takes_since(names, target, since).await
    }

    /// It did not take a client.
    pub fn refused(&self, target: &PrimaryServer) {
        *self.last() = Some(Probe { of: target.clone(), began: Instant::now(), taken: false });
    }

    /// Whether this very server, in this epoch, has granted TLS. It does so until it is started
    /// anew, which is another epoch.
    pub fn has_tls(&self, target: &PrimaryServer) -> bool {
        self.tls.borrow().as_ref() == Some(target)
    }

    /// Returns when that is so.
    pub async fn until_tls(&self, target: &PrimaryServer) {
        if self.tls.subscribe().wait_for(|tls| tls.as_ref() == Some(target)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// It has granted TLS, or refused it.
    pub fn learn_tls(&self, target: &PrimaryServer, granted: bool) {
        self.tls.send_if_modified(|tls| {
            let changes = (tls.as_ref() == Some(target)) != granted;
            if changes {
                *tls = granted.then(|| target.clone());
            }
            changes
        });
    }

    fn last(&self) -> MutexGuard<'_, Option<Probe>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn probe(names: &AddressCache, target: &PrimaryServer) -> bool {
    for address in names.addresses(&target.host, target.port).await {
        if let Ok(Ok(reply)) = timeout(TIMEOUT, ask(address)).await {
            return reply == StartupReply::Answer;
        }
    }
    false
}

/// `pg_hba.conf` asks this role, which does not exist, for a password: the server says so, and
/// nothing is logged when the gateway goes then.
async fn ask(address: SocketAddr) -> std::io::Result<StartupReply> {
    let mut server = TcpStream::connect(address).await?;
    server.write_all(&startup_packet(PROBE_ROLE, PROBE_ROLE)).await?;
    let mut said = vec![];
    loop {
        if server.read_buf(&mut said).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match StartupReply::of(&said) {
            StartupReply::Incomplete => {}
            reply => return Ok(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    /// A server that says the same to everybody, and counts them.
    async fn server(answer: &'static [u8]) -> (PrimaryServer, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                client.read_buf(&mut vec![]).await.unwrap();
                client.write_all(answer).await.unwrap();
            }
        });
        (
            PrimaryServer {
                epoch: 1,
                node: pgraft_core::NodeId::new(1).unwrap(),
                host: "127.0.0.1".into(),
                port,
            },
            asked,
        )
    }

    const TAKEN: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const STARTING: &[u8] = b"E\0\0\0\x10C57P03\0Mno\0\0";

    #[tokio::test]
    async fn one_probe_serves_all_who_wait() {
        let (target, asked) = server(TAKEN).await;
        let (readiness, names, since) =
            (Readiness::default(), AddressCache::default(), Instant::now());
        let all = (0..50).map(|_| readiness.takes_since(&names, &target, since));
        assert!(futures::future::join_all(all).await.into_iter().all(|taken| taken));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(readiness.takes_since(&names, &target, Instant::now()).await);
        assert_eq!(
            asked.load(Ordering::SeqCst),
            2,
            "an earlier answer says nothing about a later connection"
        );
        assert!(readiness.may_take(&names, &target).await);
        assert_eq!(
            asked.load(Ordering::SeqCst),
            2,
            "a server that took the last connection is not asked"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_starting_up_is_asked_by_one_for_all() {
        let (target, asked) = server(STARTING).await;
        let (readiness, names) = (Readiness::default(), AddressCache::default());
        readiness.refused(&target);
        let all = (0..50).map(|_| readiness.may_take(&names, &target));
        assert!(!futures::future::join_all(all).await.into_iter().any(|taken| taken));
        assert!(asked.load(Ordering::SeqCst) <= 1);
        let next = PrimaryServer { epoch: 2, ..target };
        assert!(
            readiness.may_take(&names, &next).await,
            "the next epoch's server has refused nobody yet"
        );
    }

    #[tokio::test]
    async fn tls_is_remembered_of_one_server_in_one_epoch() {
        let (target, _) = server(TAKEN).await;
        let readiness = Readiness::default();
        assert!(!readiness.has_tls(&target));
        let ((), ()) = tokio::join!(readiness.until_tls(&target), async {
            readiness.learn_tls(&target, true);
        });
        assert!(readiness.has_tls(&target));
        assert!(!readiness.has_tls(&PrimaryServer { epoch: 2, ..target.clone() }));
        readiness.learn_tls(&target, false);
        assert!(!readiness.has_tls(&target));
    }
}
