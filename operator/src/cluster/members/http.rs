//! One `GET` from a member's instance manager, which answers also while its server cannot.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A pod that does not answer in this time is asked again in the next pass.
const DEADLINE: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const MAX_BYTES: usize = 1 << 18;

/// The body of the answer, whatever its status code: a member that is not ready answers with 503.
/// Returns `None` if there is no answer, or one that is not of this type.
pub async fn get<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Option<T> {
    let answer = timeout(DEADLINE, ask(address, path)).await.ok()?;
    answer
        .inspect_err(
            |error| tracing::debug!(%address, path, %error, "no answer from the instance manager"),
        )
        .ok()
}

async fn ask<T: DeserializeOwned>(
    address: SocketAddr,
    path: &str,
) -> Result<T, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request =
        Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    };
    let result = answer.await;
    connection.abort();
    result
}
