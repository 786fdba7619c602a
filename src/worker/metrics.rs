//! What a worker counts and measures: its engine's counters ([`crate::replication::metrics`]), and what its report says, whenever
//! somebody asks. Series of a table are only of the tables that the plan names, and go with them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use prometheus::{CounterVec, GaugeVec, proto::MetricFamily};

use crate::{
    api::{
        plan::Plan,
        report::{Report, TablePhase, TableReport},
    },
    replication,
    telemetry::{Described, Meters},
};

/// A worker's metrics. All of them bear the label `link`: the LinkConnection's name.
pub struct Metrics {
    meters: Meters,
    /// The engine's.
    pub(super) engine: replication::metrics::Metrics,
    plan_revision: GaugeVec,
    run: GaugeVec,
    check_failed: GaugeVec,
    credential_expiry: GaugeVec,
    retained_log: GaugeVec,
    log_room: GaugeVec,
    lag: GaugeVec,
    table_lag: GaugeVec,
    table_phase: GaugeVec,
    snapshot_rows: GaugeVec,
    snapshot_estimated_rows: GaugeVec,
    snapshot_progress: GaugeVec,
    core_seconds: CounterVec,
    /// One at a time takes stock; when that was done last.
    stock: Mutex<Instant>,
}

impl Metrics {
    /// Those of a worker of this link: nothing counted yet.
    pub fn new(link: &str) -> Self {
        let mut meters = Meters::new(&[("link", link)]);
        let m = &mut meters;
        m.gauge("link_operator_worker_info", &["version"], "1, with the version of the worker's program.")
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        Self {
            plan_revision: m.gauge("link_operator_plan_revision", &[], "Revision of the plan that the worker works by."),
            run: m.gauge("link_operator_run", &[], "Number of the link's run: it rises with each full load."),
            check_failed: m.gauge(
                "link_operator_check_failed",
                &["check"],
                "1 while this check of source, target or landing zone fails, else 0; the LinkConnection's condition of this name says why.",
            ),
            lag: m.gauge(
                "link_operator_lag_seconds",
                &[],
                "How far the worst of this worker's tables that replicate, or are tried again, is behind its source: now less the time of \
                 the source as of which the target table is exact. Rises to a minute while nobody writes.",
            ),
            retained_log: m.gauge(
                "link_operator_source_retained_log_bytes",
                &[],
                "Log that the source keeps for this link. Only of the worker that captures.",
            ),
            log_room: m.gauge(
                "link_operator_source_log_room_bytes",
                &[],
                "Log that may be written before the source drops what it keeps, by a setting of its own (max_slot_wal_keep_size); absent if \
                 it never does. Only of the worker that captures.",
            ),
            credential_expiry: m.gauge(
                "link_operator_zone_credential_expiry_timestamp_seconds",
                &[],
                "When the landing zone's credential ends, seconds since 1970; absent if it has no end that is known.",
            ),
            core_seconds: m.fractions("link_operator_core_seconds_total", &[], "Seconds that this worker was up, times its cores."),
            table_phase: m.gauge(
                "link_operator_table_phase",
                &["table", "phase"],
                "1 for the phase that a table of this worker is in; its other phases are absent.",
            ),
            table_lag: m.gauge(
                "link_operator_table_lag_seconds",
                &["table"],
                "The same as link_operator_lag_seconds, of each table that replicates or is tried again.",
            ),
            snapshot_rows: m.gauge("link_operator_snapshot_rows", &["table"], "Rows of a table's load in the target, while it is under way."),
            snapshot_estimated_rows: m.gauge(
                "link_operator_snapshot_estimated_rows",
                &["table"],
                "Rows that the source's statistics expect of it, if it has any.",
            ),
            snapshot_progress: m.gauge(
                "link_operator_snapshot_progress_ratio",
                &["table"],
                "Part of a table's load that is in the target, by chunks, from 0 to 1, while it is under way.",
            ),
            engine: replication::metrics::Metrics::new(m),
            stock: Mutex::new(Instant::now()),
            meters,
        }
    }

    /// What metrics there are.
    pub fn described(&self) -> &[Described] {
        self.meters.described()
    }

    /// All metrics, by the plan in force and the newest report.
    pub(super) fn gather(&self, plan: Option<&Plan>, report: Option<&Report>, now: Timestamp) -> Vec<MetricFamily> {
        let mut last = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plan {
            self.core_seconds.with_label_values::<&str>(&[]).inc_by(last.elapsed().as_secs_f64() * f64::from(plan.cores_per_worker));
            set(&self.plan_revision, Some(plan.revision as f64));
            let names: HashMap<&str, String> = plan.tables.iter().map(|table| (table.uid.as_str(), table.source.to_string())).collect();
            let known: HashSet<&str> = names.values().map(String::as_str).collect();
            self.engine.retain(|table| known.contains(table));
            if let Some(report) = report {
                self.take_link(report);
                self.take_tables(&report.tables, &names, now);
            }
        }
        *last = Instant::now();
        self.meters.gather()
    }

    fn take_link(&self, report: &Report) {
        set(&self.run, report.run.map(f64::from));
        self.check_failed.reset();
        for check in &report.checks {
            self.check_failed.with_label_values(&[&check.name]).set(f64::from(u8::from(check.fault.is_some())));
        }
        set(&self.credential_expiry, report.credential_expiry.map(|time| time.as_duration().as_secs_f64()));
        let source = report.source.as_ref();
        set(&self.retained_log, source.and_then(|source| source.retained_log_bytes).map(|bytes| bytes as f64));
        set(&self.log_room, source.and_then(|source| source.log_room_bytes).map(|bytes| bytes as f64));
    }

