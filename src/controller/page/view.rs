//! What the page says of links and tables: what stands in their status, no more, in the form that it shows. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::lag::Lags;
use crate::api::{
    conditions::{self, kind},
    link_connection::{LinkConnection, LinkPhase, WorkersStatus},
    link_table::{LinkTable, LinkTableStatus, PastError, Retry},
    report::{PositionReport, SchemaReport, TablePhase},
    runbook,
};

/// What an object's conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr)]
pub enum State {
    /// It does what its spec asks.
    Ready,
    /// Not yet, or not at present; it is at work on it.
    Reconciling,
    /// A person is needed.
    Stalled,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The condition that says so.
    pub condition: String,
    /// The error's name.
    pub reason: String,
    /// What is wrong; of a link also what to do about it.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The page that is about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// How far first loads are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Loaded {
    /// Tables that are being loaded.
    pub tables: usize,
    /// Rows in the target.
    pub rows_done: i64,
    /// Rows that the source's statistics expect of all of them.
    pub rows_estimated: Option<i64>,
    /// Bytes of chunk files loaded.
    pub bytes_done: i64,
    /// Of hundred chunks so many are loaded.
    pub percent: Option<u8>,
    /// When the first of them began.
    pub start_time: Option<Timestamp>,
    /// When the last will be done if it goes on like this.
    pub estimated_completion: Option<Timestamp>,
}

/// A link in a list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRow {
    namespace: String,
    name: String,
    phase: LinkPhase,
    /// `spec.state`.
    asked: &'static str,
    state: State,
    reason: String,
    message: String,
    tables: u32,
    tables_by_phase: BTreeMap<TablePhase, u32>,
    loading: Option<Loaded>,
    consistent_as_of: Option<Timestamp>,
    lag_seconds: Option<u32>,
    /// The lags of the last minutes.
    recent: Lags,
    core_count: Option<i32>,
    start_time: Option<Timestamp>,
    source: Option<String>,
    target: Option<String>,
}

/// Everything about one link.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkPicture {
    #[serde(flatten)]
    row: LinkRow,
    problems: Vec<Problem>,
    runbook: Option<String>,
    lags: Lags,
    landing_zone: String,
    workers: Option<WorkersStatus>,
    stop_time: Option<Timestamp>,
    transactional_consistency: bool,
    batch_minutes: i32,
    next_batch_time: Option<Timestamp>,
    resume_before: Option<Timestamp>,
    retained_log_bytes: Option<i64>,
    position: Option<PositionReport>,
    /// Tables of the source that cannot be linked, where the link looks for tables itself.
    ineligible_tables: Option<u32>,
}

/// A table in a list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableRow {
    name: String,
    source: String,
    target: String,
    phase: TablePhase,
    reason: String,
    message: String,
    problem: Option<Problem>,
    loaded: Option<Loaded>,
    rows: Option<i64>,
    bytes: Option<i64>,
    as_of: Option<Timestamp>,
    lag_seconds: Option<u32>,
    last_processed_time: Option<Timestamp>,
    retry: Option<Retry>,
}

/// Everything about one table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TablePicture {
    #[serde(flatten)]
    row: TableRow,
    position: Option<String>,
    schema: Option<SchemaReport>,
    /// The last comparison with the source: its result, when, and a sentence about it.
    verification: Option<(String, Timestamp, String)>,
    recent_errors: Vec<PastError>,
}

/// Seconds from what the target holds until now.
pub fn lag(held: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    held.map(|held| u32::try_from(now.duration_since(held).as_secs().max(0)).unwrap_or(u32::MAX))
}

/// What a link's conditions come to, and the reason.
pub fn link_state(link: &LinkConnection) -> (State, &str) {
    let conditions = link.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let reason = conditions::get(conditions, kind::READY).map_or("", |ready| ready.reason.as_str());
    let state = if conditions::is_true(conditions, kind::READY) {
        State::Ready
    } else if conditions::is_true(conditions, kind::STALLED) {
        State::Stalled
    } else {
        State::Reconciling
    };
    (state, reason)
}

/// Whether something is wrong with a table.
pub fn table_has_problem(table: &LinkTable) -> bool {
    table.status.as_ref().is_some_and(|status| {
        matches!(status.phase, Some(TablePhase::Suspended | TablePhase::Failed))
            || status.error.is_some()
            || conditions::is_true(&status.conditions, kind::STALLED)
    })
}

