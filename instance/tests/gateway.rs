//! The read-write gateway: clients of any member reach the primary, and are disconnected from a
//! former one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    dead_code,
    reason = "used by tests only"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgraft_testkit::certificates::Authority;
use pgraft_testkit::cluster::{epoch, more_rows, primary, three_nodes};
use pgraft_testkit::ledger::Ledger;
use pgraft_testkit::tls::client;
use pgraft_testkit::{Nodes, TestNode, bin_directory, until};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use tokio_postgres::NoTls;

#[tokio::test]
async fn clients_of_every_gateway_continue_after_a_kill() {
    let Some(mut nodes) = three_nodes(|node| node.drain = Some("1min")).await else { return };
    let ledgers: Vec<Ledger> = nodes
        .nodes
        .iter()
        .map(|node| {
            Ledger::start_at(
                i64::from(node.id) << 32,
                vec![("127.0.0.1".to_owned(), node.gateway_port())],
            )
        })
        .collect();
    for _ in 0..3 {
        let old = primary(&nodes).await;
        let before = epoch(&nodes, old);
        for ledger in &ledgers {
            more_rows(ledger, 10).await;
        }
        kill(Pid::from_raw(nodes.nodes[old].postmaster().unwrap()), Signal::SIGKILL).unwrap();
        until("another primary term", async || {
            (epoch(&nodes, primary(&nodes).await) > before).then_some(())
        })
        .await;
        for ledger in &ledgers {
            more_rows(ledger, 10).await;
        }
    }
    stops_last(&mut nodes).await;
    let mut acked = vec![];
    for ledger in ledgers {
        acked.extend(ledger.stop().await.acked);
    }
    let left = primary(&nodes).await;
    let all = until("a session", async || nodes.nodes[left].connect_to_gateway().await.ok()).await;
    let rows = all.query("SELECT row FROM ledger", &[]).await.unwrap();
    let rows: std::collections::BTreeSet<i64> = rows.iter().map(|r| r.get(0)).collect();
    let lost: Vec<_> = acked.iter().filter(|row| !rows.contains(row)).collect();
    assert!(lost.is_empty(), "acknowledged but lost: {lost:?}");
}

/// The gateway of the former primary outlives its server, for clients that still connect to it. A
/// second signal ends it.
async fn stops_last(nodes: &mut Nodes) {
    let old = primary(nodes).await;
    nodes.nodes[old].signal(Signal::SIGTERM);
    let phase = |node: &TestNode| node.get("/livez").map(|(_, answer)| answer["phase"].clone());
    until("its server to end", async || (phase(&nodes.nodes[old])? == "draining").then_some(()))
        .await;
    until("a write through its gateway", async || {
        let client = nodes.nodes[old].connect_to_gateway().await.ok()?;
        client.batch_execute("INSERT INTO ledger VALUES (0)").await.ok()
    })
    .await;
    assert!(nodes.nodes[old].terminate().await.success());
}

#[tokio::test]
async fn clients_of_a_paused_primary_are_disconnected_and_find_the_next() {
    let Some(nodes) = three_nodes(|_| ()).await else { return };
    let old = primary(&nodes).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    let mut idle = vec![];
    for n in &others {
        let client =
            until("a session", async || nodes.nodes[*n].connect_to_gateway().await.ok()).await;
        let server: bool =
            client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await.unwrap().get(0);
        assert!(server, "the gateway of node {} forwarded to a standby", n + 1);
        idle.push(client);
    }
    // It accepts connections, but does not answer.
    nodes.nodes[old].signal_all(Signal::SIGSTOP);
    // A client that connects before there is a new primary is held, for the hold time at most.
    let held = nodes.nodes[others[0]].connect_to_gateway();
    let held = tokio::time::timeout(pgraft_testkit::TIMEOUT, held).await;
    assert!(held.is_ok(), "a client was held beyond the hold time");
    for client in &idle {
        until("a client of the former primary to be disconnected", async || {
            client.is_closed().then_some(())
        })
        .await;
    }
    for n in &others {
        until("a write through its gateway", async || {
            let client = nodes.nodes[*n].connect_to_gateway().await.ok()?;
            client.batch_execute("INSERT INTO ledger VALUES (1)").await.ok()
        })
        .await;
    }
    nodes.nodes[old].signal_all(Signal::SIGCONT);
    until("the gateway of the former primary to follow", async || {
        let client = nodes.nodes[old].connect_to_gateway().await.ok()?;
        client.batch_execute("INSERT INTO ledger VALUES (1)").await.ok()
    })
    .await;
}

