//! Asks other nodes' `/status` and `/gateway`. A node that doesn't answer in time is as good as
//! none.

use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use pgraft_core::primary_view::PrimaryView;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::settings::host_port;
use crate::status::Status;

const DEADLINE: Duration = Duration::from_secs(3);

/// It is in memory there.
const VIEW_TIMEOUT: Duration = Duration::from_secs(1);

/// A `/status` of the largest cluster is a few kilobytes.
const MAX_BYTES: usize = 1 << 20;

/// Why a peer gave no status.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("no answer in time")]
    Deadline,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error("HTTP {0}")]
    Http(StatusCode),
    #[error("the body can't be read: {0}")]
    Body(String),
    #[error("the body is no status: {0}")]
    Json(#[from] serde_json::Error),
}

/// All answers, from every address that each of the names stands for.
pub async fn ask_all(peers: &[String]) -> Vec<Status> {
    let resolved = join_all(peers.iter().map(|p| resolve(p))).await;
    let addresses: BTreeSet<SocketAddr> = resolved.into_iter().flatten().collect();
    join_all(addresses.into_iter().map(ask)).await.into_iter().flatten().collect()
}

async fn resolve(peer: &str) -> Vec<SocketAddr> {
    let Some((host, port)) = host_port(peer) else { return vec![] };
    match timeout(DEADLINE, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::debug!(peer, %error, "a peer's name does not resolve");
            vec![]
        }
        Err(_) => vec![],
    }
}

async fn ask(address: SocketAddr) -> Option<Status> {
    let answer =
        timeout(DEADLINE, get(address, "/status")).await.unwrap_or(Err(PeerError::Deadline));
    answer.inspect_err(|error| tracing::debug!(%address, %error, "a peer gave no status")).ok()
}

/// Whom the gateway there calls the primary.
pub async fn primary_view(address: SocketAddr) -> Option<PrimaryView> {
    timeout(VIEW_TIMEOUT, get(address, "/gateway")).await.ok()?.ok()
}

async fn get<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Result<T, PeerError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request =
        Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(PeerError::Http(response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|e| PeerError::Body(e.to_string()))?;
    connection.abort();
    Ok(serde_json::from_slice(&body.to_bytes())?)
}