/// How far a table's first load is, while it is under way.
pub fn table_loaded(status: &LinkTableStatus) -> Option<Loaded> {
    let snapshot = status.snapshot.as_ref().filter(|_| status.phase == Some(TablePhase::Snapshotting))?;
    Some(Loaded {
        tables: 1,
        rows_done: snapshot.rows_done,
        rows_estimated: snapshot.rows_estimated,
        bytes_done: snapshot.bytes_done,
        percent: percent(snapshot.chunks_done, snapshot.chunks_total),
        start_time: snapshot.start_time,
        estimated_completion: snapshot.estimated_completion,
    })
}

/// How far the first loads of several tables are, of those that are under way.
fn all_loaded<'a>(tables: impl Iterator<Item = &'a LinkTable>) -> Option<Loaded> {
    let (mut all, mut done, mut total) =
        (Loaded { rows_estimated: Some(0), estimated_completion: Some(Timestamp::MIN), ..Loaded::default() }, 0, 0);
    for status in tables.filter_map(|table| table.status.as_ref()) {
        let (Some(loaded), Some(snapshot)) = (table_loaded(status), &status.snapshot) else { continue };
        all.tables += 1;
        all.rows_done += loaded.rows_done;
        all.bytes_done += loaded.bytes_done;
        // Of half of them an estimate would say nothing.
        all.rows_estimated = all.rows_estimated.zip(loaded.rows_estimated).map(|(sum, rows)| sum + rows);
        all.start_time = all.start_time.into_iter().chain(loaded.start_time).min();
        all.estimated_completion = all.estimated_completion.zip(loaded.estimated_completion).map(|(one, other)| one.max(other));
        (done, total) = (done + snapshot.chunks_done, total + snapshot.chunks_total);
    }
    all.percent = percent(done, total);
    (all.tables > 0).then_some(all)
}

fn percent(done: i64, total: i64) -> Option<u8> {
    (total > 0).then(|| u8::try_from((100 * done / total).clamp(0, 100)).unwrap_or(100))
}

/// A link in a list. `tables` are its tables.
pub fn link_row(link: &LinkConnection, tables: &[Arc<LinkTable>], recent: Lags, now: Timestamp) -> LinkRow {
    let status = link.status.clone().unwrap_or_default();
    let (state, reason) = link_state(link);
    let (message, _) = ready_message(&status.conditions);
    let counted = status.tables.unwrap_or_default();
    LinkRow {
        namespace: link.namespace().unwrap_or_default(),
        name: link.name_any(),
        phase: status.phase.unwrap_or_default(),
        asked: link.spec.state.into(),
        state,
        reason: reason.to_owned(),
        message,
        tables: counted.total,
        tables_by_phase: counted.by_phase,
        loading: all_loaded(tables.iter().map(AsRef::as_ref)),
        consistent_as_of: status.consistent_as_of,
        lag_seconds: lag(status.consistent_as_of, now),
        recent,
        core_count: status.core_count,
        start_time: status.start_time,
        source: status.source.map(|source| source.version.filter(|version| !version.is_empty()).unwrap_or(source.kind)),
        target: status.target.map(|target| target.endpoint.unwrap_or(target.kind)),
    }
}

/// Everything about a link.
pub fn link_picture(link: &LinkConnection, tables: &[Arc<LinkTable>], lags: Lags, now: Timestamp) -> LinkPicture {
    let status = link.status.clone().unwrap_or_default();
    let wrong = status.conditions.iter().filter(|condition| conditions::is_problem(condition));
    let discovery = status.discovery.filter(|_| link.spec.discover.is_some());
    LinkPicture {
        row: link_row(link, tables, Lags::default(), now),
        problems: wrong.map(problem).collect(),
        runbook: ready_message(&status.conditions).1,
        lags,
        landing_zone: link.spec.landing_zone_ref.name.clone(),
        workers: status.workers,
        stop_time: status.stop_time,
        transactional_consistency: link.spec.transactional_consistency,
        batch_minutes: link.spec.compute.data_process_interval_minutes,
        next_batch_time: status.next_batch_time,
        resume_before: status.resume_before,
        retained_log_bytes: status.source.and_then(|source| source.retained_log_bytes),
        position: status.position,
        ineligible_tables: discovery.map(|discovery| discovery.ineligible),
    }
}

