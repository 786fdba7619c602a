//! Counts the requests to the API server, below everything that makes them.

use std::{sync::Arc, time::Instant};

use axum::http::{Method, Request, Uri, header::CONTENT_TYPE};
use kube::{Client, client::Body};

use super::metrics::Metrics;

/// A client that counts what it asks for.
pub fn counted(client: Client, metrics: Arc<Metrics>) -> Client {
    let (namespace, valid_until) = (client.default_namespace().to_owned(), *client.valid_until());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, metrics) = (client.clone(), metrics.clone());
        async move {
            let content = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let (verb, resource) = (verb(request.method(), request.uri(), content), resource(request.uri().path()));
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
}