    fn take_tables(&self, tables: &[TableReport], names: &HashMap<&str, String>, now: Timestamp) {
        let all = [&self.table_phase, &self.table_lag, &self.snapshot_rows, &self.snapshot_estimated_rows, &self.snapshot_progress];
        all.into_iter().for_each(GaugeVec::reset);
        let mut worst: Option<f64> = None;
        for table in tables {
            let Some(name) = names.get(table.uid.as_str()) else { continue };
            let name = name.as_str();
            self.table_phase.with_label_values(&[name, table.phase.into()]).set(1.0);
            if let (TablePhase::Replicating | TablePhase::Suspended, Some(as_of)) = (table.phase, table.as_of) {
                let lag = now.duration_since(as_of).as_secs_f64().max(0.0);
                self.table_lag.with_label_values(&[name]).set(lag);
                worst = Some(worst.map_or(lag, |worst| worst.max(lag)));
            }
            let under_way = matches!(table.phase, TablePhase::Snapshotting | TablePhase::Suspended);
            if let Some(snapshot) = table.snapshot.as_ref().filter(|snapshot| under_way && snapshot.chunks_done < snapshot.chunks_total) {
                self.snapshot_rows.with_label_values(&[name]).set(snapshot.rows_done as f64);
                if let Some(rows) = snapshot.rows_estimated {
                    self.snapshot_estimated_rows.with_label_values(&[name]).set(rows as f64);
                }
                self.snapshot_progress.with_label_values(&[name]).set(snapshot.chunks_done as f64 / snapshot.chunks_total as f64);
            }
        }
        set(&self.lag, worst);
    }
}

/// Sets a gauge without labels of its own; what is not known is absent.
fn set(gauge: &GaugeVec, value: Option<f64>) {
    match value {
        Some(value) => gauge.with_label_values::<&str>(&[]).set(value),
        None => gauge.reset(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;
    use serde_json::json;

    use super::*;
    use crate::data::TableName;

    fn gathered(metrics: &Metrics, plan: &Plan, tables: &serde_json::Value) -> Vec<String> {
        let report: Report = serde_json::from_value(json!({
            "formatVersion": 1, "sequence": 1, "worker": "shop-0", "version": "0", "planRevision": 1, "tables": tables,
            "source": {"version": "", "identity": "", "retainedLogBytes": 7},
        }))
        .unwrap();
        let families = metrics.gather(Some(plan), Some(&report), Timestamp::from_second(100).unwrap());
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        let of_interest = |line: &&str| line.contains("table=") || line.contains("_lag_seconds{") || line.contains("log_bytes{");
        let bare = |line: &str| line.replace("link_operator_", "").replace(r#",link="shop""#, "").replace(r#"{link="shop"}"#, "");
        text.lines().filter(of_interest).map(bare).collect()
    }

    #[test]
    fn series_are_of_the_plans_tables_and_go_with_them() {
        let plan = |tables: &[&str]| -> Plan {
            let table = |name: &&str| {
                let table = TableName::new("public", *name);
                json!({"name": name, "uid": name, "source": table, "target": table})
            };
            serde_json::from_value(json!({
                "formatVersion": 1, "revision": 1, "run": 1, "intent": "Run", "workers": 1, "coresPerWorker": 1, "flushIntervalMs": 1000,
                "link": {"namespace": "ns", "name": "shop", "uid": "u", "linkId": "ns.shop"}, "source": {}, "target": {}, "zone": {},
                "tables": tables.iter().map(table).collect::<Vec<_>>(),
            }))
            .unwrap()
        };
        let metrics = Metrics::new("shop");
        for table in ["a", "b"] {
            metrics.engine.read(&TableName::new("public", table), replication::metrics::Way::Snapshot, 3, 30);
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        let a = json!({"uid": "a", "phase": "Suspended", "asOf": at(90)});
        let b =
            json!({"uid": "b", "phase": "Snapshotting", "snapshot": {"rowsDone": 5, "bytesDone": 1, "chunksDone": 1, "chunksTotal": 4}});
        let both = gathered(&metrics, &plan(&["a", "b"]), &json!([a, b]));
        assert_eq!(
            both,
            [
                "lag_seconds 10",
                "read_bytes_total{kind=\"snapshot\",table=\"public.a\"} 30",
                "read_bytes_total{kind=\"snapshot\",table=\"public.b\"} 30",
                "read_rows_total{kind=\"snapshot\",table=\"public.a\"} 3",
                "read_rows_total{kind=\"snapshot\",table=\"public.b\"} 3",
                "snapshot_progress_ratio{table=\"public.b\"} 0.25",
                "snapshot_rows{table=\"public.b\"} 5",
                "source_retained_log_bytes 7",
                "table_lag_seconds{table=\"public.a\"} 10",
                "table_phase{phase=\"Snapshotting\",table=\"public.b\"} 1",
                "table_phase{phase=\"Suspended\",table=\"public.a\"} 1",
            ]
        );
        // A table that left is nowhere, whatever the report still says.
        let one = gathered(&metrics, &plan(&["b"]), &json!([a, b]));
        assert!(one.iter().all(|line| !line.contains("public.a")) && one.len() == 6, "{one:#?}");
        assert!(!one.iter().any(|line| line.starts_with("lag_seconds")), "{one:#?}");
    }
}
