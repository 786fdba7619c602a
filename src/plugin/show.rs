//! Objects as text for people, and as documents. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::json;

use super::{Error, Format};
use crate::{
    api::{
        conditions::{get, is_problem, kind},
        link_connection::{LinkConnection, LinkConnectionStatus},
        link_table::{LinkTable, LinkTableStatus},
        report::TablePhase,
    },
    text::{Table, bytes},
};

/// Most tables that the picture of one link names.
const NAMED: usize = 20;

/// One object as the API server has it.
pub fn document<K: Resource<DynamicType = ()> + Serialize>(object: &K, format: Format) -> Result<String, Error> {
    let not_writable = |error: &dyn std::error::Error| Error::NotWritable(error.to_string());
    let mut object = serde_json::to_value(object).map_err(|error| not_writable(&error))?;
    // Kept for machines that apply; nobody reads it. kubectl leaves it out, too.
    if let Some(meta) = object.get_mut("metadata").and_then(|meta| meta.as_object_mut()) {
        meta.remove("managedFields");
    }
    written(&object, format)
}

/// Several, as a list of kubectl.
pub fn documents<K: Resource<DynamicType = ()> + Serialize>(objects: &[K], format: Format) -> Result<String, Error> {
    let items = objects.iter().map(|object| document(object, Format::Json).map(|text| serde_json::from_str(&text).unwrap_or_default()));
    let items: Vec<serde_json::Value> = items.collect::<Result<_, _>>()?;
    written(&json!({"apiVersion": "v1", "kind": "List", "items": items}), format)
}

fn written(value: &serde_json::Value, format: Format) -> Result<String, Error> {
    if format == Format::Yaml {
        serde_yaml::to_string(value).map_err(|error| Error::NotWritable(error.to_string()))
    } else {
        serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| Error::NotWritable(error.to_string()))
    }
}

/// A line a link.
pub fn links(links: &[LinkConnection], namespaces: bool, wide: bool, now: Timestamp) -> String {
    let mut header = vec!["NAME", "PHASE", "TABLES", "UP-TO", "READY", "REASON", "AGE"];
    if wide {
        header.extend(["SOURCE", "TARGET", "CORES"]);
    }
    let mut table = Table::new(&within(namespaces, header));
    for link in links {
        let status = link.status.clone().unwrap_or_default();
        let (truth, reason) = ready_words(&status.conditions);
        let mut row = vec![
            link.name_any(),
            word(status.phase),
            status.tables.as_ref().map(|tables| tables.summary.clone()).unwrap_or_default(),
            ago(status.consistent_as_of, now),
            truth,
            reason,
            age(link.metadata.creation_timestamp.as_ref(), now),
        ];
        if wide {
            row.push(status.source.as_ref().and_then(|source| source.version.clone()).unwrap_or_default());
            row.push(status.target.as_ref().and_then(|target| target.endpoint.clone()).unwrap_or_default());
            row.push(word(status.core_count));
        }
        table.row(placed(namespaces, link, row));
    }
    table.or("no LinkConnections\n")
}

/// A line a table.
pub fn tables(tables: &[LinkTable], namespaces: bool, wide: bool, now: Timestamp) -> String {
    let mut header = vec!["NAME", "LINK", "TABLE", "PHASE", "LOADED", "ROWS", "UP-TO", "READY", "REASON"];
    if wide {
        header.extend(["TARGET", "MESSAGE"]);
    }
    let mut lines = Table::new(&within(namespaces, header));
    for table in tables {
        let status = table.status.clone().unwrap_or_default();
        let (truth, reason) = ready_words(&status.conditions);
        let mut row = vec![
            table.name_any(),
            table.spec.link_connection_ref.name.clone(),
            table.spec.source_name().to_string(),
            word(status.phase),
            loaded(&status),
            word(status.count),
            ago(status.as_of, now),
            truth,
            reason,
        ];
        if wide {
            row.push(table.spec.target_name().to_string());
            row.push(status.error.map(|error| format!("{}; {}", error.message, error.remedy)).unwrap_or_default());
        }
        lines.row(placed(namespaces, table, row));
    }
    lines.or("no LinkTables\n")
}

