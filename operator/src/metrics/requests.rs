//! Counts the requests to the API server, by verb and resource.

use http::{Method, Request};
use kube::client::Body;
use std::sync::Arc;
use tower::Layer;
use tower::util::{MapRequest, MapRequestLayer};

use super::Metrics;

/// What the operator asks for; whatever else it might come to be is `other`.
const RESOURCES: [&str; 9] = [
    "pgraftclusters",
    "pods",
    "persistentvolumeclaims",
    "secrets",
    "configmaps",
    "services",
    "poddisruptionbudgets",
    "events",
    "leases",
];

/// A layer for the client.
pub fn counted<S>(
    metrics: Arc<Metrics>,
) -> impl Layer<S, Service = MapRequest<S, impl Fn(Request<Body>) -> Request<Body> + Clone>> {
    MapRequestLayer::new(move |request: Request<Body>| {
        let uri = request.uri();
        let (verb, resource) = read(request.method(), uri.path(), uri.query().unwrap_or_default());
        metrics.requests.get_or_create(&[("verb", verb), ("resource", resource)]).inc();
        request
    })
}

/// `/apis/<group>/<version>[/namespaces/<namespace>]/<resource>[/<name>[/<subresource>]]`, and the
/// same under `/api/v1`.
fn read(method: &Method, path: &str, query: &str) -> (&'static str, &'static str) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let version = if parts.first() == Some(&"api") { 2 } else { 3 };
    let rest = parts.get(version..).unwrap_or_default();
    let rest =
        if rest.first() == Some(&"namespaces") { rest.get(2..).unwrap_or_default() } else { rest };
    let resource = rest
        .first()
        .and_then(|word| RESOURCES.into_iter().find(|known| known == word))
        .unwrap_or("other");
    let verb = match *method {
        Method::GET if query.contains("watch=true") => "watch",
        Method::GET if rest.len() > 1 => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::PUT => "update",
        Method::DELETE => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_resources() {
        let cases = [
            (Method::GET, "/api/v1/namespaces/a/pods", "labelSelector=b", ("list", "pods")),
            (Method::GET, "/api/v1/pods", "&watch=true&labelSelector=b", ("watch", "pods")),
            (Method::GET, "/api/v1/namespaces/a/secrets/demo-internal", "", ("get", "secrets")),
            (
                Method::PATCH,
                "/apis/pgraft.io/v1alpha1/namespaces/a/pgraftclusters/demo/status",
                "",
                ("patch", "pgraftclusters"),
            ),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/x",
                "",
                ("update", "leases"),
            ),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", "", ("create", "events")),
            (Method::GET, "/version", "", ("list", "other")),
        ];
        for (method, path, query, read_as) in cases {
            assert_eq!(read(&method, path, query), read_as, "{path}");
        }
    }
}
