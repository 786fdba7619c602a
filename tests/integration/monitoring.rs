//! The manual of metrics, alerts, dashboard and runbook pages are of what there is, and of nothing else.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use link_operator::{
    api::runbook::{BASE, PAGES},
    controller,
    telemetry::Described,
    worker,
};
use serde_json::Value;

use crate::support::apiserver::binary;

const MANUAL: &str = "charts/link-operator/METRICS.md";
const RULES: &str = "charts/link-operator/monitoring/rules.yaml";
const DASHBOARD: &str = "charts/link-operator/dashboards/link-operator.json";
const RUNBOOKS: &str = "deploy/runbooks";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the controller has, and what workers have.
fn described() -> [Vec<Described>; 2] {
    [controller::metrics::Metrics::new().described().to_vec(), worker::metrics::Metrics::new("shop").described().to_vec()]
}

fn table(metrics: &[Described]) -> String {
    let rows = metrics.iter().map(|Described { name, kind, labels, help }| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
    });
    format!("| Metric | Type | Labels | What it is |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

/// Compares the manual's two tables with the metrics, or writes them there (`UPDATE_GOLDEN=1`).
#[test]
fn the_manual_lists_every_metric_as_it_is() {
    let old = read(MANUAL);
    let mut tables = described().map(|metrics| table(&metrics)).into_iter();
    let mut new = String::new();
    let mut within = false;
    for line in old.lines() {
        if !line.starts_with('|') {
            new += line;
            new.push('\n');
        } else if !within {
            new += &tables.next().expect("two tables");
        }
        within = line.starts_with('|');
    }
    assert!(tables.next().is_none(), "{MANUAL} has not two tables");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(MANUAL), &new).unwrap();
    }
    assert!(new == read(MANUAL), "{MANUAL} differs; UPDATE_GOLDEN=1 writes it. Now:\n{new}");
}

/// The metrics that a text names, without what histograms add.
fn named(text: &str) -> BTreeSet<String> {
    let word = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let names = text.match_indices("link_operator_").map(|(at, _)| word(&text[at..]));
    let histograms: BTreeSet<&str> =
        described().iter().flatten().filter(|metric| metric.kind == "histogram").map(|metric| metric.name).collect();
    names
        .map(|name| {
            let bare =
                ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).filter(|bare| histograms.contains(bare));
            bare.map(str::to_owned).unwrap_or(name)
        })
        .collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let known: BTreeSet<String> = described().iter().flatten().map(|metric| metric.name.to_owned()).collect();
    for file in [RULES, DASHBOARD, "charts/link-operator/tests/rules.yaml"] {
        let named = named(&read(file));
        assert!(named.len() > 5, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names what is no metric: {unknown:?}");
    }
    let pages: String = fs::read_dir(path(RUNBOOKS)).unwrap().map(|page| fs::read_to_string(page.unwrap().path()).unwrap()).collect();
    let unknown: Vec<_> = named(&pages).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "a runbook page names what is no metric: {unknown:?}");
}

/// The alerts by name, each with its rule.
fn alerts() -> Vec<(String, Value)> {
    let rules: Value = serde_yaml::from_str(&read(RULES)).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.clone()))
        .collect()
}

#[test]
fn every_alert_has_its_page_and_every_page_its_alert() {
    let alerts = alerts();
    let tests = read("charts/link-operator/tests/rules.yaml");
    for (alert, rule) in &alerts {
        assert_eq!(rule["annotations"]["runbook_url"], format!("{BASE}{alert}.md"));
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{alert} has no {annotation}");
        }
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("warning" | "critical")), "{alert}");
        let page = read(&format!("{RUNBOOKS}/{alert}.md"));
        assert!(page.starts_with(&format!("# {alert}: ")), "{alert}");
        for part in ["## What it means", "## What users see", "## How to find out", "## What cures it"] {
            assert!(page.contains(&format!("\n{part}\n")), "{alert}.md lacks {part}");
        }
        assert!(tests.contains(alert), "no test of {alert}");
    }
    let known: BTreeSet<&str> = alerts.iter().map(|(alert, _)| alert.as_str()).collect();
    for page in fs::read_dir(path(RUNBOOKS)).unwrap() {
        let page = page.unwrap().path();
        assert!(known.contains(page.file_stem().unwrap().to_str().unwrap()), "{} is of no alert", page.display());
    }
    // What conditions refer to.
    let sources = sources(&path("src"));
    for (page, reasons) in PAGES {
        assert!(known.contains(page), "there is no page {page}");
        for reason in reasons {
            assert!(sources.contains(reason), "{page} is about {reason}, which is no reason of anything");
        }
    }
}

/// All of the program's text but the list of pages itself.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.file_name().is_none_or(|name| name != "runbook.rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn alerts_fire_when_they_should() {
    for arguments in [["check", "rules", RULES], ["test", "rules", "charts/link-operator/tests/rules.yaml"]] {
        let output = Command::new(binary("promtool")).current_dir(path("")).args(arguments).output().expect("make tools builds promtool");
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn the_chart_ships_rules_and_dashboard_as_they_are() {
    let render = |settings: &str| {
        let chart = ["template", "ops", "charts/link-operator", "--set", settings];
        let output = Command::new(binary("helm")).current_dir(path("")).args(chart).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let documents =
            serde_yaml::Deserializer::from_str(&text).map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap());
        documents.collect::<Vec<_>>()
    };
    let of_kind = |documents: &[Value], kind: &str| documents.iter().find(|document| document["kind"] == kind).cloned();
    let none = render("replicas=1");
    assert!(of_kind(&none, "PrometheusRule").is_none() && of_kind(&none, "ConfigMap").is_none());

    let all = render("monitoring.rules.enabled=true,monitoring.rules.labels.team=data,monitoring.dashboard.enabled=true");
    let rule = of_kind(&all, "PrometheusRule").unwrap();
    assert_eq!(rule["spec"], serde_yaml::from_str::<Value>(&read(RULES)).unwrap());
    assert_eq!(rule["metadata"]["labels"]["team"], "data");
    let dashboard = of_kind(&all, "ConfigMap").unwrap();
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let shipped: Value = serde_json::from_str(dashboard["data"]["link-operator.json"].as_str().unwrap()).unwrap();
    assert_eq!(shipped, serde_json::from_str::<Value>(&read(DASHBOARD)).unwrap());
}
