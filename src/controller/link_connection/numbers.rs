//! What the status of a LinkConnection counts and measures: cores, workers, tables, positions. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    build::{POSTGRESQL, SQL_SERVER, SYNAPSE},
    crew, retained,
    status::{Findings, TableView},
};
use crate::{
    api::{
        database::PostgresqlTarget,
        link_connection::{LinkConnectionStatus, LinkPhase, SourceStatus, TablesStatus, TargetStatus, WorkersStatus, WorstTable},
        report::{Report, TablePhase},
    },
    controller::{explain, link_table::whole_second},
};

/// Fills in what is counted and measured.
pub(super) fn numbers(status: &mut LinkConnectionStatus, findings: &Findings<'_>) {
    let (spec, crew) = (findings.spec, &findings.crew);
    let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    status.core_count = Some(if findings.course.workers { spec.compute.core_count } else { 0 });
    let version = crew.reports.first().map(|report| report.version.clone());
    let kept = status.workers.take().and_then(|workers| workers.version);
    status.workers = Some(WorkersStatus { desired: signed(crew.desired), ready: signed(crew.ready), version: version.or(kept) });
    let system = if spec.source.sql_server.is_some() { SQL_SERVER } else { POSTGRESQL };
    if spec.source.postgresql.is_some() || spec.source.sql_server.is_some() {
        let said = crew.reports.iter().map(AsRef::as_ref).chain(findings.probe).find_map(|report| report.source.as_ref());
        let source = status.source.get_or_insert_with(|| SourceStatus { kind: system.to_owned(), ..Default::default() });
        if let Some(said) = said.filter(|said| !said.version.is_empty()) {
            source.version = Some(said.version.clone());
            source.identity = Some(said.identity.clone());
        }
        let known = |report: &Report| report.source.as_ref()?.retained_log_bytes;
        if !crew.reports.is_empty() {
            let bytes = crew.reports.iter().find_map(|report| known(report));
            source.retained_log_bytes = bytes.map(|bytes| bytes.try_into().unwrap_or(i64::MAX));
        }
    }
    retained_log(status, findings);
    let postgresql = spec.target.postgresql.as_ref().map(|PostgresqlTarget { database: d, .. }| (POSTGRESQL, &d.host, d.port, &d.database));
    let over_tds = spec.target.sql_server_database().map(|d| (if spec.target.synapse.is_some() { SYNAPSE } else { SQL_SERVER }, d));
    let over_tds = over_tds.map(|(kind, d)| (kind, &d.host, d.port, &d.database));
    if let Some((kind, host, port, database)) = postgresql.or(over_tds) {
        status.target = Some(TargetStatus { kind: kind.to_owned(), endpoint: Some(format!("{host}:{port}/{database}")) });
    }
    let tables = &findings.tables;
    let mut by_phase: BTreeMap<TablePhase, u32> = BTreeMap::new();
    for table in tables {
        *by_phase.entry(table.phase).or_default() += 1;
    }
    let replicating = by_phase.get(&TablePhase::Replicating).copied().unwrap_or_default();
    status.tables = Some(TablesStatus {
        total: tables.len().try_into().unwrap_or(u32::MAX),
        by_phase,
        summary: format!("{replicating}/{}", tables.len()),
    });
    status.worst_tables = worst(tables)
        .filter_map(|table| {
            let fault = table.fault.as_ref()?;
            Some(WorstTable { name: table.name.clone(), phase: table.phase, reason: fault.reason.clone(), message: explain(fault) })
        })
        .take(5)
        .collect();
    if let Some(term) = crew.reports.iter().filter_map(|report| report.term).max() {
        status.term = Some(term);
    }
    let said = crew.reports.iter().map(AsRef::as_ref).chain(findings.probe).find_map(|report| report.discovery.clone());
    status.discovery = said.map(|said| said.since(status.discovery.as_ref())).or(status.discovery.take());
    status.plan = match findings.course.phase {
        LinkPhase::Initial | LinkPhase::Stopped => {
            let said = findings.probe.and_then(|probe| probe.plan.clone());
            said.map(|said| said.since(status.plan.as_ref())).or(status.plan.take())
        }
        _ => None,
    };
    status.position = crew::position(&crew.reports).or(status.position.take());
    if crew.current > 0 && crew.current >= crew.desired {
        status.consistent_as_of = consistent_as_of(&findings.tables).map(whole_second).or(status.consistent_as_of);
    }
    if findings.course.phase == LinkPhase::Stopped {
        (status.position, status.consistent_as_of, status.term, status.verification) = (None, None, None, None);
    }
}

/// While the link is Paused, between two batches or cannot start, its probe says how much log the source keeps; else its workers do.
fn retained_log(status: &mut LinkConnectionStatus, findings: &Findings<'_>) {
    let said = findings.probe.and_then(|probe| probe.source.as_ref()).zip(findings.probed_at);
    let course = &findings.course;
    match (course.phase, said) {
        (LinkPhase::Paused, Some((said, at))) => retained::measured(status, said, at, &findings.bounds),
        (_, Some((said, at))) if course.is_idle() => {
            retained::measured_since(course.batch, status, said, at, &findings.bounds);
        }
        // What was said last stands until the next answer.
        (LinkPhase::Paused, None) => {}
        _ if course.is_idle() => {}
        (_, said) => {
            retained::resumed(status);
            if let (Some((said, _)), Some(source)) = (said, &mut status.source) {
                source.retained_log_bytes = said.retained_log_bytes.map(|bytes| bytes.try_into().unwrap_or(i64::MAX));
            }
        }
    }
}

/// As of when all tables are that are consistent; None if that is not known of each.
fn consistent_as_of(tables: &[TableView]) -> Option<Timestamp> {
    let times: Option<Vec<Timestamp>> = tables.iter().filter(|table| table.consistent).map(|table| table.as_of).collect();
    times?.into_iter().min()
}

/// Tables that do not replicate, the worst first.
pub(super) fn worst(tables: &[TableView]) -> impl Iterator<Item = &TableView> {
    let mut found: Vec<&TableView> = tables.iter().filter(|table| table.phase != TablePhase::Replicating).collect();
    let rank = |phase: TablePhase| match phase {
        TablePhase::Failed => 0,
        TablePhase::Suspended => 1,
        TablePhase::Waiting => 2,
        TablePhase::Snapshotting => 3,
        TablePhase::Replicating => 4,
    };
    // Among those that wait, one that says why.
    found.sort_by_key(|table| (rank(table.phase), table.fault.is_none(), table.name.clone()));
    found.into_iter()
}
