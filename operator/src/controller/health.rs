//! `/healthz` and `/readyz` for the kubelet. Ready means that the API server knows the CRD and the watches have begun.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Set once the operator does its work.
pub type Ready = Arc<AtomicBool>;

/// A probe that takes longer is none.
const DEADLINE: Duration = Duration::from_secs(5);

/// Answers for as long as it is polled.
///
/// # Errors
/// The address can't be listened on.
pub async fn serve(listen: SocketAddr, ready: Ready) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(tokio::time::timeout(DEADLINE, answer(stream, ready.clone())));
            }
            // Out of file descriptors, or a peer that was gone before it was accepted: the next one may fare better.
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

async fn answer(stream: TcpStream, ready: Ready) {
    let respond = service_fn(move |request: Request<Incoming>| {
        let status = status(request.uri().path(), ready.load(Ordering::Relaxed));
        async move {
            let mut response = Response::new(Full::new(Bytes::from(status.canonical_reason().unwrap_or_default())));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), respond).await;
    if let Err(error) = served {
        tracing::debug!(%error, "health");
    }
}

fn status(path: &str, ready: bool) -> StatusCode {
    match path {
        "/healthz" => StatusCode::OK,
        "/readyz" if ready => StatusCode::OK,
        "/readyz" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::NOT_FOUND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_it_is() {
        assert_eq!(status("/healthz", false), StatusCode::OK);
        assert_eq!(status("/readyz", false), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/readyz", true), StatusCode::OK);
        assert_eq!(status("/", true), StatusCode::NOT_FOUND);
    }
}
