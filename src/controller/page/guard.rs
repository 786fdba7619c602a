//! What no request gets past: the page only reads, and whoever reaches it by way of the loopback interface means it.
//!
//! The page asks for no password: who gets to it was let through by the API server (`kubectl port-forward`, or the proxy of a
//! Service). A browser is there for other sites too. One of them could name a host of its own that leads to 127.0.0.1, and read
//! the page by it (DNS rebinding); so over loopback only its own names are answered.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, Request},
    http::{
        HeaderMap, Method, StatusCode,
        header::{self, HeaderName},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

/// What every answer says: nothing from elsewhere, nothing inline, in no frame, kept nowhere.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Answers requests that only read and name us; to others it says what is wrong with them.
pub async fn guard(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    let mut response = match refusal(peer.ip(), request.method(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// Why a request is not answered.
fn refusal(peer: IpAddr, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    if method != Method::GET && method != Method::HEAD {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "this page only reads\n"));
    }
    // The API server's proxy sends the name that the API server was called by, which is not known here, and comes from elsewhere.
    if peer.to_canonical().is_loopback() && !headers.get(header::HOST).is_some_and(|host| is_loopback(host.as_bytes())) {
        return Some((StatusCode::MISDIRECTED_REQUEST, "this page is at localhost or 127.0.0.1, and has no other name\n"));
    }
    None
}

fn is_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(peer: &str, method: &Method, host: Option<&str>) -> Option<StatusCode> {
        let headers = host.map(|host| (header::HOST, host.parse().unwrap())).into_iter().collect();
        refusal(peer.parse().unwrap(), method, &headers).map(|(status, _)| status)
    }

    #[test]
    fn over_loopback_only_its_own_names_are_answered() {
        for host in ["localhost:8090", "LocalHost", "127.0.0.1:80", "127.0.0.2", "[::1]:8090"] {
            assert_eq!(refused("127.0.0.1", &Method::GET, Some(host)), None, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8090", "127.0.0.1.evil.example", "10.0.0.1", "", "a b"] {
            for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(refused(peer, &Method::GET, Some(host)), Some(StatusCode::MISDIRECTED_REQUEST), "{host} from {peer}");
            }
        }
        assert_eq!(refused("127.0.0.1", &Method::GET, None), Some(StatusCode::MISDIRECTED_REQUEST));
        // The API server's proxy.
        assert_eq!(refused("10.0.0.1", &Method::GET, Some("kubernetes.example:6443")), None);
    }

    #[test]
    fn nothing_but_reading_is_answered() {
        assert_eq!(refused("127.0.0.1", &Method::HEAD, Some("localhost")), None);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::CONNECT, Method::TRACE] {
            assert_eq!(refused("127.0.0.1", &method, Some("localhost")), Some(StatusCode::METHOD_NOT_ALLOWED), "{method}");
        }
    }
}
