//! How long a connection lives, on a clock of the test's own. What certificates do is in
//! `tests/tls.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::machine::watch;
use futures::FutureExt;
use futures::future::BoxFuture;
use pgraft_core::{Address, ClusterId};
use pgraft_testkit::certificates::{Authority, CertificateFiles};
use uuid::Uuid;

use super::*;
use crate::identity::{Belonging, Identity};
use crate::store::AppliedState;
use crate::transport::handshake::Hello;
use crate::transport::{Listener, Local, LogDedup, Network, PeerFactory, Rpc, RpcReply, read_json};
use crate::types::Endpoint;

/// A network with one listener behind every address, which answers probes.
struct Loop {
    guard: Guard,
    connections: AtomicUsize,
}

impl Network for Loop {
    fn listen<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }

    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<BoxStream>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (here, there) = tokio::io::duplex(1 << 20);
        let guard = self.guard.clone();
        tokio::spawn(async move {
            let (mut stream, shown) = guard.accept(Box::new(there)).await.unwrap();
            let hello: Hello = read_json(&mut stream, MAX_FRAME).await.unwrap().unwrap();
            guard.check(&shown, hello.from).unwrap();
            write_json(&mut stream, &Welcome::Accepted, MAX_FRAME).await.unwrap();
            while let Some(Rpc::Probe) = read_json(&mut stream, MAX_FRAME).await.unwrap() {
                write_json(&mut stream, &RpcReply::Probe { wal: None, replayed: None }, MAX_FRAME)
                    .await
                    .unwrap();
            }
        });
        async { Ok(Box::new(here) as BoxStream) }.boxed()
    }

    fn knows<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_made_anew_after_an_hour() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("ours");
    let [one, two] = [1, 2].map(|n| NodeId::new(n).unwrap());
    let guard = |node: NodeId| {
        let CertificateFiles { cert, key, ca } =
            CertificateFiles::write(&dir.path().join(node.to_string()), &ca.node(node), &ca.pem());
        Guard::open(node, &Protection::Tls(RaftTlsFiles { cert, key, ca })).unwrap()
    };
    let mut identity = Identity::open(dir.path(), one).unwrap();
    identity
        .join(dir.path(), Belonging { id: ClusterId(Uuid::nil()), bootstrapped_here: true })
        .unwrap();
    let network = Arc::new(Loop { guard: guard(two), connections: AtomicUsize::new(0) });
    let factory = PeerFactory {
        local: Arc::new(Local::new(dir.path().to_owned(), identity)),
        applied: watch::channel(Arc::new(AppliedState::default())).1,
        network: Arc::clone(&network) as Arc<dyn Network>,
        guard: guard(one),
        confirmed: Arc::default(),
        log_dedup: Arc::new(LogDedup::default()),
    };
    let mut peer = factory.peer(2, Endpoint { host: "there".into(), port: 1 });
    let mut ask = async |after: Duration| {
        tokio::time::advance(after).await;
        assert!(matches!(
            peer.call(&Rpc::Probe, Duration::from_secs(1)).await,
            Ok(RpcReply::Probe { .. })
        ));
        network.connections.load(Ordering::Relaxed)
    };
    assert_eq!(ask(Duration::ZERO).await, 1);
    assert_eq!(ask(Duration::from_mins(59)).await, 1);
    assert_eq!(ask(Duration::from_mins(1)).await, 2);
    assert_eq!(ask(Duration::from_mins(59)).await, 2);
}