/// Everything about one link that a person wants to know first.
pub fn link(link: &LinkConnection, tables: &[LinkTable], now: Timestamp) -> String {
    let status = link.status.clone().unwrap_or_default();
    let mut text = format!("LinkConnection {} in namespace {}\n\n", link.name_any(), link.namespace().unwrap_or_default());
    let mut facts = Table::new(&[]);
    for (name, value) in facts_of(link, &status, now) {
        facts.row(vec![format!("  {name}:"), value]);
    }
    text.push_str(&facts.to_string());

    let mut wrong = Table::new(&["  CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"]);
    for condition in status.conditions.iter().filter(|condition| is_problem(condition)) {
        wrong.row(vec![
            format!("  {}", condition.type_),
            condition.status.clone(),
            condition.reason.clone(),
            ago(Some(condition.last_transition_time.0), now),
            condition.message.clone(),
        ]);
    }
    if !wrong.is_empty() {
        let _ = write!(text, "\n{wrong}");
    }
    let mut others: Vec<&LinkTable> = tables.iter().filter(|table| phase(table) != TablePhase::Replicating).collect();
    // The worst first: the phases stand in the order in which a table goes through them.
    others.sort_by_key(|table| (std::cmp::Reverse(phase(table)), table.name_any()));
    let mut lines = Table::new(&["  TABLE", "PHASE", "LOADED", "REASON", "MESSAGE"]);
    for table in others.iter().take(NAMED) {
        let status = table.status.clone().unwrap_or_default();
        let ready = get(&status.conditions, kind::READY);
        lines.row(vec![
            format!("  {}", table.spec.source_name()),
            word(status.phase),
            loaded(&status),
            ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
            ready.map(|ready| ready.message.clone()).unwrap_or_default(),
        ]);
    }
    if !lines.is_empty() {
        let _ = write!(text, "\n{lines}");
    }
    if others.len() > NAMED {
        let _ = writeln!(text, "  and {} more: kubectl link tables {}", others.len() - NAMED, link.name_any());
    }
    text
}

fn facts_of(link: &LinkConnection, status: &LinkConnectionStatus, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Phase", word(status.phase)), ("Asked for", link.spec.state.to_string()), ("Ready", ready(&status.conditions))];
    let mut add =
        |name: &'static str, value: Option<String>| facts.extend(value.filter(|value| !value.is_empty()).map(|value| (name, value)));
    let source = status.source.as_ref();
    add("Source", source.map(|source| source.version.clone().unwrap_or_else(|| source.kind.clone())));
    add("Target", status.target.as_ref().map(|target| target.endpoint.clone().unwrap_or_else(|| target.kind.clone())));
    let workers = status.workers.as_ref().map(|workers| format!("{}/{} ready", workers.ready, workers.desired));
    add("Workers", workers.zip(status.core_count).map(|(workers, cores)| format!("{workers}, {cores} cores")));
    add(
        "Tables",
        status.tables.as_ref().map(|tables| {
            let phases: Vec<String> = tables.by_phase.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
            format!("{} replicate ({})", tables.summary, phases.join(", ")).replace(" ()", "")
        }),
    );
    let discovery = status.discovery.as_ref().filter(|_| link.spec.discover.is_some());
    add("Discovered", discovery.map(|found| format!("{} can be linked, {} cannot", found.eligible, found.ineligible)));
    let plan = status.plan.as_ref();
    add(
        "Plan",
        plan.map(|plan| {
            let size = bytes(plan.bytes.unsigned_abs());
            let lossy = if plan.lossy > 0 { format!("; {} columns lose something", plan.lossy) } else { String::new() };
            let more = if plan.not_asked > 0 { format!("; {} more tables were not asked about", plan.not_asked) } else { String::new() };
            format!("{} tables, {} of them cannot be linked; {} rows, {size}{lossy}{more}", plan.tables, plan.blocked, plan.rows)
        }),
    );
    add("Up to", status.consistent_as_of.map(|time| format!("{time:.0}, {} ago", ago(Some(time), now))));
    let retained = source.and_then(|source| source.retained_log_bytes).and_then(|bytes| u64::try_from(bytes).ok());
    add("Source's log", retained.map(|retained| format!("{} kept for the link", bytes(retained))));
    add("Resume before", status.resume_before.map(|time| format!("{time:.0}")));
    let position = status.position.as_ref();
    let at = |position: Option<&crate::api::report::PositionTime>| position.map_or("-", |position| position.value.as_str()).to_owned();
    add(
        "Position",
        position.map(|position| {
            let head = position.source_head.as_deref().unwrap_or("-");
            format!("applied {}, captured {}, source {head}", at(position.applied.as_ref()), at(position.captured.as_ref()))
        }),
    );
    facts
}

