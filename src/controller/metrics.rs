//! What the controller counts and measures. Nothing here has a label whose values grow with links or tables: each link's and
//! table's own numbers come from its workers.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, proto::MetricFamily};
use strum::IntoEnumIterator;

use super::context::{Queues, Stores};
use crate::{
    api::{
        conditions::{is_true, kind},
        landing_zone::ZonePhase,
        link_connection::LinkPhase,
        report::TablePhase,
    },
    telemetry::{Described, Meters},
};

/// What a condition list comes to, in one word: the values of the label `state`.
const STATES: [&str; 3] = ["Ready", "Reconciling", "Stalled"];

/// The controller's metrics.
pub struct Metrics {
    meters: Meters,
    /// Reconciliations by kind and result.
    reconciles: HistogramVec,
    /// Those that failed, by kind and reason.
    errors: IntCounterVec,
    /// How long objects waited for their reconciliation, by kind.
    queue_wait: HistogramVec,
    queue_depth: GaugeVec,
    api_requests: IntCounterVec,
    api_seconds: HistogramVec,
    events: IntCounterVec,
    leader: GaugeVec,
    unreleased: IntCounterVec,
    links: GaugeVec,
    tables: GaugeVec,
    zones: GaugeVec,
    workers_desired: GaugeVec,
    workers_ready: GaugeVec,
    /// What there is in the cluster, once this process leads.
    seen: OnceLock<(Stores, Queues)>,
    /// One at a time takes stock.
    stock: Mutex<()>,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut meters = Meters::new(&[]);
        let m = &mut meters;
        m.gauge("link_operator_controller_info", &["version"], "1, with the version of the controller's program.")
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let leader = m.gauge("link_operator_leader", &[], "1 while this controller holds the Lease and works, 0 while it waits for it.");
        leader.with_label_values::<&str>(&[]).set(0.0);
        let unreleased = m.counter(
            "link_operator_unreleased_links_total",
            &[],
            "Links that were deleted without removing what they made in their source.",
        );
        unreleased.with_label_values::<&str>(&[]);
        Self {
            leader,
            unreleased,
            reconciles: m.seconds(
                "link_operator_reconcile_duration_seconds",
                &["kind", "result"],
                "How long reconciliations of a kind took; result: ok, conflict (somebody else was faster), error. Its _count is their number.",
            ),
            errors: m.counter(
                "link_operator_reconcile_errors_total",
                &["kind", "reason"],
                "Reconciliations that failed and are tried again, by the name of the error.",
            ),
            queue_depth: m.gauge("link_operator_queue_depth", &["kind"], "Objects that wait for their reconciliation."),
            queue_wait: m.seconds(
                "link_operator_queue_wait_seconds",
                &["kind"],
                "How long an object waited from what woke it to the begin of its reconciliation.",
            ),
            api_requests: m.counter(
                "link_operator_api_requests_total",
                &["verb", "resource", "code"],
                "Requests to the API server by verb (get, list, watch, create, update, apply, patch, delete), resource with subresource, and \
                 HTTP code (error: no answer).",
            ),
            api_seconds: m.seconds(
                "link_operator_api_request_duration_seconds",
                &["verb"],
                "How long the API server took to answer; of a watch, to begin it.",
            ),
            events: m.counter("link_operator_events_total", &["kind", "reason"], "Events published of objects of a kind, by reason."),
            links: m.gauge(
                "link_operator_links",
                &["phase", "state"],
                "LinkConnections by phase, and by whether they are Ready, Reconciling (not ready, and at work on it) or Stalled (a person is \
                 needed).",
            ),
            tables: m.gauge("link_operator_tables", &["phase"], "LinkTables by phase."),
            zones: m.gauge("link_operator_landing_zones", &["phase"], "LandingZones by phase."),
            workers_desired: m.gauge("link_operator_workers_desired", &[], "Workers that all links together ask for."),
            workers_ready: m.gauge("link_operator_workers_ready", &[], "Workers of all links that are up."),
            seen: OnceLock::new(),
            stock: Mutex::default(),
            meters,
        }
    }

    /// What metrics there are.
    pub fn described(&self) -> &[Described] {
        self.meters.described()
    }

    /// This process leads; from now on it counts what there is.
    pub fn leads(&self, stores: &Stores, queues: &Queues) {
        self.leader.with_label_values::<&str>(&[]).set(1.0);
        // A process leads once: it ends when it no longer does.
        let _ = self.seen.set((stores.clone(), queues.clone()));
    }

    /// A reconciliation ended.
    pub fn reconciled(&self, kind: &str, failure: Option<&super::Error>, took: Duration) {
        let result = match failure {
            None => "ok",
            Some(error) if error.is_conflict() => "conflict",
            Some(error) => {
                let reason: &'static str = error.into();
                self.errors.with_label_values(&[kind, reason]).inc();
                "error"
            }
        };
        self.reconciles.with_label_values(&[kind, result]).observe(took.as_secs_f64());
    }

    /// An object's reconciliation begins after this wait.
    pub fn waited(&self, kind: &str, wait: Duration) {
        self.queue_wait.with_label_values(&[kind]).observe(wait.as_secs_f64());
    }

    /// The API server answered, with a code if it did at all.
    pub fn requested(&self, verb: &str, resource: &str, code: Option<u16>, took: Duration) {
        let code = code.map_or_else(|| "error".to_owned(), |code| code.to_string());
        self.api_requests.with_label_values(&[verb, resource, &code]).inc();
        self.api_seconds.with_label_values(&[verb]).observe(took.as_secs_f64());
    }

    /// An Event was published.
    pub fn told(&self, kind: &str, reason: &str) {
        self.events.with_label_values(&[kind, reason]).inc();
    }

    /// A link was let go with something of it left in its source.
    pub fn left_behind(&self) {
        self.unreleased.with_label_values::<&str>(&[]).inc();
    }

    /// All metrics, as things are now.
    pub fn gather(&self) -> Vec<MetricFamily> {
        let _one = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stores, queues)) = self.seen.get() {
            self.count(stores);
            for (kind, depth) in queues.depths() {
                self.queue_depth.with_label_values(&[kind]).set(depth as f64);
            }
        }
        self.meters.gather()
    }

    fn count(&self, stores: &Stores) {
        for phase in LinkPhase::iter() {
            for state in STATES {
                self.links.with_label_values(&[phase.into(), state]).set(0.0);
            }
        }
        let (mut desired, mut ready) = (0, 0);
        for link in stores.links.state() {
            let status = link.status.clone().unwrap_or_default();
            self.links.with_label_values(&[status.phase.unwrap_or_default().into(), state(&status.conditions)]).inc();
            let workers = status.workers.unwrap_or_default();
            desired += workers.desired;
            ready += workers.ready;
        }
        self.workers_desired.with_label_values::<&str>(&[]).set(f64::from(desired));
        self.workers_ready.with_label_values::<&str>(&[]).set(f64::from(ready));
        for phase in TablePhase::iter() {
            self.tables.with_label_values::<&str>(&[phase.into()]).set(0.0);
        }
        for table in stores.tables.store.state() {
            let phase = table.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
            self.tables.with_label_values::<&str>(&[phase.into()]).inc();
        }
        for phase in ZonePhase::iter() {
            self.zones.with_label_values::<&str>(&[phase.into()]).set(0.0);
        }
        for zone in stores.zones.state() {
            let phase = zone.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
            self.zones.with_label_values::<&str>(&[phase.into()]).inc();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn state(conditions: &[Condition]) -> &'static str {
    let [ready, reconciling, stalled] = STATES;
    if is_true(conditions, kind::READY) {
        ready
    } else if is_true(conditions, kind::STALLED) {
        stalled
    } else {
        reconciling
    }
}
