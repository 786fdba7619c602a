//! The engine in this process, between two real databases and a folder as landing zone.

mod adopting;
mod crashes;
mod failover;
mod flow;
mod grouping;
mod joining;
mod large;
mod limits;
mod partitions;
mod relinking;
mod scheduling;
mod schema;
mod sharing;
mod sweeping;
mod to_sqlserver;
mod verifying;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use link_operator::{
    api::{
        database::{OnExistingTable, PostgresqlTarget, Source, Target},
        link_connection::SchemaChange,
        link_table::TableOptions,
        plan::{Intent, LinkIdentity, PLAN_FORMAT, Plan, PlannedTable},
        report::{TablePhase, TableReport},
        source_protection::{Bounds, OnPositionLost},
        zone::{ClaimZone, ZoneStore},
    },
    data::TableName,
    landing::{
        Zone, layout,
        record::{Event, Record},
    },
    replication::{self, EngineReport, Setup, metrics::Metrics},
    source, target,
    telemetry::Meters,
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::support::postgres::{Database, Server};

/// Longest wait for anything in these tests; all of it takes seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A link of this process: two databases, a zone, and any number of engines.
pub struct Link {
    pub source: Database,
    pub target: Database,
    zone: TempDir,
    plan: watch::Sender<Arc<Plan>>,
    chunk_bytes: u64,
    sweep_every: Duration,
    compare_every: Duration,
    wait_for: Duration,
    memory: u64,
    meters: Meters,
    metrics: Metrics,
}

/// A running engine.
pub struct Engine {
    task: JoinHandle<()>,
    pub report: watch::Receiver<EngineReport>,
}

impl Link {
    pub async fn new(server: &Server, tables: &[&str]) -> Self {
        static LINKS: AtomicU64 = AtomicU64::new(1);
        let (source, target) = (server.create_database().await, server.create_database().await);
        let number = LINKS.fetch_add(1, Ordering::Relaxed);
        let plan = Plan {
            format_version: PLAN_FORMAT,
            revision: 1,
            link: LinkIdentity {
                namespace: "test".into(),
                name: format!("link-{number}"),
                uid: format!("uid-{number}"),
                // Slots are of the whole server.
                link_id: format!("test.{}.{number}", std::process::id()),
            },
            run: 1,
            intent: Intent::Run,
            batch: None,
            workers: 1,
            cores_per_worker: 2,
            flush_interval_ms: 50,
            retention_seconds: 0,
            transactional_consistency: false,
            schema_change: SchemaChange::default(),
            on_position_lost: OnPositionLost::default(),
            relink_policy: link_operator::api::link_connection::RelinkPolicy::default(),
            bounds: Bounds::default(),
            source: Source { postgresql: Some(source.spec.clone()), sql_server: None },
            target: Target {
                postgresql: Some(PostgresqlTarget { database: target.spec.clone(), on_existing_table: OnExistingTable::Fail }),
                sql_server: None,
                synapse: None,
            },
            zone: ZoneStore { azure: None, persistent_volume_claim: Some(ClaimZone { claim_name: "zone".into(), folder: String::new() }) },
            tables: tables.iter().map(|name| planned(name, 1)).collect(),
            discover: None,
            log: None,
            stop_only: false,
            delete_target_tables: false,
            retain_zone: false,
            verify: None,
        };
        let mut meters = Meters::default();
        Self {
            source,
            target,
            metrics: Metrics::new(&mut meters),
            meters,
            zone: TempDir::new().unwrap(),
            plan: watch::Sender::new(Arc::new(plan)),
            chunk_bytes: 256 * 1024,
            sweep_every: Duration::from_mins(5),
            compare_every: Duration::from_mins(1),
            wait_for: PATIENCE,
            memory: 512 << 20,
        }
    }

    /// Changes the plan, one revision up.
    pub fn replan(&self, change: impl FnOnce(&mut Plan)) {
        self.plan.send_modify(|plan| {
            let mut next = Plan::clone(plan);
            change(&mut next);
            next.revision += 1;
            *plan = Arc::new(next);
        });
    }

    pub fn start(&self) -> Engine {
        self.start_worker(0)
    }