/// The condition Ready in one line.
pub fn ready(conditions: &[Condition]) -> String {
    match get(conditions, kind::READY) {
        None => "unknown: the controller has not seen it yet".to_owned(),
        Some(ready) if ready.message.is_empty() => format!("{}, {}", ready.status, ready.reason),
        Some(ready) => format!("{}, {}: {}", ready.status, ready.reason, ready.message),
    }
}

fn ready_words(conditions: &[Condition]) -> (String, String) {
    get(conditions, kind::READY).map(|ready| (ready.status.clone(), ready.reason.clone())).unwrap_or_default()
}

fn phase(table: &LinkTable) -> TablePhase {
    table.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

/// How much of a table's first load is done.
fn loaded(status: &LinkTableStatus) -> String {
    let Some(snapshot) = &status.snapshot else { return String::new() };
    if status.phase != Some(TablePhase::Snapshotting) || snapshot.chunks_total <= 0 {
        return String::new();
    }
    format!("{}%", 100 * snapshot.chunks_done / snapshot.chunks_total)
}

fn word(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn within(namespaces: bool, mut header: Vec<&'static str>) -> Vec<&'static str> {
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    header
}

fn placed(namespaces: bool, object: &impl ResourceExt, mut row: Vec<String>) -> Vec<String> {
    if namespaces {
        row.insert(0, object.namespace().unwrap_or_default());
    }
    row
}

fn age(time: Option<&Time>, now: Timestamp) -> String {
    ago(time.map(|time| time.0), now)
}

/// How long ago, as kubectl has it: two units while they are small.
fn ago(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(time) = time else { return String::new() };
    let seconds = now.duration_since(time).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (minutes, hours, days) {
        (0..2, ..) => format!("{seconds}s"),
        (2..10, ..) if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        (_, 0..3, _) => format!("{minutes}m"),
        (_, 3..8, _) if minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        (_, _, 0..2) => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    fn shop() -> LinkConnection {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T23:59:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection",
            "metadata": {"name": "shop", "namespace": "shops", "creationTimestamp": "2026-01-01T20:30:00Z", "managedFields": [{"manager": "m"}]},
            "spec": {"source": {}, "target": {}, "landingZoneRef": {"name": "z"}},
            "status": {"phase": "Running", "consistentAsOf": "2026-01-01T23:59:57Z", "coreCount": 4, "workers": {"desired": 1, "ready": 1},
                "source": {"type": "postgresql", "version": "PostgreSQL 15", "retainedLogBytes": 3_145_728},
                "target": {"type": "postgresql", "endpoint": "dw:5432/dw"},
                "tables": {"total": 2, "byPhase": {"Replicating": 1, "Failed": 1}, "summary": "1/2"},
                "conditions": [condition("Ready", "False", "TablesFailed", "these tables need you"), condition("Accepted", "True", "AsRequested", ""),
                    condition("TargetPrepared", "False", "TargetPermissionDenied", "GRANT x")]},
        }))
        .unwrap()
    }

    fn table(name: &str, phase: &str) -> LinkTable {
        serde_json::from_value(json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkTable", "metadata": {"name": name, "namespace": "shops"},
            "spec": {"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": name}},
            "status": {"phase": phase, "count": 7, "snapshot": {"rowsDone": 1, "bytesDone": 1, "chunksDone": 1, "chunksTotal": 3},
                "error": {"code": "NoPrimaryKey", "message": "no key", "remedy": "add one"}},
        }))
        .unwrap()
    }

    #[test]
    fn lines_are_aligned_and_say_what_the_status_says() {
        assert_eq!(
            links(&[shop()], true, false, now()),
            "NAMESPACE  NAME  PHASE    TABLES  UP-TO  READY  REASON        AGE\n\
             shops      shop  Running  1/2     3s     False  TablesFailed  3h30m\n"
        );
        assert_eq!(links(&[], false, false, now()), "no LinkConnections\n");
        let text = tables(&[table("orders", "Snapshotting"), table("c", "Failed")], false, true, now());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("public.orders  Snapshotting  33%     7"), "{text}");
        assert!(lines[2].ends_with("no key; add one"), "{text}");
    }

    #[test]
    fn one_link_shows_what_is_wrong_first() {
        let text = link(&shop(), &[table("a", "Replicating"), table("b", "Waiting"), table("c", "Failed")], now());
        assert!(text.contains("Ready:         False, TablesFailed: these tables need you"), "{text}");
        assert!(text.contains("Source's log:  3.0 MiB kept for the link"), "{text}");
        assert!(text.contains("TargetPrepared  False   TargetPermissionDenied  60s    GRANT x"), "{text}");
        assert!(!text.contains("Accepted") && !text.contains("public.a"), "{text}");
        assert!(text.find("public.c") < text.find("public.b"), "{text}");
        let plan = json!({"time": "2026-01-01T00:00:00Z", "tables": 200, "blocked": 1, "rows": 7, "bytes": 1024, "unmeasured": 0,
            "loadSeconds": 1, "lossy": 0});
        let with_plan = |plan: serde_json::Value| {
            let mut shop = shop();
            shop.status.as_mut().unwrap().plan = serde_json::from_value(plan).unwrap();
            link(&shop, &[], now())
        };
        assert!(with_plan(plan.clone()).contains("200 tables, 1 of them cannot be linked; 7 rows, 1.0 KiB\n"));
        let mut partial = plan;
        partial["notAsked"] = json!(50);
        assert!(with_plan(partial).contains("1.0 KiB; 50 more tables were not asked about\n"));
        let many: Vec<LinkTable> = (0..25).map(|number| table(&format!("t{number}"), "Waiting")).collect();
        assert!(link(&shop(), &many, now()).contains("and 5 more: kubectl link tables shop"));
    }

    #[test]
    fn documents_are_those_of_the_api_server() {
        let text = documents(&[shop()], Format::Yaml).unwrap();
        let list: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!((&list["kind"], &list["items"][0]["status"]["phase"]), (&json!("List"), &json!("Running")));
        assert!(!text.contains("managedFields"));
        assert_eq!(serde_json::from_str::<LinkConnection>(&document(&shop(), Format::Json).unwrap()).unwrap().name_any(), "shop");
    }

    #[test]
    fn times_are_told_as_kubectl_does() {
        let ago = |seconds: i64| ago(Some(now() - jiff::SignedDuration::from_secs(seconds)), now());
        assert_eq!([5, 119, 125, 600, 7200, 12_600, 90_000, 200_000].map(ago), ["5s", "119s", "2m5s", "10m", "120m", "3h30m", "25h", "2d"]);
    }
}
