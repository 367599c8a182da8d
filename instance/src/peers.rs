//! The HTTP client of the instance manager: `/status` and `/gateway` of other nodes. A node that does
//! not answer in time counts as absent.

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

/// For an answer to `/status`, and for DNS.
const DEADLINE: Duration = Duration::from_secs(3);

/// For an answer to `/gateway`, which the other node has in memory.
const VIEW_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest answer in bytes. The `/status` of the largest cluster has some kilobytes.
const MAX_BYTES: usize = 1 << 20;

/// Why a request to a peer failed.
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
    #[error("could not read the body: {0}")]
    Body(String),
    #[error("could not parse the body: {0}")]
    Json(#[from] serde_json::Error),
}

/// The status of every node that answers, at every address of each name.
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
            tracing::debug!(peer, %error, "could not resolve the name of a peer");
            vec![]
        }
        Err(_) => vec![],
    }
}

async fn ask(address: SocketAddr) -> Option<Status> {
    let answer =
        timeout(DEADLINE, get(address, "/status")).await.unwrap_or(Err(PeerError::Deadline));
    answer
        .inspect_err(
            |error| tracing::debug!(%address, %error, "could not get the status of a peer"),
        )
        .ok()
}

/// The primary view of the gateway there, if it has one.
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
