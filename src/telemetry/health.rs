//! The plain HTTP endpoints of every process: `/healthz`, `/readyz`, `/metrics`.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus::{TextEncoder, proto::MetricFamily};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a process still lacks before it can do its work. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Readiness {
    /// Not ready until each of these has come.
    pub fn waiting_for(missing: impl IntoIterator<Item = &'static str>) -> Self {
        Self { missing: Arc::new(Mutex::new(missing.into_iter().collect())) }
    }

    /// This has come.
    pub fn has(&self, part: &'static str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    /// This is gone.
    pub fn lacks(&self, part: &'static str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(part);
    }

    /// What is missing, sorted; empty when ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Listens on a port of every address that this machine has, of both families where it has both.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        // A machine without IPv6. A port that is taken fails the second time too.
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

/// Answers on `port` until `stop`: `/healthz` as long as the process runs, `/readyz` with what is missing (status 503) or
/// `ok`, `/metrics` with what `gather` finds, in the Prometheus text format.
pub async fn serve_health(
    port: u16,
    gather: impl Fn() -> Vec<MetricFamily> + Clone + Send + Sync + 'static,
    readiness: Readiness,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async move || metrics(&gather())))
        .with_state(readiness);
    axum::serve(listen(port).await?, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let missing = readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", ")))
    }
}

fn metrics(gathered: &[MetricFamily]) -> impl IntoResponse + use<> {
    match TextEncoder::new().encode_to_string(gathered) {
        Ok(text) => (StatusCode::OK, [("content-type", prometheus::TEXT_FORMAT)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], error.to_string()),
    }
}
