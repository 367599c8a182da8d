//! Nodes with certificates: which clients are accepted, and how changed files take effect.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "used by tests only"
)]

use pgraft_testkit::certificates::{Authority, IssuedCertificate, YEAR};
use pgraft_testkit::tls::{client, served};
use pgraft_testkit::{Nodes, TestNode, bin_directory, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_postgres::NoTls;

const REPLICATION_TLS: &str = "SELECT s.ssl || ' ' || s.version || ' ' || coalesce(s.client_dn, 'none') FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid)";

/// A bootstrap node with a certificate, and a second node without one.
async fn bootstrap(ca: &Authority) -> Option<Nodes> {
    let mut nodes = Nodes::new(&bin_directory()?, 2);
    let one = &mut nodes.nodes[0];
    one.set_certificate(&ca.server(1), &ca.pem());
    one.start();
    one.ready().await;
    one.sql("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    Some(nodes)
}

/// A bootstrap node and a standby that streams from it.
async fn pair(ca: &Authority) -> Option<Nodes> {
    let mut nodes = bootstrap(ca).await?;
    let two = &mut nodes.nodes[1];
    two.set_certificate(&ca.server(2), &ca.pem());
    two.start();
    two.streaming().await;
    Some(nodes)
}

#[tokio::test]
async fn a_standby_clones_and_streams_over_tls() {
    let ca = Authority::new("the CA");
    let Some(nodes) = pair(&ca).await else { return };
    let [one, two] = &nodes.nodes[..] else { panic!() };
    two.wait_for("SELECT n FROM t", "1").await;
    one.wait_for(REPLICATION_TLS, "true TLSv1.3 /CN=node-2.pgraft").await;
    // The Raft members use the same files.
    let shown = one.sql("SELECT current_setting('pgraft.tls_cert_file')").await.unwrap().unwrap();
    assert_eq!(shown, one.directory.join("tls/tls.crt").display().to_string());
    one.sql(&format!("SELECT pgraft_add_node(2, '127.0.0.1', {})", two.raft_port())).await.unwrap();
    two.wait_for("SELECT count(*) FROM pgraft_get_nodes()", "2").await;
}

#[tokio::test]
async fn accepts_valid_credentials_only() {
    let (ca, foreign) = (Authority::new("the CA"), Authority::new("the CA"));
    let Some(nodes) = bootstrap(&ca).await else { return };
    let one = &nodes.nodes[0];
    let refused = async |user: &str, password: &str, shown: Option<&IssuedCertificate>| {
        // With TLS 1.3, the client completes the handshake before the server checks its
        // certificate, so that the error may come with the first query.
        let Err(why) =
            one.connect_from_another_host(user, password, "postgres", client(&ca, shown)).await
        else {
            panic!("{user} was accepted")
        };
        why
    };
    // An application needs a password, and TLS from another host.
    one.connect_from_another_host("app", "owner-1", "app", client(&ca, None)).await.unwrap();
    one.connect("app", "owner-1", "app").await.unwrap();
    let plain = one.connect_from_another_host("app", "owner-1", "app", NoTls).await.unwrap_err();
    assert!(
        plain.contains("no pg_hba.conf entry for host \"127.0.0.2\"")
            && plain.contains("no encryption"),
        "{plain}"
    );
    let distrusted = one
        .connect_from_another_host("app", "owner-1", "app", client(&foreign, None))
        .await
        .unwrap_err();
    assert!(distrusted.contains("invalid peer certificate"), "{distrusted}");

    // The operator needs its certificate and no password.
    let operator = ca.issue("pgraft_operator", &[], YEAR);
    let session = one
        .connect_from_another_host("pgraft_operator", "", "postgres", client(&ca, Some(&operator)))
        .await
        .unwrap();
    assert_eq!(
        session.query_one("SELECT current_user::text", &[]).await.unwrap().get::<_, String>(0),
        "pgraft_operator"
    );
    for (issued, words) in [
        (Some(ca.server(2)), "certificate authentication failed"),
        (None, "connection requires a valid client certificate"),
        (Some(foreign.issue("pgraft_operator", &[], YEAR)), "alert"),
        (Some(ca.expired("pgraft_operator", &[])), "alert"),
    ] {
        let why = refused("pgraft_operator", "operator-1", issued.as_ref()).await;
        assert!(why.contains(words), "{why}");
    }
    one.connect("pgraft_operator", "operator-1", "postgres").await.unwrap_err();
    one.connect("pgraft_operator", "operator-1", "app").await.unwrap_err();

    // A standby needs a password and a certificate.
    one.connect_from_another_host(
        "pgraft_replication",
        "replication-1",
        "postgres",
        client(&ca, Some(&ca.server(2))),
    )
    .await
    .unwrap();
    refused("pgraft_replication", "wrong", Some(&ca.server(2))).await;
    let why = refused("pgraft_replication", "replication-1", None).await;
    assert!(why.contains("connection requires a valid client certificate"), "{why}");
}

#[tokio::test]
async fn a_standby_with_an_invalid_certificate_is_rejected() {
    let (ca, foreign) = (Authority::new("the CA"), Authority::new("the CA"));
    let Some(mut nodes) = bootstrap(&ca).await else { return };
    let two = &mut nodes.nodes[1];
    // An expired certificate, one of another CA, and a client that trusts another CA.
    let expired = ca.expired("node-2.pgraft", &["node-2.pgraft", "127.0.0.1"]);
    let cases = [
        (expired, ca.pem(), "expired"),
        (foreign.server(2), ca.pem(), "UnknownCA"),
        (ca.server(2), foreign.pem(), "invalid peer certificate"),
    ];
    for (issued, trusted, words) in cases {
        two.set_certificate(&issued, &trusted);
        let before = two.log().len();
        two.start();
        let said = async || {
            let log = two.log();
            let log = &log[before..];
            (log.contains("could not query the primary at 127.0.0.1")
                && log.to_lowercase().contains(&words.to_lowercase()))
            .then_some(())
        };
        until(words, said).await;
        assert!(!two.directory.join("pgdata").exists());
        assert!(two.terminate().await.success());
    }
    // It gets a valid certificate while it waits, and continues.
    two.start();
    two.set_certificate(&ca.server(2), &ca.pem());
    two.streaming().await;
}

#[tokio::test]
async fn a_primary_with_an_invalid_certificate_is_rejected() {
    let ca = Authority::new("the CA");
    let Some(mut nodes) = pair(&ca).await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    let name = "node-1.pgraft";
    for (wrong, words) in [
        (ca.issue(name, &[name, "127.0.0.9"], YEAR), "does not match host name"),
        (ca.expired(name, &[name, "127.0.0.1"]), "certificate verify failed"),
    ] {
        one.set_certificate(&wrong, &ca.pem());
        until("the wrong certificate to be served", async || {
            served(one.postgres_port()).filter(|c| *c == wrong.der())
        })
        .await;
        one.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'pgraft_2'").await.unwrap();
        until(words, async || two.log().contains(words).then_some(())).await;
        one.wait_for("SELECT count(*) FROM pg_stat_replication", "0").await;
    }
    one.set_certificate(&ca.server(1), &ca.pem());
    two.streaming().await;
}

#[tokio::test]
async fn certificates_and_the_ca_are_rotated_under_load() {
    let (old, new) = (Authority::new("the CA"), Authority::new("the CA"));
    let Some(mut nodes) = pair(&old).await else { return };
    let [one, two] = &mut nodes.nodes[..] else { panic!() };
    let pids = (one.postmaster().unwrap(), two.postmaster().unwrap());
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let client = one
            .connect_from_another_host("postgres", "superuser-1", "postgres", client(&old, None))
            .await
            .unwrap();
        let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.execute("INSERT INTO t VALUES (2)", &[]).await.unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let both = old.pem() + &new.pem();
    // A renewal, and then a new CA: first trusted in addition, then used for certificates, then
    // trusted alone.
    for (issuer, trusted) in
        [(&old, old.pem()), (&old, both.clone()), (&new, both), (&new, new.pem())]
    {
        let before = written.load(Ordering::Relaxed);
        for node in [&mut *one, &mut *two] {
            renew(node, issuer, &trusted).await;
        }
        let receiver = two.sql("SELECT pid FROM pg_stat_wal_receiver").await.unwrap();
        one.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'pgraft_2'").await.unwrap();
        let another = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        until("a new walreceiver", async || {
            two.sql(another).await.ok().flatten().filter(|pid| Some(pid) != receiver.as_ref())
        })
        .await;
        until("writes to continue", async || {
            (written.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }
    // Clients with a certificate of the old CA are rejected now.
    let (newly, formerly) =
        (new.issue("pgraft_operator", &[], YEAR), old.issue("pgraft_operator", &[], YEAR));
    one.connect_from_another_host("pgraft_operator", "", "postgres", client(&new, Some(&newly)))
        .await
        .unwrap();
    one.connect_from_another_host("pgraft_operator", "", "postgres", client(&new, Some(&formerly)))
        .await
        .unwrap_err();

    // A certificate without its key is ignored.
    let (good, other) = (served(one.postgres_port()).unwrap(), new.server(1));
    one.set_certificate(&IssuedCertificate { key: new.server(1).key, ..other.clone() }, &new.pem());
    until("a log line", async || {
        one.log().contains("SSL configuration was not reloaded").then_some(())
    })
    .await;
    assert_eq!(served(one.postgres_port()).unwrap(), good);
    one.set_certificate(&other, &new.pem());
    until("the new certificate", async || {
        served(one.postgres_port()).filter(|c| *c == other.der())
    })
    .await;

    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let rows = written.load(Ordering::Relaxed) + 1;
    two.wait_for("SELECT count(*) FROM t", &rows.to_string()).await;
    assert_eq!(
        (one.postmaster().unwrap(), two.postmaster().unwrap()),
        pids,
        "no server was started again"
    );
}

async fn renew(node: &mut TestNode, issuer: &Authority, trusted: &str) {
    let renewed = issuer.server(node.id);
    node.set_certificate(&renewed, trusted);
    let what = format!("node {} to serve its new certificate", node.id);
    until(&what, async || served(node.postgres_port()).filter(|c| *c == renewed.der())).await;
}