/// The SQLSTATE and the message of a client's error.
fn said(error: &tokio_postgres::Error) -> Option<(String, String)> {
    error.as_db_error().map(|e| (e.code().code().to_owned(), e.message().to_owned()))
}

#[tokio::test]
async fn a_client_gets_an_error_without_a_majority() {
    let Some(mut nodes) = three_nodes(|node| node.hold = "1s").await else { return };
    let left = primary(&nodes).await;
    let client =
        until("a session", async || nodes.nodes[left].connect_to_gateway().await.ok()).await;
    for n in (0..3).filter(|n| *n != left) {
        assert!(nodes.nodes[n].terminate().await.success());
    }
    let error =
        until("an error", async || said(&nodes.nodes[left].connect_to_gateway().await.err()?))
            .await;
    assert_eq!(error.0, "57P03");
    let why = "the primary has no lease from a majority of the members";
    assert_eq!(error.1, format!("no primary accepted the connection within 1s: {why}"));
    until("the client of the fenced primary to be disconnected", async || {
        client.is_closed().then_some(())
    })
    .await;
    for n in (0..3).filter(|n| *n != left) {
        nodes.nodes[n].start();
    }
    until("a primary again", async || nodes.nodes[left].connect_to_gateway().await.ok()).await;
}

#[tokio::test]
async fn a_client_gets_an_error_without_a_primary_with_and_without_tls() {
    let Some(bin) = bin_directory() else { return };
    let ca = Authority::new("the CA");
    let mut nodes = Nodes::new(&bin, 2);
    // It waits for a bootstrap node that never starts.
    let two = &mut nodes.nodes[1];
    two.set_certificate(&ca.server(2), &ca.pem());
    two.hold = "500ms";
    two.start();
    let plain =
        until("an unencrypted error", async || said(&two.connect_to_gateway().await.err()?)).await;
    assert_eq!(
        plain.1,
        "no primary accepted the connection within 500ms: no member of the cluster answers"
    );
    let Err(inside) = two.connect_to_gateway_from_another_host(client(&ca, None)).await else {
        panic!("the client was accepted")
    };
    assert!(inside.contains(&plain.1), "{inside}");
}

/// Clients of another host need TLS, through the gateway too.
#[tokio::test]
async fn a_client_of_another_host_needs_tls_through_the_gateway_too() {
    let Some(bin) = bin_directory() else { return };
    let ca = Authority::new("the CA");
    let mut nodes = Nodes::new(&bin, 1);
    let one = &mut nodes.nodes[0];
    one.failover = true;
    one.set_certificate(&ca.server(1), &ca.pem());
    one.start();
    one.ready().await;
    one.connect_to_gateway_from_another_host(client(&ca, None)).await.unwrap();
    one.connect_to_gateway().await.unwrap();
    let plain = one.connect_to_gateway_from_another_host(NoTls).await.err().unwrap();
    assert!(
        plain.contains("no pg_hba.conf entry for host \"127.0.0.2\"")
            && plain.contains("no encryption"),
        "{plain}"
    );
}

/// Incomplete connections: silent ones, some that stop after requesting TLS, half a startup packet,
/// half a `ClientHello`, and other protocols.
fn incomplete_connections(port: u16) -> Vec<TcpStream> {
    const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
    let kinds: [(usize, &[u8]); 5] = [
        (1000, b""),
        (200, SSL_REQUEST),
        (50, &[0, 0, 0, 80, 0, 3]),
        (50, &[22, 3, 1, 2, 0, 1]),
        (50, b"GET / HTTP/1.1\r\n\r\n"),
    ];
    let said = kinds.into_iter().flat_map(|(count, said)| std::iter::repeat_n(said, count));
    said.map(|said| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(said).unwrap();
        stream
    })
    .collect()
}

/// The number of child processes of a postmaster, including those whose client has not logged in.
fn children(postmaster: i32) -> usize {
    std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))
        .unwrap()
        .split(' ')
        .filter(|pid| !pid.is_empty())
        .count()
}

