//! What the engine counts. Series of a table go when it leaves the plan ([`Metrics::retain`]), so that there are never more than
//! the link has tables.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{GaugeVec, HistogramVec, IntCounterVec};

use crate::{
    data::TableName,
    landing::Requests,
    telemetry::{self, Meters},
};

/// The engine's metrics. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics {
    /// Requests to the landing zone.
    pub zone: Requests,
    read_rows: IntCounterVec,
    read_bytes: IntCounterVec,
    applied_rows: IntCounterVec,
    applied_bytes: IntCounterVec,
    batches: IntCounterVec,
    commit_seconds: HistogramVec,
    last_commit: GaugeVec,
    apply_seconds: HistogramVec,
    last_apply: GaugeVec,
    errors: IntCounterVec,
    zone_records: GaugeVec,
    zone_oldest: GaugeVec,
}

/// By which of its ways data takes: the label `kind`.
#[derive(Clone, Copy, Debug, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Way {
    /// A table's load.
    Snapshot,
    /// The source's log.
    Changes,
}

/// Whose error it was: the label `task`.
#[derive(Clone, Copy, Debug, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Task {
    /// Opening the link's log, and following it.
    Engine,
    /// Reading the source's log and committing it.
    Capture,
    /// Letting a table join.
    Join,
    /// Loading a table.
    Snapshot,
    /// Applying changes.
    Apply,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(m: &mut Meters) -> Self {
        Self {
            read_rows: m.counter(
                "link_operator_read_rows_total",
                &["table", "kind"],
                "Rows that this worker read from a source table into the landing zone; kind: snapshot, changes.",
            ),
            read_bytes: m.counter(
                "link_operator_read_bytes_total",
                &["table", "kind"],
                "Bytes of the files that it wrote of them into the landing zone, compressed.",
            ),
            applied_rows: m.counter(
                "link_operator_applied_rows_total",
                &["table", "kind"],
                "Rows that this worker wrote to the target; changes of one row within a batch are written as one.",
            ),
            applied_bytes: m.counter(
                "link_operator_applied_bytes_total",
                &["table", "kind"],
                "Bytes of the files that it wrote to the target, compressed.",
            ),
            batches: m.counter(
                "link_operator_batches_total",
                &["content"],
                "Records that the capture committed to the link's log; content: data, or none (tables that join or leave, and one a minute while \
                 nobody writes).",
            ),
            commit_seconds: m.seconds(
                "link_operator_commit_duration_seconds",
                &[],
                "How long it took to commit a batch with data: from the last of its changes read to its record in the landing zone.",
            ),
            last_commit: m.gauge(
                "link_operator_last_commit_timestamp_seconds",
                &[],
                "When the capture last committed a record, with data or without, seconds since 1970. Only of the worker that captures.",
            ),
            apply_seconds: m.seconds(
                "link_operator_apply_duration_seconds",
                &["kind"],
                "How long it took to write a batch of changes, or a chunk of a snapshot, to the target.",
            ),
            last_apply: m.gauge(
                "link_operator_last_apply_timestamp_seconds",
                &[],
                "When this worker last wrote rows to the target, seconds since 1970.",
            ),
            errors: m.counter(
                "link_operator_errors_total",
                &["task", "reason"],
                "Attempts that failed and are made again, or wait for a person; task: engine, capture, join, snapshot, apply; reason: the name \
                 of the error, as in conditions and Events.",
            ),
            zone_records: m.gauge(
                "link_operator_zone_records",
                &[],
                "Records of the link's log in the landing zone, as of the last sweep. Only of the worker that captures.",
            ),
            zone_oldest: m.gauge(
                "link_operator_zone_oldest_record_timestamp_seconds",
                &[],
                "When the oldest of them was committed, seconds since 1970. One that is older than the zone's retention waits for a table to \
                 apply it. Only of the worker that captures.",
            ),
            zone: Requests::new(m),
        }
    }

    /// Rows of a table were read into the landing zone.
    pub fn read(&self, table: &TableName, way: Way, rows: u64, bytes: u64) {
        let table = table.to_string();
        let labels: [&str; 2] = [&table, way.into()];
        self.read_rows.with_label_values(&labels).inc_by(rows);
        self.read_bytes.with_label_values(&labels).inc_by(bytes);
    }

    /// Rows of a table were written to the target.
    pub fn applied(&self, table: &TableName, way: Way, rows: u64, bytes: u64) {
        let table = table.to_string();
        let labels: [&str; 2] = [&table, way.into()];
        self.applied_rows.with_label_values(&labels).inc_by(rows);
        self.applied_bytes.with_label_values(&labels).inc_by(bytes);
        self.last_apply.with_label_values::<&str>(&[]).set(now());
    }

    /// Writing to the target took so long.
    pub fn apply_took(&self, way: Way, took: Duration) {
        self.apply_seconds.with_label_values::<&str>(&[way.into()]).observe(took.as_secs_f64());
    }

    /// The capture committed a record, of data if `took` says how long that took.
    pub fn committed(&self, took: Option<Duration>) {
        self.batches.with_label_values(&[if took.is_some() { "data" } else { "none" }]).inc();
        if let Some(took) = took {
            self.commit_seconds.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
        }
        self.last_commit.with_label_values::<&str>(&[]).set(now());
    }

    /// This worker captures from now on.
    pub fn captures(&self) {
        self.last_commit.with_label_values::<&str>(&[]).set(now());
    }

    /// Another worker captures.
    pub fn captures_no_longer(&self) {
        for gauge in [&self.last_commit, &self.zone_records, &self.zone_oldest] {
            gauge.reset();
        }
    }

    /// The landing zone was swept: so many records are left, of which the oldest is of then.
    pub fn swept(&self, left: Option<(usize, Timestamp)>) {
        self.zone_records.with_label_values::<&str>(&[]).set(left.map_or(0.0, |(records, _)| records as f64));
        match left {
            Some((_, oldest)) => self.zone_oldest.with_label_values::<&str>(&[]).set(seconds(oldest)),
            None => self.zone_oldest.reset(),
        }
    }

    /// An attempt failed.
    pub fn failed(&self, task: Task, reason: &str) {
        self.errors.with_label_values(&[task.into(), reason]).inc();
    }

    /// Forgets the tables that are not to be kept.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        for counter in [&self.read_rows, &self.read_bytes, &self.applied_rows, &self.applied_bytes] {
            telemetry::retain(counter, "table", &keep);
        }
    }
}

impl Default for Metrics {
    /// For who counts where nobody looks.
    fn default() -> Self {
        Self::new(&mut Meters::default())
    }
}

fn now() -> f64 {
    seconds(Timestamp::now())
}

/// Since 1970.
fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}