/// A table in a list.
pub fn table_row(table: &LinkTable, now: Timestamp) -> TableRow {
    let status = table.status.clone().unwrap_or_default();
    let loaded = table_loaded(&status);
    let ready = conditions::get(&status.conditions, kind::READY);
    let problem = match &status.error {
        Some(error) => Some(Problem {
            condition: kind::READY.to_owned(),
            reason: error.code.clone(),
            message: error.message.clone(),
            remedy: Some(error.remedy.clone()).filter(|remedy| !remedy.is_empty()),
            runbook: runbook::page(&error.code),
            since: ready.map(|ready| ready.last_transition_time.0),
        }),
        None => ready.filter(|_| table_has_problem(table)).map(problem),
    };
    TableRow {
        name: table.name_any(),
        source: table.spec.source_name().to_string(),
        target: table.spec.target_name().to_string(),
        phase: status.phase.unwrap_or_default(),
        reason: ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
        message: ready_message(&status.conditions).0,
        problem,
        loaded,
        rows: status.count,
        bytes: status.bytes,
        as_of: status.as_of,
        lag_seconds: lag(status.as_of, now),
        last_processed_time: status.last_processed_time,
        retry: status.retry,
    }
}

/// Everything about a table.
pub fn table_picture(table: &LinkTable, now: Timestamp) -> TablePicture {
    let status = table.status.clone().unwrap_or_default();
    TablePicture {
        row: table_row(table, now),
        position: status.position,
        schema: status.schema,
        verification: status.verification.map(|found| (found.result.to_string(), found.time, found.summary())),
        recent_errors: status.recent_errors,
    }
}

fn problem(condition: &Condition) -> Problem {
    let (message, page) = runbook::parts(&condition.message);
    Problem {
        condition: condition.type_.clone(),
        reason: condition.reason.clone(),
        message: message.to_owned(),
        remedy: None,
        runbook: page.or_else(|| runbook::page(&condition.reason)),
        since: Some(condition.last_transition_time.0),
    }
}

