//! Whether the primary's server accepts connections now, and whether it supports TLS.
//!
//! For a client without TLS the gateway reads the server's reply to the client's startup packet.
//! With TLS the gateway cannot read that reply, and the client cannot be sent elsewhere once it has
//! started TLS with the server. So the gateway probes the server first, with a startup packet of its
//! own.
//!
//! ```text
//!  connect for the client ▸ connect the probe ▸ the server accepts the probe ▸ forward the client
//! ```
//!
//! The postmaster decides whether it accepts a connection at accept(), in the order in which
//! connections arrived. If it has accepted a probe, it has also accepted the client that connected
//! before the probe. One probe serves all clients that wait for one.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
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
/// After a refused connection, until the server is probed again.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What the gateway knows about the primary's server.
#[derive(Default)]
pub struct Readiness {
    last: Mutex<Option<Probe>>,
    /// The last server that granted TLS.
    tls: watch::Sender<Option<PrimaryServer>>,
    /// Held while a probe is in progress.
    probing: tokio::sync::Mutex<()>,
}

/// The result of the last probe.
struct Probe {
    of: PrimaryServer,
    began: Instant,
    accepted: bool,
}

impl Readiness {
    /// Whether the server accepted a probe that began at that time or later. Probes it if that is
    /// unknown.
    pub async fn accepts_since(
        &self,
        names: &AddressCache,
        target: &PrimaryServer,
        since: Instant,
    ) -> bool {
        let _probing = self.probing.lock().await;
        let last = self
            .last()
            .as_ref()
            .filter(|last| last.of == *target && last.began >= since)
            .map(|last| last.accepted);
        if let Some(accepted) = last {
            return accepted;
        }
        let began = Instant::now();
        let accepted = probe(names, target).await;
        *self.last() = Some(Probe { of: target.clone(), began, accepted });
        accepted
    }

    /// Whether an attempt is worthwhile. A server that refused the last connection is probed again,
    /// once for all clients.
    pub async fn may_accept(&self, names: &AddressCache, target: &PrimaryServer) -> bool {
        let refused = self.last().as_ref().is_some_and(|last| last.of == *target && !last.accepted);
        let since = Instant::now().checked_sub(RETRY_DELAY).unwrap_or_else(Instant::now);
        !refused || self.accepts_since(names, target, since).await
    }

    /// The server refused a client.
    pub fn refused(&self, target: &PrimaryServer) {
        *self.last() = Some(Probe { of: target.clone(), began: Instant::now(), accepted: false });
    }

    /// Whether this server has granted TLS in this epoch. Only a restart can change that, and a
    /// restarted primary has another epoch.
    pub fn has_tls(&self, target: &PrimaryServer) -> bool {
        self.tls.borrow().as_ref() == Some(target)
    }

    /// Returns when [`Self::has_tls`] is true.
    pub async fn until_tls(&self, target: &PrimaryServer) {
        if self.tls.subscribe().wait_for(|tls| tls.as_ref() == Some(target)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Records that the server has granted or refused TLS.
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
        self.last.lock()
    }
}

async fn probe(names: &AddressCache, target: &PrimaryServer) -> bool {
    for address in names.addresses(&target.host, target.port).await {
        if let Ok(Ok(reply)) = timeout(TIMEOUT, request_password(address)).await {
            return reply == StartupReply::Answer;
        }
    }
    false
}

/// Sends a startup packet for a role that does not exist. `pg_hba.conf` requires a password, so the
/// server asks for one, and logs nothing when the gateway disconnects then.
async fn request_password(address: SocketAddr) -> std::io::Result<StartupReply> {
    let mut server = TcpStream::connect(address).await?;
    server.write_all(&startup_packet(PROBE_ROLE, PROBE_ROLE)).await?;
    let mut received = vec![];
    loop {
        if server.read_buf(&mut received).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match StartupReply::of(&received) {
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

    /// A server that sends the same reply to each client, and counts the clients.
    async fn server(answer: &'static [u8]) -> (PrimaryServer, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, probes) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&probes);
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
            probes,
        )
    }

    const ACCEPTED: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const STARTING: &[u8] = b"E\0\0\0\x10C57P03\0Mno\0\0";

    #[tokio::test]
    async fn one_probe_serves_all_waiting_clients() {
        let (target, probes) = server(ACCEPTED).await;
        let (readiness, names, since) =
            (Readiness::default(), AddressCache::default(), Instant::now());
        let all = (0..50).map(|_| readiness.accepts_since(&names, &target, since));
        assert!(futures::future::join_all(all).await.into_iter().all(|accepted| accepted));
        assert_eq!(probes.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(readiness.accepts_since(&names, &target, Instant::now()).await);
        assert_eq!(
            probes.load(Ordering::SeqCst),
            2,
            "an earlier result does not count for a later connection"
        );
        assert!(readiness.may_accept(&names, &target).await);
        assert_eq!(
            probes.load(Ordering::SeqCst),
            2,
            "a server that accepted the last connection is not probed"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_starting_up_is_probed_once_for_all_clients() {
        let (target, probes) = server(STARTING).await;
        let (readiness, names) = (Readiness::default(), AddressCache::default());
        readiness.refused(&target);
        let all = (0..50).map(|_| readiness.may_accept(&names, &target));
        assert!(!futures::future::join_all(all).await.into_iter().any(|accepted| accepted));
        assert!(probes.load(Ordering::SeqCst) <= 1);
        let next = PrimaryServer { epoch: 2, ..target };
        assert!(
            readiness.may_accept(&names, &next).await,
            "the server of the next epoch has refused no client yet"
        );
    }

    #[tokio::test]
    async fn tls_is_remembered_for_one_server_in_one_epoch() {
        let (target, _) = server(ACCEPTED).await;
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
