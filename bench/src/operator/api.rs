//! A simulated Kubernetes API server with the requests that the operator makes.

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::members::Members;
use super::store::{ObjectStore, StoreKey, merge, selected};
use crate::failure::BenchFailure;

type ApiBody = UnsyncBoxBody<Bytes, Infallible>;

/// The API server.
pub struct Api {
    port: u16,
    store: Mutex<ObjectStore>,
    news: watch::Sender<u64>,
    calls: Mutex<CallCounts>,
    members: Arc<Members>,
}

/// The number of requests, by verb and kind.
#[derive(Default, Clone)]
pub struct CallCounts(BTreeMap<(&'static str, String), u64>);

impl CallCounts {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// All requests except those for the Lease.
    pub fn about_clusters(&self) -> u64 {
        self.0.iter().filter(|((_, plural), _)| plural != "leases").map(|(_, count)| count).sum()
    }

    /// The number of each request, as text.
    pub fn list(&self) -> String {
        self.0
            .iter()
            .map(|((verb, plural), count)| format!(" {verb} {plural} {count}"))
            .collect::<Vec<_>>()
            .join(",")
            .replacen(' ', ": ", 1)
    }
}

/// A parsed request.
struct Asked {
    method: Method,
    namespace: Option<String>,
    plural: String,
    name: Option<String>,
    status: bool,
    query: BTreeMap<String, String>,
    metadata_only: bool,
    apply: bool,
}

impl Api {
    /// Listens on a free port.
    pub async fn serve(members: Arc<Members>) -> Result<Arc<Self>, BenchFailure> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.map_err(BenchFailure::io("listening"))?;
        let port = listener.local_addr().map_err(BenchFailure::io("listening"))?.port();
        let (news, _) = watch::channel(0);
        let api = Arc::new(Self {
            port,
            store: Mutex::default(),
            news,
            calls: Mutex::default(),
            members,
        });
        let serving = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(api.clone(), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(api)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds a PgRaftCluster, in one of ten namespaces.
    pub fn add_cluster(&self, n: usize) {
        let name = format!("cluster-{n}");
        let spec = json!({
            "replicas": 3, "imagePullPolicy": "IfNotPresent", "postgresql": {"parameters": {"work_mem": "8MB"}}, "storage": {"size": "1Gi"},
            "bootstrap": {"initdb": {"database": "app", "owner": "app"}}, "enableSuperuserAccess": false, "tls": {"mode": "Disabled"},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"},
            "raft": {"heartbeatInterval": "200ms", "electionTimeout": "1s"},
        });
        let object = json!({"apiVersion": "pgraft.io/v1alpha1", "kind": "PgRaftCluster",
            "metadata": {"name": name, "generation": 1, "managedFields": managed_fields()}, "spec": spec});
        self.lock().put(&("pgraftclusters".into(), format!("bench-{}", n % 10), name), object);
    }

    /// The number of clusters that are ready.
    pub fn ready_clusters(&self) -> usize {
        let store = self.lock();
        store
            .of_kind("pgraftclusters", None)
            .filter(|(_, o)| o["status"]["phase"] == "Ready" && o["status"]["readyReplicas"] == 3)
            .count()
    }

    /// The number of writes except those of the Lease.
    pub fn writes(&self) -> usize {
        self.lock().history.iter().filter(|news| news.plural != "leases").count()
    }

    /// The requests since the last call.
    pub fn take_calls(&self) -> CallCounts {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, ObjectStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, asked: &Asked) {
        let verb = match (&asked.method, &asked.name) {
            (&Method::GET, _) if asked.query.contains_key("watch") => "watch",
            (&Method::GET, Some(_)) => "get",
            (&Method::GET, None) => "list",
            (&Method::POST, _) => "create",
            (&Method::PATCH, _) => "patch",
            (&Method::PUT, _) => "update",
            _ => "delete",
        };
        *self
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .entry((verb, asked.plural.clone()))
            .or_default() += 1;
    }

    fn list(&self, asked: &Asked) -> Value {
        let store = self.lock();
        let limit: usize =
            asked.query.get("limit").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let after = asked.query.get("continue").map(String::as_str).unwrap_or_default();
        let all = store.of_kind(&asked.plural, asked.namespace.as_deref());
        let mut matching = all
            .filter(|(key, object)| asked.fits(&key.0, object))
            .filter(|(key, _)| place(key).as_str() > after);
        let page: Vec<(&StoreKey, &Arc<Value>)> = matching.by_ref().take(limit).collect();
        let next =
            if matching.next().is_some() { page.last().map(|(key, _)| place(key)) } else { None };
        let items: Vec<Value> = page.iter().map(|(_, object)| asked.shown(object)).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": store.version.to_string(), "continue": next}, "items": items})
    }

    fn one(&self, asked: &Asked, body: Value) -> (u16, Value) {
        let key = (
            asked.plural.clone(),
            asked.namespace.clone().unwrap_or_default(),
            asked.name.clone().unwrap_or_default(),
        );
        let mut store = self.lock();
        let there = store.objects.get(&key).cloned();
        let result = match (&asked.method, there) {
            (&Method::GET, Some(object)) => (200, (*object).clone()),
            (&Method::PUT, Some(object)) => {
                if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                let mut body = body;
                body["metadata"]["uid"] = object["metadata"]["uid"].clone();
                (200, (*store.put(&key, body)).clone())
            }
            (&Method::PATCH, there) if there.is_some() || asked.apply => {
                let mut object = there.map_or_else(
                    || json!({"metadata": {"managedFields": managed_fields()}}),
                    |object| (*object).clone(),
                );
                let patch = if asked.status { json!({"status": body["status"]}) } else { body };
                if asked.status {
                    object["status"] = Value::Null; // it has one field manager
                }
                merge(&mut object, &patch);
                (200, (*store.put(&key, object)).clone())
            }
            (&Method::DELETE, Some(_)) => store
                .delete(&key)
                .map_or_else(|| failure(404, "NotFound"), |object| (200, (*object).clone())),
            _ => failure(404, "NotFound"),
        };
        let version = store.version;
        drop(store);
        self.news.send_replace(version);
        result
    }

    fn create(&self, asked: &Asked, mut body: Value) -> (u16, Value) {
        if asked.plural == "events" {
            return (201, body);
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = asked.namespace.clone().unwrap_or_default();
        let key = (asked.plural.clone(), namespace.clone(), name.clone());
        if let Some(words) = body.as_object_mut().and_then(|o| o.remove("stringData")) {
            let encode =
                |value: &Value| json!(base64(value.as_str().unwrap_or_default().as_bytes()));
            body["data"] = words
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), encode(v)))
                .collect();
        }
        body["metadata"]["managedFields"] = managed_fields();
        if asked.plural == "pods" {
            let ip = self.members.start(&namespace, &body);
            body["status"] = running(&ip.to_string());
        }
        let mut store = self.lock();
        if store.objects.contains_key(&key) {
            return failure(409, "AlreadyExists");
        }
        let created = (*store.put(&key, body)).clone();
        let version = store.version;
        drop(store);
        self.news.send_replace(version);
        (201, created)
    }

    /// Streams the events after `seen`, one JSON object per line.
    async fn watch(
        self: Arc<Self>,
        asked: Asked,
        lines: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    ) {
        let mut seen: u64 =
            asked.query.get("resourceVersion").and_then(|n| n.parse().ok()).unwrap_or_default();
        let mut news = self.news.subscribe();
        loop {
            let text: String = {
                let store = self.lock();
                let from = store.history.partition_point(|entry| entry.version <= seen);
                seen = store.version;
                let fitting = store.history[from..]
                    .iter()
                    .filter(|entry| asked.fits(&entry.plural, &entry.object));
                let line = |text: String, line: Value| format!("{text}{line}\n");
                fitting
                    .map(|entry| json!({"type": entry.type_, "object": asked.shown(&entry.object)}))
                    .fold(String::new(), line)
            };
            if !text.is_empty() && lines.send(Ok(Frame::data(Bytes::from(text)))).await.is_err() {
                return;
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = lines.closed() => return,
            }
        }
    }
}

impl Asked {
    fn read<B>(request: &Request<B>) -> Self {
        let parts: Vec<&str> =
            request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
        let version = if parts.first() == Some(&"api") { 2 } else { 3 };
        let rest = parts.get(version..).unwrap_or_default();
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let header = |name: &str| {
            request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let pairs = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        Self {
            method: request.method().clone(),
            namespace,
            plural: rest.first().copied().unwrap_or_default().to_owned(),
            name: rest.get(1).map(|name| (*name).to_owned()),
            status: rest.get(2) == Some(&"status"),
            query: pairs
                .map(|(key, value)| (key.to_owned(), value.replace("%2F", "/").replace("%3D", "=")))
                .collect(),
            metadata_only: header("accept").contains("PartialObjectMetadata"),
            apply: header("content-type").contains("apply"),
        }
    }

    fn fits(&self, plural: &str, object: &Value) -> bool {
        let namespace =
            self.namespace.as_ref().is_none_or(|ns| object["metadata"]["namespace"] == **ns);
        plural == self.plural
            && namespace
            && selected(object, self.query.get("labelSelector").map(String::as_str))
    }

    fn shown(&self, object: &Value) -> Value {
        if self.metadata_only {
            return json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]});
        }
        object.clone()
    }
}