    pub fn start_worker(&self, ordinal: u32) -> Engine {
        self.start_under(ordinal, self.plan.subscribe())
    }

    /// An engine that hears only of these plans.
    pub fn start_under(&self, ordinal: u32, plans: watch::Receiver<Arc<Plan>>) -> Engine {
        let plan = self.plan.borrow().clone();
        let zone = Zone::open(&plan.zone, &self.source.secrets, self.zone.path(), Some(&plan.link.link_id)).unwrap();
        let setup = Setup {
            worker: format!("worker-{ordinal}"),
            ordinal,
            source: source::open(&plan.source, &self.source.secrets, &plan.link.link_id).unwrap(),
            target: target::open(&plan.target, &self.target.secrets, &plan.link.link_id, Some(Arc::new(zone.clone()))).unwrap(),
            zone,
            chunk_bytes: self.chunk_bytes,
            memory: self.memory,
            sweep_every: self.sweep_every,
            compare_every: self.compare_every,
            settle_for: Duration::from_secs(3),
            wait_for: self.wait_for,
            metrics: self.metrics.clone(),
        };
        let (sender, report) = watch::channel(EngineReport::default());
        let task = tokio::spawn(replication::run(setup, plans, sender, CancellationToken::new()));
        Engine { task, report }
    }

