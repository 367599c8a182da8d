//! The read-write gateway: clients of any member's find the primary, whoever that is, and are cut off from one that is it no more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code, reason = "this is a test through and through")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::certificates::Authority;
use pgraft_testkit::cluster::{epoch, more_rows, of_three, primary};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::{Node, Nodes, bin_directory, until};
use std::time::Instant;
use tokio_postgres::NoTls;

#[tokio::test]
async fn clients_of_every_gateway_go_on_after_a_kill() {
    let Some(mut nodes) = of_three(|node| node.drain = Some("1min")).await else { return };
    let ledgers: Vec<Ledger> = nodes
        .nodes
        .iter()
        .map(|node| Ledger::start_at(i64::from(node.id) << 32, vec![("127.0.0.1".to_owned(), node.gateway_port())]))
        .collect();
    for _ in 0..3 {
        let old = primary(&nodes).await;
        let before = epoch(&nodes, old);
        for ledger in &ledgers {
            more_rows(ledger, 10).await;
            ledger.new_gap();
        }
        kill(Pid::from_raw(nodes.nodes[old].postmaster().unwrap()), Signal::SIGKILL).unwrap();
        until("another reign", async || (epoch(&nodes, primary(&nodes).await) > before).then_some(())).await;
        for (n, ledger) in ledgers.iter().enumerate() {
            more_rows(ledger, 10).await;
            let which = if n == old { "the killed one's own" } else { "another" };
            println!("through the gateway of node {} ({which}): no acknowledgement for {:?}", n + 1, ledger.new_gap());
        }
    }
    stops_last(&mut nodes).await;
    let mut acked = vec![];
    for ledger in ledgers {
        acked.extend(ledger.stop().await);
    }
    let left = primary(&nodes).await;
    let all = until("a session", async || nodes.nodes[left].connect_by_gateway().await.ok()).await;
    let rows = all.query("SELECT row FROM ledger", &[]).await.unwrap();
    let rows: std::collections::BTreeSet<i64> = rows.iter().map(|r| r.get(0)).collect();
    let lost: Vec<_> = acked.iter().filter(|row| !rows.contains(row)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// The primary's gateway outlives its server, for clients that are still led there, and a second signal ends it.
async fn stops_last(nodes: &mut Nodes) {
    let old = primary(nodes).await;
    nodes.nodes[old].signal(Signal::SIGTERM);
    let phase = |node: &Node| node.get("/livez").map(|(_, answer)| answer["phase"].clone());
    until("its server to end", async || (phase(&nodes.nodes[old])? == "draining").then_some(())).await;
    until("a write through its gateway", async || {
        let client = nodes.nodes[old].connect_by_gateway().await.ok()?;
        client.batch_execute("INSERT INTO ledger VALUES (0)").await.ok()
    })
    .await;
    assert!(nodes.nodes[old].terminate().await.success());
}

#[tokio::test]
async fn clients_of_a_primary_that_stands_still_are_cut_off_and_find_the_next() {
    let Some(nodes) = of_three(|_| ()).await else { return };
    let old = primary(&nodes).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    let mut idle = vec![];
    for n in &others {
        let client = until("a session", async || nodes.nodes[*n].connect_by_gateway().await.ok()).await;
        let server: bool = client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await.unwrap().get(0);
        assert!(server, "the gateway of node {} leads to a standby", n + 1);
        idle.push(client);
    }
    // It takes connections, and says nothing any more.
    nodes.nodes[old].signal_all(Signal::SIGSTOP);
    let since = Instant::now();
    // Whoever comes before another one reigns is said on to it.
    let coming = nodes.nodes[others[0]].connect_by_gateway();
    let came = tokio::time::timeout(pgraft_testkit::SOON, coming).await.expect("it is held for 10 s at most");
    println!("a client that came at once: {:?} after {:?}", came.as_ref().map(drop).map_err(ToString::to_string), since.elapsed());
    for client in &idle {
        until("a client of the former primary to be cut off", async || client.is_closed().then_some(())).await;
    }
    println!("clients of the former primary were cut off after {:?}", since.elapsed());
    for n in &others {
        until("a write through its gateway", async || {
            let client = nodes.nodes[*n].connect_by_gateway().await.ok()?;
            client.batch_execute("INSERT INTO ledger VALUES (1)").await.ok()
        })
        .await;
    }
    println!("each gateway leads to the next one after {:?}", since.elapsed());
    nodes.nodes[old].signal_all(Signal::SIGCONT);
    until("the gateway of the former primary to follow", async || {
        let client = nodes.nodes[old].connect_by_gateway().await.ok()?;
        client.batch_execute("INSERT INTO ledger VALUES (1)").await.ok()
    })
    .await;
}

/// The error that a client gets: SQLSTATE, and the message.
fn said(error: &tokio_postgres::Error) -> Option<(String, String)> {
    error.as_db_error().map(|e| (e.code().code().to_owned(), e.message().to_owned()))
}

#[tokio::test]
async fn without_a_majority_a_client_is_told_so() {
    let Some(mut nodes) = of_three(|node| node.hold = "1s").await else { return };
    let left = primary(&nodes).await;
    let client = until("a session", async || nodes.nodes[left].connect_by_gateway().await.ok()).await;
    for n in (0..3).filter(|n| *n != left) {
        assert!(nodes.nodes[n].terminate().await.success());
    }
    let told = until("an error", async || said(&nodes.nodes[left].connect_by_gateway().await.err()?)).await;
    assert_eq!(told.0, "57P03");
    let why = "the primary has no lease: it does not hear from a majority of the members";
    assert_eq!(told.1, format!("no primary took this connection within 1s: {why}"));
    until("the fenced primary's client to be cut off", async || client.is_closed().then_some(())).await;
    for n in (0..3).filter(|n| *n != left) {
        nodes.nodes[n].start();
    }
    until("a primary again", async || nodes.nodes[left].connect_by_gateway().await.ok()).await;
}

#[tokio::test]
async fn where_nobody_is_a_client_is_told_so_with_and_without_tls() {
    let Some(bin) = bin_directory() else { return };
    let ca = Authority::new("the CA");
    let mut nodes = Nodes::new(&bin, 2);
    // It waits for a founder that never comes.
    let two = &mut nodes.nodes[1];
    two.set_certificate(&ca.node(2), &ca.pem());
    two.hold = "500ms";
    two.start();
    let plain = until("an error in the clear", async || said(&two.connect_by_gateway().await.err()?)).await;
    assert_eq!(plain.1, "no primary took this connection within 500ms: no member of the cluster answers");
    let Err(inside) = two.connect_by_gateway_from_afar(ca.client(None)).await else { panic!("somebody is there") };
    assert!(inside.contains(&plain.1), "{inside}");
}

/// A gateway is no way around the rule that whoever comes from another host needs TLS.
#[tokio::test]
async fn the_server_knows_a_client_of_another_host() {
    let Some(bin) = bin_directory() else { return };
    if pgraft_testkit::without_extension() {
        return;
    }
    let ca = Authority::new("the CA");
    let mut nodes = Nodes::new(&bin, 1);
    let one = &mut nodes.nodes[0];
    one.failover = true;
    one.set_certificate(&ca.node(1), &ca.pem());
    one.start();
    one.ready().await;
    one.connect_by_gateway_from_afar(ca.client(None)).await.unwrap();
    one.connect_by_gateway().await.unwrap();
    let plain = one.connect_by_gateway_from_afar(NoTls).await.err().unwrap();
    assert!(plain.contains("no pg_hba.conf entry for host \"127.0.0.2\"") && plain.contains("no encryption"), "{plain}");
}
