//! `/livez`, `/readyz`, `/status`, `/configuration`, `/metrics` and `/gateway`, for the kubelet,
//! other nodes, people and Prometheus. Answers nothing that is secret, takes no orders.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::gateway::Gateway;
use crate::heartbeat::HeartbeatFile;
use crate::view::MemberView;
use crate::{metrics, observe};

/// Connections at a time; each look at the server is one of Postgres's connections.
const MAX_CONNECTIONS: usize = 32;

/// For a request's head, and for an idle connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the answers are made from.
#[derive(Clone)]
pub struct InstanceHttp {
    /// What the driver shows.
    pub view: watch::Receiver<MemberView>,
    /// Whether the driver's loop runs.
    pub heartbeat: HeartbeatFile,
    /// The read-write gateway, where there is one.
    pub gateway: Option<Arc<Gateway>>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, http: InstanceHttp) {
    let disk_space = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&disk_space).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let http = http.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| answer(&http, request));
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).keep_alive(false);
            // A client that goes away is its own business.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    http: &InstanceHttp,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(respond(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "only GET"})));
    }
    Ok(match request.uri().path() {
        "/livez" => live(http),
        "/readyz" => ready(http).await,
        "/status" => status(http).await,
        "/metrics" => figures(http).await,
        "/configuration" => {
            respond(StatusCode::OK, &json!(http.view.borrow().configuration.report()))
        }
        "/gateway" => gateway(http),
        _ => respond(
            StatusCode::NOT_FOUND,
            &json!({"error": "there are /livez, /readyz, /status, /configuration, /metrics and /gateway"}),
        ),
    })
}

fn live(http: &InstanceHttp) -> Response<Full<Bytes>> {
    let view = http.view.borrow();
    let alive = http.heartbeat.is_fresh();
    let code = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(code, &json!({"live": alive, "phase": view.phase.as_str()}))
}

async fn ready(http: &InstanceHttp) -> Response<Full<Bytes>> {
    let view = http.view.borrow().clone();
    let seen = observe::observe(&view).await;
    let code = if seen.status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(
        code,
        &json!({"ready": seen.status.ready, "phase": view.phase.as_str(), "missing": seen.missing}),
    )
}

async fn status(http: &InstanceHttp) -> Response<Full<Bytes>> {
    let view = http.view.borrow().clone();
    let seen = observe::observe(&view).await;
    respond(StatusCode::OK, &json!(seen.status))
}

async fn figures(http: &InstanceHttp) -> Response<Full<Bytes>> {
    let view = http.view.borrow().clone();
    let gateway = http.gateway.as_ref().map(|g| g.counters.read());
    match metrics::text(&observe::observe(&view).await.status, gateway) {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            response
        }
        Err(error) => {
            respond(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": error.to_string()}))
        }
    }
}

/// Whom this node's gateway takes for the primary, for other nodes' gateways.
fn gateway(http: &InstanceHttp) -> Response<Full<Bytes>> {
    match http.gateway.as_ref().and_then(|g| g.knowledge.primary_view()) {
        Some(primary_view) => respond(StatusCode::OK, &json!(primary_view)),
        None => respond(
            StatusCode::NOT_FOUND,
            &json!({"error": "no member has said yet who is the primary"}),
        ),
    }
}

fn respond(code: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
