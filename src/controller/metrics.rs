//! What the controller counts and measures. Of each link it says what its status says, few numbers, so that alerts see links of which no
//! worker runs too. Nothing here has a label whose values grow with tables: their numbers, and a link's others, come from workers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, proto::MetricFamily};
use strum::IntoEnumIterator;

use super::context::{Queues, Stores};
use crate::{
    api::{
        conditions::{get, is_true, kind, reason},
        landing_zone::{LandingZone, ZonePhase},
        link_connection::{LinkConnection, LinkConnectionStatus, LinkPhase},
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
    each: EachLink,
    tables: GaugeVec,
    zones: GaugeVec,
    workers_desired: GaugeVec,
    workers_ready: GaugeVec,
    rollouts_waiting: GaugeVec,
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
            each: EachLink::new(m),
            tables: m.gauge("link_operator_tables", &["phase"], "LinkTables by phase."),
            zones: m.gauge("link_operator_landing_zones", &["phase"], "LandingZones by phase."),
            workers_desired: m.gauge("link_operator_workers_desired", &[], "Workers that all links together ask for."),
            workers_ready: m.gauge("link_operator_workers_ready", &[], "Workers of all links that are up."),
            rollouts_waiting: m.gauge(
                "link_operator_rollouts_waiting",
                &[],
                "Links whose workers are all up and wait for their turn to be upgraded with the operator (--max-rollouts).",
            ),
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
                self.failed(kind, error);
                "error"
            }
        };
        self.reconciles.with_label_values(&[kind, result]).observe(took.as_secs_f64());
    }

    /// Something failed that is tried again, whether or not the object's status could tell it.
    pub fn failed(&self, kind: &str, error: &super::Error) {
        let reason: &'static str = error.into();
        self.errors.with_label_values(&[kind, reason]).inc();
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
        let zones = stores.zones.state();
        self.count_links(&stores.links.state(), &zones);
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
        for zone in zones {
            let phase = zone.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
            self.zones.with_label_values::<&str>(&[phase.into()]).inc();
        }
    }

    fn count_links(&self, links: &[Arc<LinkConnection>], zones: &[Arc<LandingZone>]) {
        for phase in LinkPhase::iter() {
            for state in STATES {
                self.links.with_label_values(&[phase.into(), state]).set(0.0);
            }
        }
        self.each.forget();
        let zone_end = |zone: &LandingZone| zone.status.as_ref()?.credential_expiry_time;
        let zone_ends: HashMap<Name<'_>, Timestamp> =
            zones.iter().filter_map(|zone| Some((name(&zone.metadata), zone_end(zone)?))).collect();
        let unknown = LinkConnectionStatus::default();
        let (mut desired, mut ready, mut waiting) = (0, 0, 0.0);
        for link in links {
            let status = link.status.as_ref().unwrap_or(&unknown);
            self.links.with_label_values(&[status.phase.unwrap_or_default().into(), state(&status.conditions)]).inc();
            if let Some(workers) = &status.workers {
                desired += workers.desired;
                ready += workers.ready;
            }
            let waits = |condition: &Condition| condition.reason == reason::ROLLOUT_WAITING;
            waiting += f64::from(u8::from(get(&status.conditions, kind::WORKERS_AVAILABLE).is_some_and(waits)));
            let (namespace, _) = name(&link.metadata);
            self.each.take(link, status, zone_ends.get(&(namespace, link.spec.landing_zone_ref.name.as_str())).copied());
        }
        self.workers_desired.with_label_values::<&str>(&[]).set(f64::from(desired));
        self.workers_ready.with_label_values::<&str>(&[]).set(f64::from(ready));
        self.rollouts_waiting.with_label_values::<&str>(&[]).set(waiting);
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

/// Namespace and name.
type Name<'a> = (&'a str, &'a str);

fn name(metadata: &ObjectMeta) -> Name<'_> {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// What is said of each link, as its status says it.
struct EachLink {
    status: GaugeVec,
    workers_missing: GaugeVec,
    retained_log: GaugeVec,
    source_protected: GaugeVec,
    credential_expiry: GaugeVec,
    process_interval: GaugeVec,
}

impl EachLink {
    fn new(m: &mut Meters) -> Self {
        const LABELS: &[&str] = &["namespace", "link"];
        Self {
            status: m.gauge(
                "link_operator_link_status",
                &["namespace", "link", "phase", "state"],
                "1 for the phase that a link is in, and for whether it is Ready, Reconciling or Stalled.",
            ),
            workers_missing: m.gauge("link_operator_link_workers_missing", LABELS, "Workers that a link asks for and that are not up."),
            retained_log: m.gauge(
                "link_operator_link_retained_log_bytes",
                LABELS,
                "Log that the source keeps for a link, also while none of its workers runs: as it was last asked. Absent if it is not known.",
            ),
            source_protected: m.gauge(
                "link_operator_link_source_protected",
                LABELS,
                "0 if the source keeps more log for a link than it may, or soon will, else 1 (condition SourceProtected); absent if nothing \
                 bounds the log.",
            ),
            credential_expiry: m.gauge(
                "link_operator_link_credential_expiry_timestamp_seconds",
                LABELS,
                "When the credential of a link's landing zone ends, seconds since 1970, as the zone was last asked; absent if it has no end \
                 that is known.",
            ),
            process_interval: m.gauge(
                "link_operator_link_process_interval_seconds",
                LABELS,
                "Time from one batch to the next of a link that works in batches; absent of others.",
            ),
        }
    }

    /// Links that are gone have no series.
    fn forget(&self) {
        let all = [
            &self.status,
            &self.workers_missing,
            &self.retained_log,
            &self.source_protected,
            &self.credential_expiry,
            &self.process_interval,
        ];
        all.into_iter().for_each(GaugeVec::reset);
    }

    fn take(&self, link: &LinkConnection, status: &LinkConnectionStatus, zone_end: Option<Timestamp>) {
        let (namespace, name) = name(&link.metadata);
        self.status.with_label_values(&[namespace, name, status.phase.unwrap_or_default().into(), state(&status.conditions)]).set(1.0);
        let set = |gauge: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                gauge.with_label_values(&[namespace, name]).set(value);
            }
        };
        let missing = status.workers.as_ref().map(|workers| (workers.desired - workers.ready).max(0));
        set(&self.workers_missing, missing.map(f64::from));
        let retained = status.source.as_ref().and_then(|source| source.retained_log_bytes);
        set(&self.retained_log, retained.map(|bytes| bytes as f64));
        let protected = get(&status.conditions, kind::SOURCE_PROTECTED).map(|condition| condition.status == "True");
        set(&self.source_protected, protected.map(|protected| f64::from(u8::from(protected))));
        set(&self.credential_expiry, zone_end.map(|end| end.as_duration().as_secs_f64()));
        set(&self.process_interval, link.spec.compute.process_interval().map(|interval| interval.as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;
    use serde_json::{Value, json};

    use super::*;

    fn link(name: &str, compute: &Value, status: &Value) -> Arc<LinkConnection> {
        let database = json!({"host": "db", "database": "shop", "auth": {"password": {"secretRef": {"name": "app"}}}});
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": name, "namespace": "team"},
                "spec": {"source": {"postgresql": database}, "target": {"postgresql": database}, "landingZoneRef": {"name": "staging"},
                    "compute": compute},
                "status": status,
            }))
            .unwrap(),
        )
    }

    fn zone(namespace: &str, end: &str) -> Arc<LandingZone> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "link-operator.io/v1alpha1", "kind": "LandingZone", "metadata": {"name": "staging", "namespace": namespace},
                "spec": {"persistentVolumeClaim": {"claimName": "disk"}}, "status": {"credentialExpiryTime": end},
            }))
            .unwrap(),
        )
    }

    /// Series of single links.
    fn of_links(metrics: &Metrics, links: &[Arc<LinkConnection>], zones: &[Arc<LandingZone>]) -> Vec<String> {
        metrics.count_links(links, zones);
        let text = TextEncoder::new().encode_to_string(&metrics.meters.gather()).unwrap();
        let bare = |line: &str| line.strip_prefix("link_operator_link_").map(|line| line.replace(r#",namespace="team""#, ""));
        text.lines().filter_map(bare).collect()
    }

    #[test]
    fn a_link_is_seen_without_workers_and_its_series_go_with_it() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let paused = link(
            "shop",
            &json!({}),
            &json!({"phase": "Paused", "workers": {"desired": 0, "ready": 0}, "source": {"type": "postgresql", "retainedLogBytes": 7},
                "conditions": [condition("Ready", "False"), condition("Stalled", "True"), condition("SourceProtected", "False")]}),
        );
        let idle = link(
            "batches",
            &json!({"dataProcessIntervalMinutes": 60}),
            &json!({"phase": "Running", "workers": {"desired": 2, "ready": 0},
                "conditions": [condition("Ready", "True"), condition("SourceProtected", "True")]}),
        );
        let new = link("new", &json!({}), &Value::Null);
        // The zone of another namespace is another.
        let zones = [zone("team", "1970-01-01T00:01:40Z"), zone("others", "1970-01-01T00:00:01Z")];
        let metrics = Metrics::new();
        assert_eq!(
            of_links(&metrics, &[paused, idle, new.clone()], &zones),
            [
                r#"credential_expiry_timestamp_seconds{link="batches"} 100"#,
                r#"credential_expiry_timestamp_seconds{link="new"} 100"#,
                r#"credential_expiry_timestamp_seconds{link="shop"} 100"#,
                r#"process_interval_seconds{link="batches"} 3600"#,
                r#"retained_log_bytes{link="shop"} 7"#,
                r#"source_protected{link="batches"} 1"#,
                r#"source_protected{link="shop"} 0"#,
                r#"status{link="batches",phase="Running",state="Ready"} 1"#,
                r#"status{link="new",phase="Initial",state="Reconciling"} 1"#,
                r#"status{link="shop",phase="Paused",state="Stalled"} 1"#,
                r#"workers_missing{link="batches"} 2"#,
                r#"workers_missing{link="shop"} 0"#,
            ]
        );
        assert_eq!(of_links(&metrics, &[new], &[]), [r#"status{link="new",phase="Initial",state="Reconciling"} 1"#]);
    }
}
