//! Clients of a gateway whose cluster has no primary.

use std::io;

use tokio::net::TcpListener;

use super::*;
use crate::gateway::silent_clients::SilentClients;
use crate::gateway::startup::{SSL_REQUEST, startup_packet};
use crate::settings::GatewaySettings;
use crate::view::tests::example;

/// A gateway without a primary, and the port that it serves.
async fn without_primary(max_silent: usize, max_connections: usize) -> (Arc<Gateway>, u16) {
    let gateway = GatewaySettings {
        listen: String::new(),
        hold: Duration::from_secs(10),
        max_connections,
        drain: None,
    };
    let mut gateway = Gateway::new(gateway, watch::channel(example()).1);
    Arc::get_mut(&mut gateway).unwrap().silent = SilentClients::new(max_silent);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = Arc::clone(&gateway);
    tokio::spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            tokio::spawn(GatewayClient::new(Arc::clone(&serving), stream, from).run());
        }
    });
    (gateway, port)
}

async fn connect(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

async fn until_held(gateway: &Gateway, count: u64) {
    while gateway.counters.read().held != count {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Whether the gateway keeps the connection open without having sent anything.
fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

async fn until_closed(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0);
}

fn hello() -> Vec<u8> {
    [&[22, 3, 1, 0, 4, 1][..], &[0; 3]].concat()
}

#[tokio::test]
async fn held_clients_are_not_evicted_by_silent_ones() {
    let (gateway, port) = without_primary(2, 100).await;
    let mut held = vec![];
    for bytes in [&SSL_REQUEST[..], &hello(), &startup_packet("app", "app")] {
        for _ in 0..3 {
            held.push(connect(port, bytes).await);
        }
    }
    until_held(&gateway, 9).await;
    let mut silent = vec![];
    for _ in 0..5 {
        silent.push(connect(port, b"").await);
    }
    for stream in &mut silent[..3] {
        until_closed(stream).await;
    }
    assert!(silent[3..].iter().all(is_open));
    assert_eq!(gateway.counters.read().held, 9);
    assert!(held.iter().all(is_open), "a held client was dropped");
}

#[tokio::test]
async fn held_clients_count_towards_max_connections() {
    let (gateway, port) = without_primary(10, 2).await;
    let _held = (connect(port, &SSL_REQUEST).await, connect(port, &hello()).await);
    until_held(&gateway, 2).await;
    let mut third = connect(port, &startup_packet("app", "app")).await;
    let mut error = vec![];
    third.read_to_end(&mut error).await.unwrap();
    assert_eq!(error, Rejection::TooManyClients(2).message());
    assert_eq!(gateway.counters.read().refused, 1);
}