/// Nodes with TLS, with silent clients, and with clients that connect during a crash recovery.
#[tokio::test]
async fn silent_clients_and_crashed_backends_do_not_disconnect_other_clients() {
    let ca = Authority::new("the CA");
    let Some(nodes) =
        three_nodes(|node| node.set_certificate(&ca.server(node.id), &ca.pem())).await
    else {
        return;
    };
    let first = primary(&nodes).await;
    let (before, calm) = (epoch(&nodes, first), children(nodes.nodes[first].postmaster().unwrap()));
    let connect_from_all = async || {
        for node in &nodes.nodes {
            for _ in 0..5 {
                node.connect_to_gateway()
                    .await
                    .unwrap()
                    .batch_execute("INSERT INTO ledger VALUES (1)")
                    .await
                    .unwrap();
                node.connect_to_gateway_from_another_host(client(&ca, None)).await.unwrap();
            }
            node.ready().await;
        }
    };
    connect_from_all().await;
    let silent: Vec<_> =
        nodes.nodes.iter().map(|node| incomplete_connections(node.gateway_port())).collect();
    connect_from_all().await;
    // The other connections are closed. Silent ones stay for a minute.
    let closed = async || (children(nodes.nodes[first].postmaster()?) < calm + 20).then_some(());
    until("the other connections to be closed", closed).await;
    assert_eq!(
        (primary(&nodes).await, epoch(&nodes, first)),
        (first, before),
        "the silent connections caused a failover"
    );
    sslnegotiation_direct(&nodes);

    // The silent connections stay. Clients keep connecting, and a backend is killed.
    let (over, refused, connected) =
        (Cell::new(false), RefCell::new(vec![]), Cell::new([0_u32; 2]));
    let keep_connecting = async |node: &TestNode, tls: bool| {
        while !over.get() {
            let result = if tls {
                node.connect_to_gateway_from_another_host(client(&ca, None)).await.map(drop)
            } else {
                node.connect_to_gateway()
                    .await
                    .map(drop)
                    .map_err(|e| said(&e).map_or_else(String::new, |(_, message)| message))
            };
            match result {
                Ok(()) => connected.update(|mut count| {
                    count[usize::from(tls)] += 1;
                    count
                }),
                Err(error) if error.contains("database system") || error.contains("no primary") => {
                    refused.borrow_mut().push(error);
                }
                Err(_) => {} // the connection is broken
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let kills = async {
        for _ in 0..3 {
            let old = primary(&nodes).await;
            let victim = until("a session", async || {
                nodes.nodes[old].connect("postgres", "superuser-1", "app").await.ok()
            })
            .await;
            let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
            let count = connected.get();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            until("the end of the session", async || victim.is_closed().then_some(())).await;
            for node in &nodes.nodes {
                until("a write", async || {
                    let client = node.connect_to_gateway().await.ok()?;
                    client.batch_execute("INSERT INTO ledger VALUES (2)").await.ok()
                })
                .await;
            }
            until("clients of both kinds", async || {
                (0..2).all(|n| connected.get()[n] > count[n] + 5).then_some(())
            })
            .await;
        }
        over.set(true);
    };
    let clients = nodes
        .nodes
        .iter()
        .flat_map(|node| [keep_connecting(node, true), keep_connecting(node, false)]);
    tokio::join!(futures::future::join_all(clients), kills);
    assert!(refused.borrow().is_empty(), "{:?}", refused.borrow());
    drop(silent);
}

/// Direct TLS (libpq 17).
fn sslnegotiation_direct(nodes: &Nodes) {
    for node in &nodes.nodes {
        let target = format!(
            "host=127.0.0.1 port={} user=app dbname=app sslmode=require sslnegotiation=direct",
            node.gateway_port()
        );
        let mut psql = Command::new(bin_directory().unwrap().join("psql"));
        let output = psql
            .env("PGPASSWORD", "owner-1")
            .args([&target, "-Atc", "SELECT 'inside'"])
            .output()
            .unwrap();
        let (out, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            out.trim() == "inside" || error.contains("invalid connection option"),
            "{out}{error}"
        );
    }
}
