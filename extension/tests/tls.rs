//! Servers with certificates: the documented session over TLS, and servers with invalid
//! certificates, which cannot join and log the reason.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "used by tests only"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use pgraft_testkit::bin_directory;
use pgraft_testkit::certificates::{Authority, CertificateFiles, IssuedCertificate};
use pgraft_testkit::postgres::{give, scratch};
use pgraft_testkit::server::{STEADY, TIMEOUT, TestServer};

/// A server with these files.
fn server(
    bindir: &Path,
    dir: &Path,
    id: u16,
    issued: &IssuedCertificate,
    ca: &str,
) -> (TestServer, CertificateFiles) {
    let server = TestServer::new(bindir, dir, id);
    let files = CertificateFiles::write(&dir.join(format!("tls-{id}")), issued, ca);
    let lines =
        [("cert", &files.cert), ("key", &files.key), ("ca", &files.ca)].map(|(what, path)| {
            give(path);
            format!("pgraft.tls_{what}_file = '{}'", path.display())
        });
    server.set(&lines.join("\n"));
    server.set(STEADY);
    (server, files)
}

async fn until_logged(server: &TestServer, words: &str) {
    let start = Instant::now();
    while !server.log().contains(words) {
        assert!(
            start.elapsed() < TIMEOUT,
            "node {}: no \"{words}\" in\n{}",
            server.id,
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_documented_session_works_over_tls_and_invalid_certificates_are_rejected() {
    let Some(bindir) = bin_directory() else { return };
    let (dir, ca) = (scratch(), Authority::new("ours"));
    let mut servers = Vec::new();
    for id in 1..=3 {
        let (server, _) = server(&bindir, dir.path(), id, &ca.node(id), &ca.pem());
        server.start();
        server.rows("create extension pgraft").await;
        servers.push(server);
    }
    assert_eq!(servers[0].one("select pgraft_init()").await, "t");
    for n in 1..3 {
        assert_eq!(servers[0].add(&servers[n]).await, "t");
        servers[0].until("select voters from pgraft_status()", &(n + 1).to_string()).await;
    }
    servers[2].until("select count(*) from pgraft_get_nodes()", "3").await;
    let error = servers[1].error("select pgraft_add_node(5, '127.0.0.1', 7005)").await;
    assert_eq!(
        error.message(),
        "Cannot add node - this node is not the leader. Node addition must be performed on the leader."
    );

    // Each is added, but cannot join. Both sides log the reason.
    let theirs = Authority::new("theirs");
    let cases = [
        (
            4,
            ca.expired_node(4),
            ca.pem(),
            "its certificate expired 24 hours ago",
            "this node's certificate expired 24 hours ago, and no member accepts it",
        ),
        (
            5,
            theirs.node(5),
            theirs.pem(),
            "its certificate is signed by no CA of pgraft.tls_ca_file",
            "it refuses this node's certificate: signed by no CA of its",
        ),
    ];
    for (id, issued, known, leaders_words, own_words) in cases {
        let (newcomer, _) = server(&bindir, dir.path(), id, &issued, &known);
        newcomer.start();
        newcomer.rows("create extension pgraft").await;
        let call = format!("select pgraft_add_node({id}, '127.0.0.1', {})", newcomer.raft_port);
        assert_eq!(servers[0].one(&call).await, "t");
        until_logged(
            &servers[0],
            &format!(
                "no TLS connection to {id} at 127.0.0.1:{}: {leaders_words}",
                newcomer.raft_port
            ),
        )
        .await;
        until_logged(&newcomer, own_words).await;
        assert_eq!(newcomer.one("select state from pgraft_status()").await, "uninitialized");
        assert_eq!(servers[0].one("select voters from pgraft_status()").await, "3");
        assert_eq!(servers[0].one(&format!("select pgraft_remove_node({id})")).await, "t");
    }

    // The certificate of another node is rejected. After it was replaced, a reload is enough.
    let (wrong, files) = server(&bindir, dir.path(), 6, &ca.node(2), &ca.pem());
    wrong.start();
    wrong.rows("create extension pgraft").await;
    let error = wrong.error("select * from pgraft_get_nodes()").await;
    assert!(
        error.message().contains("is for node-2.pgraft, and node-6.pgraft is wanted"),
        "{error}"
    );
    until_logged(&wrong, "the worker cannot start: the certificate of pgraft.tls_cert_file").await;
    let right = ca.node(6);
    std::fs::write(&files.key, &right.key).unwrap();
    std::fs::write(&files.cert, &right.cert).unwrap();
    wrong.rows("select pg_reload_conf()").await;
    wrong.until("select state from pgraft_status()", "uninitialized").await;
    assert_eq!(servers[0].add(&wrong).await, "t");
    wrong.until("select voters from pgraft_status()", "4").await;
}
