//! Members over TLS, with valid and invalid certificates.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

mod logged;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logged::{LOG, keep_logs, logged, until_logged};
use pgraft_core::control::{Request, Response};
use pgraft_core::{Address, NodeId, NodeStatus};
use pgraft_raft::{
    Hooks, Node, Protection, RaftSettings, RaftTlsFiles, SNAPSHOT_EVERY, StartError,
};
use pgraft_testkit::certificates::{Authority, CertificateFiles, DAY, IssuedCertificate, replace};
use pgraft_testkit::free_port;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const TIMEOUT: Duration = Duration::from_secs(90);

/// Held by the tests that count reads: the log is everybody's.
static READS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct TlsMember {
    settings: RaftSettings,
    files: CertificateFiles,
    node: Option<Node>,
}

impl TlsMember {
    fn new(dir: &Path, id: i64, issued: &IssuedCertificate, ca: &str) -> Self {
        keep_logs();
        let files = CertificateFiles::write(&dir.join(format!("tls-{id}")), issued, ca);
        let at = Address::new("127.0.0.1", i64::from(free_port())).unwrap();
        let CertificateFiles { cert, key, ca } = files.clone();
        let settings = RaftSettings {
            node_id: NodeId::new(id).unwrap(),
            listen: at.clone(),
            advertise: at,
            data_dir: dir.join(format!("node-{id}")),
            heartbeat_interval: Duration::from_millis(50),
            // No leader dies here: node 1 leads however busy the machine is.
            election_timeout: Duration::from_secs(9),
            join_timeout: None,
            lease_timeout: None,
            snapshot_every: SNAPSHOT_EVERY,
            postgres: Address::new("127.0.0.1", 5432).unwrap(),
            zone: String::new(),
            protection: Protection::Tls(RaftTlsFiles { cert, key, ca }),
        };
        Self { settings, files, node: None }
    }

    async fn try_start(&mut self) -> Result<(), StartError> {
        let hooks = Hooks { wal: Arc::new(|| None), postgres: None, publish: Box::new(|_| {}) };
        self.node = Some(Node::start(self.settings.clone(), hooks).await?);
        Ok(())
    }

