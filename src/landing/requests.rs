//! Counting what is asked of landing zones.

use std::time::Instant;

use prometheus::{HistogramVec, IntCounterVec};

use super::Error;
use crate::telemetry::Meters;

/// Counts requests to a landing zone. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Requests {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl Requests {
    /// None counted yet.
    pub fn new(meters: &mut Meters) -> Self {
        Self {
            total: meters.counter(
                "link_operator_zone_requests_total",
                &["verb", "result"],
                "Requests to the landing zone by verb (get, head, list, put, create, delete); result: ok, or the name of the error.",
            ),
            seconds: meters.seconds(
                "link_operator_zone_request_duration_seconds",
                &["verb"],
                "How long the landing zone took to answer, retries included.",
            ),
        }
    }

    /// Does the work, and counts it.
    pub(super) async fn counted<T>(&self, verb: &'static str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let began = Instant::now();
        let result = work.await;
        let label = result.as_ref().err().map_or("ok", Into::into);
        self.total.with_label_values(&[verb, label]).inc();
        self.seconds.with_label_values(&[verb]).observe(began.elapsed().as_secs_f64());
        result
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self::new(&mut Meters::default())
    }
}
