//! A way to the API server on which one call goes wrong: the n-th of a controller's.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use kube::client::{Body, DynBody};
use serde_json::json;
use tower::{BoxError, Layer, Service};

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It never reaches the server.
    Lost,
    /// It takes effect, and its answer never comes back.
    Unanswered,
    /// The server says that somebody else was faster. Of a call that writes; another one is lost.
    Conflict,
    /// It takes long.
    Late,
}

/// The way. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Faults {
    kind: Kind,
    at: usize,
    calls: Arc<AtomicUsize>,
}

impl Faults {
    /// The call `at`, counted from 0, goes wrong.
    pub fn new(kind: Kind, at: usize) -> Self {
        Self { kind, at, calls: Arc::default() }
    }

    /// Whether it came to that call.
    pub fn happened(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > self.at
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner, faults: self.clone() }
    }
}

/// See [`Faults`].
pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

type Answer = Response<Box<DynBody>>;

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.faults.calls.fetch_add(1, Ordering::Relaxed) != self.faults.at {
            return Box::pin(self.inner.call(request));
        }
        let writes = request.method() != Method::GET;
        let cut = || BoxError::from("the connection was cut off by the test");
        match self.faults.kind {
            Kind::Conflict if writes => Box::pin(async { Ok(conflict()) }),
            Kind::Lost | Kind::Conflict => Box::pin(async move { Err(cut()) }),
            Kind::Unanswered => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    answer.await?;
                    Err(cut())
                })
            }
            Kind::Late => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    answer.await
                })
            }
        }
    }
}

fn conflict() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "the object has been modified; please apply your changes to the latest version and try again"});
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {});
    let body: Box<DynBody> = Box::new(body);
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::CONFLICT;
    answer
}