    async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    async fn stop(&mut self) {
        self.node.take().unwrap().shutdown().await;
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    fn port(&self) -> u16 {
        self.settings.listen.port()
    }

    fn status(&self) -> NodeStatus {
        NodeStatus::clone(&self.node().status().borrow())
    }

    async fn add(&self, id: i64, port: u16) {
        let request =
            Request::AddNode { node_id: id, address: "127.0.0.1".into(), port: i64::from(port) };
        assert_eq!(self.node().ask(request).await, Response::Done { notice: None });
    }

    async fn wait(&self, what: &str, ready: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let mut status = self.node().status();
        let found = tokio::time::timeout(TIMEOUT, status.wait_for(|s| ready(s)))
            .await
            .map(|s| NodeStatus::clone(&s.unwrap()));
        found.unwrap_or_else(|_| panic!("waited for {what}, and there is {:#?}", self.status()))
    }

    /// Tells the member to look at its files, until it has said that it read them.
    async fn reload(&self, count: usize) {
        let start = Instant::now();
        while logged(&["TLS files were read again"]) < count {
            self.node().reloader()();
            assert!(start.elapsed() < TIMEOUT, "{:#?}", LOG.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Bootstrap node 1 and its voters.
async fn group(dir: &Path, ca: &Authority, size: i64) -> Vec<TlsMember> {
    let mut members = Vec::new();
    for id in 1..=size {
        let mut member = TlsMember::new(dir, id, &ca.node(id), &ca.pem());
        member.start().await;
        members.push(member);
    }
    assert_eq!(members[0].node().ask(Request::Init).await, Response::Done { notice: None });
    for id in 2..=size {
        let n = usize::try_from(id).unwrap();
        members[0].add(id, members[n - 1].port()).await;
        members[0].wait("the vote", |s| s.voters == n).await;
    }
    members
}

fn roots(ca: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    roots
}

fn pair(issued: &IssuedCertificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain =
        CertificateDer::pem_slice_iter(issued.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap())
}

/// What a dialler hears from a member that it says hello to as `from`. It comes from `source`, so
/// that the log can be told apart.
async fn dial(
    member: &TlsMember,
    source: &str,
    tls: Option<(&Authority, Option<&IssuedCertificate>)>,
    from: u32,
) -> Result<String, String> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    let stream =
        socket.connect(format!("127.0.0.1:{}", member.port()).parse().unwrap()).await.unwrap();
    let uuid = "00000000-0000-0000-0000-000000000001";
    let cluster = member.status().cluster_id.map_or_else(|| uuid.to_owned(), |id| id.to_string());
    let to = member.settings.node_id;
    let hello = serde_json::json!({"version": 1, "cluster": cluster, "from": from, "to": to, "to_instance": null, "from_instance": uuid});
    let Some((ca, issued)) = tls else { return talk(stream, &hello).await };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_root_certificates(roots(ca));
    let config = match issued.map(pair) {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from(format!("node-{to}.pgraft")).unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| e.to_string())?;
    talk(stream, &hello).await
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    hello: &serde_json::Value,
) -> Result<String, String> {
    let body = serde_json::to_vec(hello).unwrap();
    let frame = [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
    let exchange = async {
        stream.write_all(&frame).await?;
        let mut answer = vec![0; stream.read_u32().await? as usize];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap().map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_lets_nobody_in_but_the_node_of_the_certificate() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let members = group(dir.path(), &ca, 2).await;
    members[0]
        .wait("everybody's answer", |s| s.members.iter().all(|m| m.reachable == Some(true)))
        .await;
    let one = &members[0];

    // Node 3 is not a member yet, but it is who it says.
    assert_eq!(
        dial(one, "127.0.1.1", Some((&ca, Some(&ca.node(3)))), 3).await.unwrap(),
        "\"Accepted\""
    );

    let said = dial(one, "127.0.1.2", Some((&ca, Some(&ca.node(2)))), 3).await.unwrap();
    assert!(said.contains("it calls itself node 3, and its certificate is for node-2.pgraft, and node-3.pgraft is wanted"), "{said}");
    until_logged(&["refused a connection from 127.0.1.2: it calls itself node 3, and its certificate is for node-2.pgraft"]).await;

    let said = dial(one, "127.0.1.3", Some((&ca, Some(&ca.expired_node(3)))), 3).await.unwrap_err();
    assert!(said.contains("CertificateExpired"), "{said}");
    until_logged(&["no TLS connection from 127.0.1.3: its certificate expired 24 hours ago"]).await;

    let foreign = Authority::new("theirs");
    let said = dial(one, "127.0.1.4", Some((&ca, Some(&foreign.node(3)))), 3).await.unwrap_err();
    assert!(said.contains("UnknownCA"), "{said}");
    until_logged(&["no TLS connection from 127.0.1.4: its certificate is signed by no CA of pgraft.tls_ca_file"]).await;

    let said = dial(one, "127.0.1.5", Some((&ca, None)), 3).await.unwrap_err();
    assert!(said.contains("CertificateRequired"), "{said}");
    until_logged(&["no TLS connection from 127.0.1.5: it shows no certificate"]).await;

    let said = dial(one, "127.0.1.6", Some((&ca, Some(&ca.server_only(3)))), 3).await.unwrap_err();
    assert!(said.contains("UnsupportedCertificate"), "{said}");
    until_logged(&["no TLS connection from 127.0.1.6: its certificate may not be used for this"])
        .await;

    for _ in 0..3 {
        let said = dial(one, "127.0.1.7", None, 3).await.unwrap();
        assert!(said.contains("this node's Raft port takes TLS only"), "{said}");
    }
    until_logged(&["no TLS connection from 127.0.1.7: it does not speak TLS"]).await;
    assert_eq!(logged(&["127.0.1.7"]), 1, "said once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_on_a_plain_port_is_told_so() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let mut plain = TlsMember::new(dir.path(), 2, &ca.node(2), &ca.pem());
    plain.settings.protection = Protection::Loopback;
    plain.start().await;
    let said = dial(&plain, "127.0.2.1", Some((&ca, Some(&ca.node(1)))), 1).await.unwrap_err();
    assert!(said.contains("InvalidContentType"), "{said}");
    until_logged(&["no TLS connection from 127.0.2.1: it speaks TLS, and this node does not"])
        .await;

    // And the member that dials it knows what is wrong, as does a plain one that dials a member
    // with TLS.
    let members = group(dir.path(), &ca, 1).await;
    members[0].add(2, plain.port()).await;
    until_logged(&[&format!(
        "no TLS connection to 2 at 127.0.0.1:{}: it does not speak TLS",
        plain.port()
    )])
    .await;
    assert_eq!(
        members[0].node().ask(Request::RemoveNode { node_id: 2 }).await,
        Response::Done { notice: None }
    );

    let mut found = TlsMember::new(dir.path(), 7, &ca.node(7), &ca.pem());
    found.settings.protection = Protection::Loopback;
    found.start().await;
    assert_eq!(found.node().ask(Request::Init).await, Response::Done { notice: None });
    let mut secure = TlsMember::new(dir.path(), 8, &ca.node(8), &ca.pem());
    secure.start().await;
    found.add(8, secure.port()).await;
    until_logged(&[&format!(
        "node 8 at 127.0.0.1:{} refuses this node: this node's Raft port takes TLS only",
        secure.port()
    )])
    .await;
}

/// A listener that is none of ours: shows a certificate and nothing else.
async fn impostor(ca: &Authority, issued: &IssuedCertificate) -> u16 {
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(ca)),
        Arc::new(rustls::crypto::ring::default_provider()),
    );
    let (chain, key) = pair(issued);
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.read_u8().await.map(|_| panic!("a member spoke to an impostor"));
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialler_speaks_to_nobody_but_the_node_that_it_means() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
    let members = group(dir.path(), &ca, 1).await;
    let cases = [
        (ca.node(2), "its certificate is for node-2.pgraft, and node-3.pgraft is wanted"),
        (ca.expired_node(3), "its certificate expired 24 hours ago"),
        (
            Authority::new("theirs").node(3),
            "its certificate is signed by no CA of pgraft.tls_ca_file",
        ),
        (
            ca.issue("db-3.example", &["db-3.example"], DAY),
            "its certificate is for db-3.example, and node-3.pgraft is wanted",
        ),
    ];
    for (n, (issued, words)) in (3..).zip(cases) {
        let port = impostor(&ca, &issued).await;
        members[0].add(n, port).await;
        let words = words.replace("node-3", &format!("node-{n}"));
        until_logged(&[&format!("no TLS connection to {n} at 127.0.0.1:{port}: {words}")]).await;
        assert_eq!(
            members[0].node().ask(Request::RemoveNode { node_id: n }).await,
            Response::Done { notice: None }
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_certificate_is_refused_is_told_why() {
    let (dir, ours, theirs) =
        (tempfile::tempdir().unwrap(), Authority::new("ours"), Authority::new("theirs"));
    let mut members = group(dir.path(), &ours, 2).await;
    // Node 2 changes to another CA, which it alone knows of beside the old one: it reaches nobody,
    // and nobody is disturbed.
    members[1].stop().await;
    members[1].files.set_ca(&format!("{}{}", ours.pem(), theirs.pem()));
    members[1].files.set_pair(&theirs.node(2));
    members[1].start().await;
    let port = members[0].port();
    until_logged(&[&format!("no TLS connection to 1 at 127.0.0.1:{port}: it refuses this node's certificate: signed by no CA of its")])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_ca_are_replaced_under_way() {
    let _alone = READS.lock().await;
    let (dir, old, new) =
        (tempfile::tempdir().unwrap(), Authority::new("old"), Authority::new("new"));
    let mut members = group(dir.path(), &old, 3).await;
    let leads = members[0]
        .wait("everybody's answer", |s| s.members.iter().all(|m| m.reachable == Some(true)))
        .await;
    let mut reads = logged(&["TLS files were read again"]);
    // Both CAs, then the new certificates, then the new CA alone; all members one after the other.
    for step in 0..3 {
        for member in &members {
            match step {
                0 => member.files.set_ca(&format!("{}{}", old.pem(), new.pem())),
                1 => member.files.set_pair(&new.node(member.settings.node_id)),
                _ => member.files.set_ca(&new.pem()),
            }
            reads += 1;
            member.reload(reads).await;
        }
        let now = members[0]
            .wait("everybody's answer", |s| s.members.iter().all(|m| m.reachable == Some(true)))
            .await;
        assert_eq!(
            (now.term, now.leader),
            (leads.term, leads.leader),
            "step {step} cost the leader"
        );
    }
    // Nothing but the new CA is known from here on: new connections, and a newcomer.
    let mut four = TlsMember::new(dir.path(), 4, &new.node(4), &new.pem());
    four.start().await;
    members[0].add(4, four.port()).await;
    members[0].wait("the vote", |s| s.voters == 4).await;
    members[1].stop().await;
    members[1].start().await;
    members[1].wait("the leader", |s| s.leader.is_some() && s.voters == 4).await;
    let said =
        dial(&members[0], "127.0.3.1", Some((&new, Some(&old.node(5)))), 5).await.unwrap_err();
    assert!(said.contains("UnknownCA"), "{said}");

    // A file that is no good changes nothing, and neither does one half of a pair.
    let before = logged(&["the old ones stay in force"]);
    members[0].files.set_ca("nothing");
    replace(&members[2].files.cert, &new.node(3).cert);
    let start = Instant::now();
    while logged(&["the old ones stay in force"]) < before + 2 {
        for member in &members {
            member.node().reloader()();
        }
        assert!(start.elapsed() < TIMEOUT, "{:#?}", LOG.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until_logged(&[
        "the old ones stay in force: pgraft.tls_ca_file",
        "holds no certificate in PEM",
    ])
    .await;
    until_logged(&["the old ones stay in force: pgraft.tls_cert_file", "can't be used together"])
        .await;
    members[1].stop().await;
    members[1].start().await;
    members[1].wait("the leader", |s| s.leader.is_some() && s.voters == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_can_not_work_are_refused_at_the_start() {
    let ca = Authority::new("ours");
    let dir = tempfile::tempdir().unwrap();
    let mut id = 20;
    let mut refused = async |spoil: &dyn Fn(&CertificateFiles, i64), words: &[&str]| {
        id += 1;
        let mut member = TlsMember::new(dir.path(), id, &ca.node(id), &ca.pem());
        spoil(&member.files, id);
        let error = member.try_start().await.unwrap_err();
        assert!(words.iter().all(|w| error.to_string().contains(w)), "{error}");
        assert!(!error.is_temporary(), "{error}");
    };
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // Root's tests own the files as root, for whom the group may read.
    refused(
        &|f, _| mode(&f.key, 0o644),
        &["pgraft.tls_key_file", "has group or world access (mode 0644"],
    )
    .await;
    refused(&|f, _| mode(&f.key, 0o660), &["has group or world access (mode 0660"]).await;
    refused(
        &|f, _| std::fs::remove_file(&f.cert).unwrap(),
        &["can't read pgraft.tls_cert_file", "No such file"],
    )
    .await;
    refused(
        &|f, _| std::fs::write(&f.ca, "x").unwrap(),
        &["pgraft.tls_ca_file", "holds no certificate in PEM"],
    )
    .await;
    refused(
        &|f, _| std::fs::write(&f.key, "x").unwrap(),
        &["pgraft.tls_key_file", "holds no private key in PEM"],
    )
    .await;
    let mismatch = |f: &CertificateFiles, id| replace(&f.cert, &ca.node(id).cert);
    refused(&mismatch, &["can't be used together"]).await;
    refused(&|f, _| f.set_pair(&ca.node(2)), &["is for node-2.pgraft, and node-", "is wanted"])
        .await;
    refused(
        &|f, id| f.set_pair(&Authority::new("theirs").node(id)),
        &["is signed by no CA of pgraft.tls_ca_file"],
    )
    .await;
    refused(
        &|f, id| f.set_pair(&ca.server_only(id)),
        &["extended key usage must allow serverAuth and clientAuth"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_is_spoken_of() {
    let _alone = READS.lock().await;
    let ca = Authority::new("ours");
    let dir: TempDir = tempfile::tempdir().unwrap();
    // It starts even so: the files are replaced under way.
    let mut expired = TlsMember::new(dir.path(), 31, &ca.expired_node(31), &ca.pem());
    expired.start().await;
    until_logged(&["this node's certificate expired 24 hours ago, and no member accepts it: replace pgraft.tls_cert_file"]).await;
    let mut soon = TlsMember::new(
        dir.path(),
        32,
        &ca.issue("node-32.pgraft", &["node-32.pgraft"], Duration::from_mins(65)),
        &ca.pem(),
    );
    soon.start().await;
    until_logged(&[
        "this node's certificate is valid for another",
        "replace pgraft.tls_cert_file and pgraft.tls_key_file",
    ])
    .await;
    // Mended without a restart.
    expired.files.set_pair(&ca.node(31));
    until_logged(&["TLS files were read again: new connections use them, this node's certificate is valid for another 364 days"]).await;
}
