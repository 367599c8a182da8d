//! The HTTP server of the instance manager: `/livez`, `/readyz`, `/status`, `/configuration`,
//! `/metrics` and `/gateway`, for the kubelet, other members, people and Prometheus. It is
//! read-only, and no answer contains a secret.
//!
//! axum routes the requests. The connections are hyper's, because axum has neither a limit on
//! connections nor a timeout for a request's head. No request body is read.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::gateway::Gateway;
use crate::heartbeat::HeartbeatFile;
use crate::view::MemberView;
use crate::{metrics, observe};

/// Connections at a time. Most requests open a connection to Postgres.
const MAX_CONNECTIONS: usize = 32;

/// For the head of a request, and for an idle connection.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The sources of the answers.
#[derive(Clone)]
pub struct InstanceHttp {
    /// The driver's view.
    pub view: watch::Receiver<MemberView>,
    /// Whether the driver's loop runs.
    pub heartbeat: HeartbeatFile,
    /// The read-write gateway, if it is configured.
    pub gateway: Option<Arc<Gateway>>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, http: InstanceHttp) {
    let routes = routes(http);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).keep_alive(false);
            // An error means that the client has disconnected or sent no valid request.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn routes(http: InstanceHttp) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/configuration", get(configuration))
        .route("/metrics", get(metrics_page))
        .route("/gateway", get(gateway))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(http)
}

async fn live(State(http): State<InstanceHttp>) -> Response {
    let phase = http.view.borrow().phase.as_str();
    let live = http.heartbeat.is_fresh();
    let code = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(code, &json!({"live": live, "phase": phase}))
}

async fn ready(State(http): State<InstanceHttp>) -> Response {
    let view = http.view.borrow().clone();
    let seen = observe::observe(&view).await;
    let code = if seen.status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(
        code,
        &json!({"ready": seen.status.ready, "phase": view.phase.as_str(), "missing": seen.missing}),
    )
}

async fn status(State(http): State<InstanceHttp>) -> Response {
    let view = http.view.borrow().clone();
    respond(StatusCode::OK, &json!(observe::observe(&view).await.status))
}

async fn configuration(State(http): State<InstanceHttp>) -> Response {
    let report = http.view.borrow().configuration.report();
    respond(StatusCode::OK, &json!(report))
}

async fn metrics_page(State(http): State<InstanceHttp>) -> Response {
    let view = http.view.borrow().clone();
    let gateway = http.gateway.as_ref().map(|g| g.counters.read());
    match metrics::text(&observe::observe(&view).await.status, gateway) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            respond(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": error.to_string()}))
        }
    }
}

/// The primary view of this node's gateway, for other nodes' gateways.
async fn gateway(State(http): State<InstanceHttp>) -> Response {
    match http.gateway.as_ref().and_then(|g| g.knowledge.primary_view()) {
        Some(primary_view) => respond(StatusCode::OK, &json!(primary_view)),
        None => respond(StatusCode::NOT_FOUND, &json!({"error": "no primary is known yet"})),
    }
}

async fn not_found() -> Response {
    let paths = "/livez, /readyz, /status, /configuration, /metrics, /gateway";
    respond(StatusCode::NOT_FOUND, &json!({"error": format!("not found; valid paths: {paths}")}))
}

async fn method_not_allowed() -> Response {
    let error = json!({"error": "method not allowed; use GET"});
    respond(StatusCode::METHOD_NOT_ALLOWED, &error)
}

fn respond(code: StatusCode, body: &Value) -> Response {
    (code, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::example;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// The response to one request: the status line, the content type and the body.
    async fn response(request: &str) -> (String, String, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_view, view) = watch::channel(example());
        let heartbeat = HeartbeatFile::default();
        heartbeat.beat();
        tokio::spawn(serve(listener, InstanceHttp { view, heartbeat, gateway: None }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let content_type = head.lines().find_map(|l| l.strip_prefix("content-type: "));
        let status = head.lines().next().unwrap().to_owned();
        (status, content_type.unwrap_or_default().to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn each_answer_is_json_with_its_status() {
        for (request, status, body) in [
            ("GET /livez", "200 OK", "{\"live\":true,\"phase\":\"clearing\"}\n"),
            ("HEAD /livez", "200 OK", ""),
            ("GET /gateway", "404 Not Found", "{\"error\":\"no primary is known yet\"}\n"),
            (
                "GET /",
                "404 Not Found",
                "{\"error\":\"not found; valid paths: /livez, /readyz, /status, /configuration, /metrics, /gateway\"}\n",
            ),
            (
                "POST /status",
                "405 Method Not Allowed",
                "{\"error\":\"method not allowed; use GET\"}\n",
            ),
        ] {
            let want = (format!("HTTP/1.1 {status}"), "application/json".into(), body.into());
            assert_eq!(response(request).await, want, "{request}");
        }
    }
}