    /// All rows of a table as text, in an order of its own.
    async fn rows(database: &Database, table: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        Self::rows_of(database, table, r#""whole row"::text"#).await
    }

    async fn rows_of(database: &Database, table: &str, expression: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let rows = database.connect().await.query(&format!(r#"SELECT {expression} FROM {table} "whole row" ORDER BY 1"#), &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The row of the columns that a table has in the source now, as text: the target keeps those that were dropped.
    async fn source_columns(&self, table: &str) -> String {
        let sql = "SELECT format('ROW(%s)::text', string_agg(format('%I', attname), ', ' ORDER BY attnum)) FROM pg_attribute
                   WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''";
        self.source.connect().await.query_one(sql, &[&table]).await.unwrap().get(0)
    }

    /// How often the log admitted a table: once for each load.
    pub fn loads(&self, table: &str) -> usize {
        let records = self.files("/log/").into_iter().map(|path| serde_json::from_slice::<Record>(&std::fs::read(path).unwrap()).unwrap());
        let joins = |event: &Event| matches!(event, Event::Join { schema, .. } if schema.name.table_name == table);
        records.map(|record| record.events.iter().filter(|event| joins(event)).count()).sum()
    }

    /// Waits until the link has tried in vain to take a table out of its publication.
    pub async fn cannot_silence(&self, server: &Server, table: &str) {
        let name: String = self.source.connect().await.query_one("SELECT pubname::text FROM pg_publication", &[]).await.unwrap().get(0);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let words = ["STATEMENT", &name, "DROP TABLE", table];
        while !server.log().lines().any(|line| words.iter().all(|word| line.contains(word))) {
            assert!(tokio::time::Instant::now() < deadline, "the link does not try to take {table} out of its publication");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The zone cannot be read or written while `work` lasts.
    pub async fn without_zone(&self, work: impl Future<Output = ()>) {
        let folder = self.files("/_link/")[0].split_once("/_link/").unwrap().0.to_owned();
        let (log, aside) = (format!("{folder}/_link"), format!("{folder}/aside"));
        std::fs::rename(&log, &aside).unwrap();
        std::fs::write(&log, "").unwrap();
        work.await;
        std::fs::remove_file(&log).unwrap();
        std::fs::rename(&aside, &log).unwrap();
    }

    /// Paths in the zone that contain `part`, sorted.
    pub fn files(&self, part: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.zone.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { found.push(path.to_string_lossy().into_owned()) }
            }
        }
        found.retain(|path| path.contains(part));
        found.sort();
        found
    }

    /// Numbers of the log's records.
    pub fn records(&self) -> Vec<u64> {
        self.files("/log/").iter().filter_map(|path| layout::number(path)).collect()
    }

    /// What its engines measured last, all together.
    pub fn gauge(&self, name: &str) -> Option<f64> {
        let found = self.meters.gather().into_iter().find(|family| family.name() == name)?;
        found.get_metric().first().map(|metric| metric.get_gauge().get_value())
    }

    /// Waits until the zone is as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !wanted(self) {
            assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}; records {:?}", self.records());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many files the records that came after `before` name, and how many of these records have any.
    pub fn files_since(&self, before: &[u64]) -> (usize, usize) {
        let news = self.files("/log/").into_iter().filter(|path| !layout::number(path).is_some_and(|number| before.contains(&number)));
        let records = news.map(|path| serde_json::from_slice::<Record>(&std::fs::read(path).unwrap()).unwrap());
        let files: Vec<usize> = records.map(|record| record.data.iter().map(|data| data.entries.len()).sum()).collect();
        (files.iter().sum(), files.iter().filter(|files| **files > 0).count())
    }

    /// Waits until the target's table equals the source's, row by row. The source must be at rest.
    pub async fn converged(&self, table: &str) {
        let columns = self.source_columns(table).await;
        let source = Self::rows_of(&self.source, table, &columns).await.unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let target = Self::rows_of(&self.target, table, &columns).await;
            match target {
                Ok(target) if target == source => return,
                _ if tokio::time::Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(target) => {
                    let missing: Vec<_> = source.iter().filter(|row| !target.contains(row)).take(3).collect();
                    let extra: Vec<_> = target.iter().filter(|row| !source.contains(row)).take(3).collect();
                    panic!(
                        "{table}: {} rows in the source, {} in the target; missing {missing:?}, too many {extra:?}",
                        source.len(),
                        target.len()
                    );
                }
                Err(error) => panic!("{table}: {error:?}"),
            }
        }
    }
}

fn planned(name: &str, life: u32) -> PlannedTable {
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    let name = TableName::new(schema.trim_matches('"'), table.trim_matches('"'));
    PlannedTable {
        name: name.table_name.clone(),
        uid: format!("{name}-{life}"),
        source: name.clone(),
        target: name,
        options: TableOptions::default(),
        reseed: None,
        verify: None,
    }
}

impl Engine {
    /// Ends it as a power cut would: whatever is under way is dropped.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until the report is as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&EngineReport) -> bool) -> EngineReport {
        let mut reports = self.report.clone();
        let found = tokio::time::timeout(PATIENCE, reports.wait_for(|report| wanted(report))).await.map(|report| report.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}; last report: {:#?}", *self.report.borrow()))
    }

    /// Waits until it says that its position is lost, and that a person is needed.
    pub async fn loses_its_position(&self, why: &str) {
        let lost = |report: &EngineReport| {
            let mut faults = report.checks.iter().filter_map(|check| check.fault.as_ref());
            faults.any(|fault| fault.reason == "PositionLost" && !fault.heals && fault.message.contains(why))
        };
        self.until("the position is lost", lost).await;
    }

    /// Waits until a table replicates in that run.
    pub async fn replicates_in_run(&self, run: u32) {
        let replicates = |report: &EngineReport| report.run == Some(run) && report.tables.iter().any(|table| table.position.is_some());
        self.until("the new run replicates", replicates).await;
    }

    /// Waits until all tables are Replicating.
    pub async fn replicating(&self, tables: usize) {
        let all = |report: &EngineReport| report.tables.iter().filter(|table| table.phase == TablePhase::Replicating).count() == tables;
        self.until("all tables replicate", all).await;
    }

    /// Waits until one table is in that phase, with that reason if any is given.
    pub async fn table(&self, name: &str, phase: TablePhase, reason: Option<&str>) -> TableReport {
        let found = |report: &EngineReport| {
            let table = report.tables.iter().find(|table| table.uid.starts_with(name))?;
            let fault = table.error.as_ref().or(table.waiting.as_ref()).map(|fault| fault.reason.as_str());
            (table.phase == phase && (reason.is_none() || fault == reason)).then(|| table.clone())
        };
        let report = self.until(&format!("{name} is {phase} {reason:?}"), |report| found(report).is_some()).await;
        found(&report).unwrap()
    }
}