async fn answer(
    api: Arc<Api>,
    request: Request<Incoming>,
) -> Result<Response<ApiBody>, Infallible> {
    let asked = Asked::read(&request);
    api.count(&asked);
    if asked.method == Method::GET && asked.query.contains_key("watch") {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(api.watch(asked, sender));
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|line| (line, receiver))
        });
        return Ok(Response::new(StreamBody::new(stream).boxed_unsync()));
    }
    let body = request
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (code, value) = match (&asked.method, &asked.name) {
        (&Method::GET, None) => (200, api.list(&asked)),
        (&Method::POST, None) => api.create(&asked, body),
        _ => api.one(&asked, body),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn place(key: &StoreKey) -> String {
    format!("{}/{}", key.1, key.2)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

/// About as many managed fields as a real server adds.
fn managed_fields() -> Value {
    let fields: serde_json::Map<String, Value> =
        (0..60).map(|n| (format!("f:some-field-of-this-object-{n}"), json!({}))).collect();
    json!([{"manager": "pgraft-operator", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": fields}}])
}

fn running(ip: &str) -> Value {
    let condition = |type_: &str| json!({"type": type_, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions: Vec<Value> =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .into_iter()
            .map(condition)
            .collect();
    json!({"phase": "Running", "hostIP": "127.0.0.1", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable",
        "conditions": conditions, "containerStatuses": [{"name": "postgres", "ready": true, "started": true, "restartCount": 0, "image": "pgraft/postgres:0.1.0",
            "imageID": "sha256:0000000000000000000000000000000000000000000000000000000000000000", "containerID": "containerd://0000",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]})
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_usize, |bits, byte| (bits << 8) | usize::from(*byte));
        for n in 0..4 {
            text.push(if n <= three.len() {
                char::from(LETTERS[(bits >> (18 - 6 * n)) & 63])
            } else {
                '='
            });
        }
    }
    text
}
