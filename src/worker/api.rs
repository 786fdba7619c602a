//! The worker's HTTPS API: `PUT /v1/plan` takes a plan, `GET /v1/report` answers when there is a new report.
//!
//! Who may ask holds the link's token. Certificate, key and token are read again when their files change.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{
    plans::{self, Plans},
    reports::Newest,
};
use crate::telemetry::{Readiness, listen};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(5);
/// Longest time that a request for a report is held.
const LONGEST_POLL: Duration = Duration::from_mins(1);
/// How long open requests may take after the API was told to stop.
const CLOSE: Duration = Duration::from_millis(500);

/// What the API works with.
pub(super) struct Api {
    pub plans: Plans,
    pub reports: watch::Receiver<Newest>,
    /// Folder with `tls.crt`, `tls.key` and `token`.
    pub folder: PathBuf,
    pub port: u16,
}

/// What a request finds.
#[derive(Clone)]
struct Shared {
    plans: Plans,
    reports: watch::Receiver<Newest>,
    token: Arc<RwLock<String>>,
}

/// The answer to a plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// Revision of the plan in force.
    pub revision: u64,
    /// Why the plan was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct Poll {
    /// Sequence of the newest report that the asker knows; 0 for none.
    #[serde(default)]
    after: u64,
    /// How long to wait for another, seconds.
    #[serde(default)]
    timeout: u64,
}

/// Certificate, key and token, as they are in their files.
#[derive(Clone, PartialEq, Eq)]
struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
    token: String,
}

impl Api {
    /// Serves until `stop`. Waits for its files if they are not there yet.
    pub async fn serve(self, readiness: Readiness, stop: CancellationToken) -> io::Result<()> {
        let listener = listen(self.port).await?.into_std()?;
        let (identity, tls) = loop {
            let identity = match self.identity().await {
                Ok(identity) => RustlsConfig::from_pem(identity.certificate.clone(), identity.key.clone()).await.map(|tls| (identity, tls)),
                Err(error) => Err(error),
            };
            match identity {
                Ok(identity) => break identity,
                Err(error) => tracing::warn!(folder = %self.folder.display(), %error, "the API waits for its certificate and token"),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = time::sleep(POLL) => {}
            }
        };
        let token = Arc::new(RwLock::new(identity.token.clone()));
        let shared = Shared { plans: self.plans.clone(), reports: self.reports.clone(), token: token.clone() };
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, tls.clone())?.handle(handle.clone()).serve(router(shared).into_make_service());
        readiness.has("api");
        let stopping = async {
            stop.cancelled().await;
            handle.graceful_shutdown(Some(CLOSE));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = server => result,
            () = self.reload(identity, &tls, &token) => Ok(()),
            () = stopping => Ok(()),
        }
    }

    async fn identity(&self) -> io::Result<Identity> {
        let read = |name: &str| tokio::fs::read(self.folder.join(name));
        let (certificate, key, token) = tokio::try_join!(read("tls.crt"), read("tls.key"), read("token"))?;
        let token = String::from_utf8_lossy(&token).trim().to_owned();
        if token.is_empty() {
            // Else anybody without a token would be let in.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the token is empty"));
        }
        Ok(Identity { certificate, key, token })
    }

    /// Takes new files into use. Never ends.
    async fn reload(&self, mut current: Identity, tls: &RustlsConfig, token: &RwLock<String>) {
        loop {
            time::sleep(POLL).await;
            // While the kubelet swaps the mount a file may be missing for a moment.
            let Ok(new) = self.identity().await else { continue };
            if new == current {
                continue;
            }
            match tls.reload_from_pem(new.certificate.clone(), new.key.clone()).await {
                Ok(()) => {
                    new.token.clone_into(&mut token.write().unwrap_or_else(PoisonError::into_inner));
                    current = new;
                    tracing::info!("the API's certificate and token were renewed");
                }
                Err(error) => tracing::warn!(%error, "the API's new certificate cannot be used"),
            }
        }
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/plan", put(take_plan))
        .route("/v1/report", get(tell_report))
        .layer(middleware::from_fn_with_state(shared.clone(), admit))
        .with_state(shared)
}

/// Lets through who holds the token; compares in a time that says nothing of it.
async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let offered =
        request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    let admitted = {
        let token = shared.token.read().unwrap_or_else(PoisonError::into_inner);
        offered.is_some_and(|offered| verify_slices_are_equal(offered.as_bytes(), token.as_bytes()).is_ok())
    };
    if admitted { next.run(request).await } else { (StatusCode::UNAUTHORIZED, "the token is missing or wrong\n").into_response() }
}

async fn take_plan(State(shared): State<Shared>, body: Bytes) -> (StatusCode, Json<PlanAnswer>) {
    let answer = plans::read(&body).and_then(|plan| {
        let revision = plan.revision;
        shared.plans.offer(plan).map(|taken| (revision, taken))
    });
    match answer {
        Ok((revision, taken)) => {
            if taken {
                tracing::info!(revision, "plan pushed by the controller");
            }
            (StatusCode::OK, Json(PlanAnswer { revision, error: None }))
        }
        Err(error) => {
            let status = if matches!(error, plans::Error::PlanOutdated { .. }) { StatusCode::CONFLICT } else { StatusCode::BAD_REQUEST };
            let revision = shared.plans.subscribe().borrow().as_ref().map_or(0, |plan| plan.revision);
            tracing::warn!(%error, "plan refused");
            (status, Json(PlanAnswer { revision, error: Some(error.to_string()) }))
        }
    }
}

async fn tell_report(State(mut shared): State<Shared>, Query(poll): Query<Poll>) -> Response {
    // Another sequence, and not only a higher one: an asker may remember that of a process before this one.
    let news = shared.reports.wait_for(|newest| newest.as_ref().is_some_and(|report| report.sequence != poll.after));
    let patience = Duration::from_secs(poll.timeout).min(LONGEST_POLL);
    let report = match time::timeout(patience, news).await {
        Ok(Ok(newest)) => newest.clone(),
        Ok(Err(_)) | Err(_) => None,
    };
    report.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |report| Json(&*report).into_response())
}