/// The message of the condition Ready, and the page that it names.
fn ready_message(conditions: &[Condition]) -> (String, Option<String>) {
    let message = conditions::get(conditions, kind::READY).map_or("", |ready| ready.message.as_str());
    let (message, page) = runbook::parts(message);
    (message.to_owned(), page)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T23:59:00Z"})
    }

    fn link(conditions: &[Value]) -> LinkConnection {
        serde_json::from_value(json!({
            "metadata": {"name": "shop", "namespace": "shops"},
            "spec": {"source": {}, "target": {}, "landingZoneRef": {"name": "staging"}},
            "status": {"phase": "Running", "consistentAsOf": "2026-01-01T23:59:57Z", "coreCount": 4, "conditions": conditions,
                "tables": {"total": 2, "byPhase": {"Replicating": 1, "Failed": 1}, "summary": "1/2"}},
        }))
        .unwrap()
    }

    fn table(status: &Value) -> LinkTable {
        serde_json::from_value(json!({
            "metadata": {"name": "orders"}, "status": status,
            "spec": {"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": "orders"}},
        }))
        .unwrap()
    }

    fn loading(rows: i64, estimated: Option<i64>, chunks: (i64, i64), end: &str) -> Arc<LinkTable> {
        let snapshot = json!({"rowsDone": rows, "rowsEstimated": estimated, "bytesDone": 10 * rows, "chunksDone": chunks.0,
            "chunksTotal": chunks.1, "startTime": "2026-01-01T23:00:00Z", "estimatedCompletion": end});
        Arc::new(table(&json!({"phase": "Snapshotting", "snapshot": snapshot})))
    }

    #[test]
    fn a_link_says_what_is_wrong_what_to_do_and_where_more_is_written() {
        let page = format!("{}LinkTablesFailed.md", runbook::BASE);
        let failed = format!("these tables need you: public.orders; see {page}");
        let link = link(&[
            condition("Ready", "False", "TablesFailed", &failed),
            condition("Stalled", "True", "TablesFailed", &failed),
            condition("Accepted", "True", "AsRequested", ""),
            condition("TargetReachable", "False", "TargetUnreachable", "no route; check the address"),
        ]);
        let picture = serde_json::to_value(link_picture(&link, &[], Lags::default(), now())).unwrap();
        assert_eq!((&picture["state"], &picture["phase"], &picture["lagSeconds"]), (&json!("Stalled"), &json!("Running"), &json!(3)));
        assert_eq!((&picture["message"], &picture["runbook"]), (&json!("these tables need you: public.orders"), &json!(page)));
        assert_eq!(picture["tablesByPhase"], json!({"Replicating": 1, "Failed": 1}));
        let problems: Vec<_> = picture["problems"].as_array().unwrap().iter().map(|problem| &problem["condition"]).collect();
        assert_eq!(problems, ["Stalled", "TargetReachable"]);
        assert_eq!(picture["problems"][1]["runbook"], json!(format!("{}LinkCheckFailing.md", runbook::BASE)));
    }

    #[test]
    fn a_link_that_nobody_looked_at_yet_is_no_error_of_the_page() {
        let mut link = link(&[]);
        link.status = None;
        let picture = serde_json::to_value(link_picture(&link, &[], Lags::default(), now())).unwrap();
        assert_eq!((&picture["state"], &picture["phase"]), (&json!("Reconciling"), &json!("Initial")));
        assert_eq!((&picture["lagSeconds"], &picture["loading"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn loads_of_a_link_are_those_that_are_under_way() {
        let done = Arc::new(table(
            &json!({"phase": "Replicating", "snapshot": {"rowsDone": 9, "bytesDone": 9, "chunksDone": 9, "chunksTotal": 9}}),
        ));
        let [first, second] = [loading(10, Some(20), (1, 2), "2026-01-02T00:10:00Z"), loading(5, Some(60), (0, 6), "2026-01-02T00:30:00Z")];
        let tables = [first, done, second];
        let all = link_row(&link(&[]), &tables, Lags::default(), now()).loading.unwrap();
        assert_eq!((all.tables, all.rows_done, all.rows_estimated, all.bytes_done, all.percent), (2, 15, Some(80), 150, Some(12)));
        assert_eq!(all.estimated_completion, Some("2026-01-02T00:30:00Z".parse().unwrap()));
        let unknown = [tables[0].clone(), loading(5, None, (0, 0), "2026-01-02T00:30:00Z")];
        assert_eq!(all_loaded(unknown.iter().map(AsRef::as_ref)).unwrap().rows_estimated, None);
        let begun = Arc::new(table(
            &json!({"phase": "Snapshotting", "snapshot": {"rowsDone": 0, "bytesDone": 0, "chunksDone": 0, "chunksTotal": 9}}),
        ));
        assert_eq!(all_loaded([tables[0].as_ref(), begun.as_ref()].into_iter()).unwrap().estimated_completion, None);
        assert_eq!(all_loaded([tables[1].as_ref()].into_iter()), None);
    }

    #[test]
    fn a_table_says_its_error_with_remedy_and_page_and_those_before() {
        let failed = table(&json!({"phase": "Failed", "error": {"code": "NoPrimaryKey", "message": "no key", "remedy": "add one"},
            "conditions": [condition("Ready", "False", "NoPrimaryKey", "no key; add one")],
            "recentErrors": [{"code": "SourceUnreachable", "message": "away", "time": "2026-01-01T20:00:00Z", "count": 3}]}));
        let picture = serde_json::to_value(table_picture(&failed, now())).unwrap();
        let problem = &picture["problem"];
        assert_eq!((&problem["reason"], &problem["remedy"]), (&json!("NoPrimaryKey"), &json!("add one")));
        assert_eq!(problem["runbook"], json!(format!("{}LinkTablesFailed.md", runbook::BASE)));
        assert_eq!(picture["recentErrors"][0]["count"], 3);
        let well = table(&json!({"phase": "Waiting", "conditions": [condition("Ready", "False", "OpenTransaction", "waits")]}));
        assert!(table_row(&well, now()).problem.is_none());
        assert_eq!(table_row(&well, now()).reason, "OpenTransaction");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_negative_lag() {
        assert_eq!(lag(Some("2026-01-02T00:00:09Z".parse().unwrap()), now()), Some(0));
    }
}
