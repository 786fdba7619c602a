//! Counts and bounds the requests to the API server, below everything that makes them.

use std::{sync::Arc, time::Instant};

use axum::http::{Method, Request, Uri, header::CONTENT_TYPE};
use kube::{Client, client::Body};

use tokio::sync::Semaphore;

use super::metrics::Metrics;

/// How many requests are under way at once. Each has a connection of its own, which is kept for a while: more would only queue in the
/// API server, before the requests of others.
const AT_ONCE: usize = 32;
/// What the Lease is a resource of.
const LEASES: &str = "leases";

/// A client that counts what it asks for, and does not ask for too much at once.
pub fn counted(client: Client, metrics: Arc<Metrics>) -> Client {
    let (namespace, valid_until) = (client.default_namespace().to_owned(), *client.valid_until());
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, metrics, room) = (client.clone(), metrics.clone(), room.clone());
        async move {
            let content = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let (verb, resource) = (verb(request.method(), request.uri(), content), resource(request.uri().path()));
            // Who leads is not kept waiting. Of a watch only its begin counts.
            let _turn = if resource == LEASES { None } else { room.acquire().await.ok() };
            let began = Instant::now();
            let answer = client.send(request).await;
            let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            metrics.requested(verb, &resource, code, began.elapsed());
            answer
        }
    });
    Client::new(service, namespace).with_valid_until(valid_until)
}

/// What is asked for, as Kubernetes calls it; `apply` is its `patch` of server-side apply.
fn verb(method: &Method, uri: &Uri, content: Option<&str>) -> &'static str {
    let parameter = |wanted: &str| uri.query().is_some_and(|query| query.split('&').any(|pair| pair == wanted));
    match *method {
        Method::GET if parameter("watch=true") => "watch",
        Method::GET if named(uri.path()) => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH if content.is_some_and(|content| content.starts_with("application/apply-patch")) => "apply",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// The parts of a path after its API group, its version and its namespace: resource, name, subresource.
fn parts(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // api/v1, apis/group/version
    let prefix = match parts.first() {
        Some(&"api") => 2,
        Some(&"apis") => 3,
        _ => return Vec::new(),
    };
    parts.drain(..prefix.min(parts.len()));
    // A Namespace itself is a resource.
    if parts.len() > 2 && parts[0] == "namespaces" {
        parts.drain(..2);
    }
    parts
}

fn named(path: &str) -> bool {
    parts(path).len() > 1
}

/// Resource and subresource: `linktables/status`. What is no resource is `other`.
fn resource(path: &str) -> String {
    match parts(path).as_slice() {
        [] => "other".to_owned(),
        [resource] | [resource, _] => (*resource).to_owned(),
        [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_without_their_names() {
        let links = "/apis/link-operator.io/v1alpha1/namespaces/team/linkconnections";
        for (method, uri, content, expected) in [
            (Method::GET, format!("{links}?watch=true&limit=500"), None, ("watch", "linkconnections")),
            (Method::GET, format!("{links}?limit=500"), None, ("list", "linkconnections")),
            (Method::GET, "/apis/link-operator.io/v1alpha1/linktables".to_owned(), None, ("list", "linktables")),
            (Method::GET, format!("{links}/shop"), None, ("get", "linkconnections")),
            (
                Method::PATCH,
                format!("{links}/shop/status?force=true"),
                Some("application/apply-patch+yaml"),
                ("apply", "linkconnections/status"),
            ),
            (Method::PATCH, format!("{links}/shop"), Some("application/merge-patch+json"), ("patch", "linkconnections")),
            (Method::GET, "/api/v1/namespaces/team".to_owned(), None, ("get", "namespaces")),
            (Method::GET, "/api/v1/namespaces/team/secrets/shop-api".to_owned(), None, ("get", "secrets")),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/team/events".to_owned(), None, ("create", "events")),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/team/leases/x".to_owned(), None, ("update", "leases")),
            (Method::DELETE, "/api/v1/namespaces/team/pods/shop-probe".to_owned(), None, ("delete", "pods")),
            (Method::GET, "/version".to_owned(), None, ("list", "other")),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!((verb(&method, &uri, content), resource(uri.path()).as_str()), expected, "{method} {uri}");
        }
    }
    #[tokio::test]
    async fn not_too_much_is_asked_at_once_and_who_leads_does_not_wait() {
        let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
        // An API server that never answers.
        let silent = tower::service_fn(move |request: Request<Body>| {
            arrived.send(request.uri().path().to_owned()).unwrap();
            std::future::pending::<Result<axum::http::Response<Body>, std::convert::Infallible>>()
        });
        let client = counted(Client::new(silent, "shops"), Arc::new(Metrics::new()));
        let ask = |path: &'static str| {
            let client = client.clone();
            tokio::spawn(async move { client.send(Request::get(path).body(Body::empty()).unwrap()).await.map(|_| ()) })
        };
        let asking: Vec<_> = (0..AT_ONCE + 5).map(|_| ask("/api/v1/namespaces/team/pods/shop")).collect();
        for _ in 0..AT_ONCE {
            arrivals.recv().await.unwrap();
        }
        tokio::task::yield_now().await;
        assert!(arrivals.try_recv().is_err());
        let lease = ask("/apis/coordination.k8s.io/v1/namespaces/team/leases/x");
        assert!(arrivals.recv().await.unwrap().ends_with("leases/x"));
        asking[0].abort();
        assert!(arrivals.recv().await.unwrap().ends_with("pods/shop"));
        asking.iter().chain([&lease]).for_each(tokio::task::JoinHandle::abort);
    }
}
