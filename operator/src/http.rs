//! `/healthz` and `/readyz` for the kubelet, `/metrics` for Prometheus. Ready means that the API
//! server knows the CRD and this replica works, or stands by for the one that does.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

use crate::metrics::Metrics;

/// A request that takes longer is none.
const DEADLINE: Duration = Duration::from_secs(5);
/// As `prometheus-client` writes it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the answers are made from.
#[derive(Clone)]
pub struct OperatorHttp {
    /// Set once the operator does its work, or stands by.
    pub ready: Arc<AtomicBool>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Listens; on IPv4 alone where every address was asked for and the host has no IPv6.
///
/// # Errors
/// Those of the system.
pub async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(at).await {
        Err(e) if at.ip() == Ipv6Addr::UNSPECIFIED && e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
        }
        listener => listener,
    }
}

/// Answers for as long as it is polled.
pub async fn serve(listener: TcpListener, http: OperatorHttp) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(tokio::time::timeout(DEADLINE, answer(stream, http.clone())));
            }
            // Out of file descriptors, or a peer that was gone before it was accepted: the next one
            // may fare better.
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

async fn answer(stream: TcpStream, http: OperatorHttp) {
    let respond = service_fn(move |request: Request<Incoming>| {
        let (status, kind, body) = http.respond(request.uri().path());
        async move {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), respond)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "http");
    }
}

impl OperatorHttp {
    fn respond(&self, path: &str) -> (StatusCode, &'static str, String) {
        let plain = |status: StatusCode| {
            (status, "text/plain", status.canonical_reason().unwrap_or_default().to_owned())
        };
        match path {
            "/healthz" => plain(StatusCode::OK),
            "/readyz" if self.ready.load(Ordering::Relaxed) => plain(StatusCode::OK),
            "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE),
            "/metrics" => self.metrics.text().map_or_else(
                |_| plain(StatusCode::INTERNAL_SERVER_ERROR),
                |text| (StatusCode::OK, OPEN_METRICS, text),
            ),
            _ => plain(StatusCode::NOT_FOUND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_it_is() {
        let http = OperatorHttp { ready: Arc::default(), metrics: Metrics::new() };
        let status = |path: &str| http.respond(path).0;
        assert_eq!(status("/healthz"), StatusCode::OK);
        assert_eq!(status("/readyz"), StatusCode::SERVICE_UNAVAILABLE);
        http.ready.store(true, Ordering::Relaxed);
        assert_eq!(status("/readyz"), StatusCode::OK);
        assert_eq!(status("/"), StatusCode::NOT_FOUND);
        assert!(http.respond("/metrics").2.ends_with("# EOF\n"));
    }
}
