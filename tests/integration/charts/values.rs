//! Values: each is documented where users look, and known to the schema that refuses all others.

use std::{collections::BTreeSet, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use link_operator::api::crds;
use serde_json::Value;

const CHARTS: [&str; 2] = ["charts/link-operator-crds", "charts/link-operator"];

fn text(chart: &str, file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(chart).join(file)).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// Paths of what `schema` names.
fn of_schema(path: &str, schema: &Value, found: &mut BTreeSet<String>) {
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        of_schema(&path, part, found);
        found.insert(path);
    }
}

/// Paths of what is in `values`, as deep as the schema goes.
fn of_values(path: &str, values: &Value, known: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    for (name, value) in values.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if known.iter().any(|known| known.starts_with(&format!("{path}."))) {
            of_values(&path, value, known, found);
        }
        found.insert(path);
    }
}

#[test]
fn schema_and_file_name_the_same_values() {
    for chart in CHARTS {
        let (mut known, mut given) = (BTreeSet::new(), BTreeSet::new());
        of_schema("", &serde_json::from_str(&text(chart, "values.schema.json")).unwrap(), &mut known);
        of_values("", &yaml(&text(chart, "values.yaml")), &known, &mut given);
        // Helm's own; and what only Kubernetes has to say something about.
        known.remove(".global");
        for foreign in [".resources.", ".affinity."] {
            known.retain(|path| !path.starts_with(foreign));
            given.retain(|path| !path.starts_with(foreign));
        }
        assert!(!known.is_empty());
        assert_eq!(known, given, "{chart}");
    }
}

#[test]
fn every_value_tells_what_it_is() {
    for chart in CHARTS {
        let text = text(chart, "values.yaml");
        let mut before = "";
        for line in text.lines() {
            let key = line.trim_start().split_once(':').map_or("", |(key, _)| key);
            let named_by_us = !line.trim_start().starts_with('#') && !key.is_empty() && !["requests", "limits"].contains(&key);
            assert!(!named_by_us || before.starts_with('#'), "{chart}: {line}");
            before = line.trim_start();
        }
    }
}

/// What Artifact Hub shows is what is there.
#[test]
fn annotations_for_artifact_hub_are_true() {
    let chart = yaml(&text("charts/link-operator", "Chart.yaml"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], chart["version"]);
    let kinds = yaml(&text("charts/link-operator-crds", "Chart.yaml"));
    for same in ["version", "appVersion", "kubeVersion", "home"] {
        assert_eq!(chart[same], kinds[same], "{same}");
    }
    let annotation = |name: &str| chart["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap().to_owned();
    assert_eq!(annotation("license"), env!("CARGO_PKG_LICENSE"));
    let image = yaml(&text("charts/link-operator", "values.yaml"))["image"]["repository"].as_str().unwrap().to_owned();
    assert_eq!(yaml(&annotation("images"))[0]["image"], format!("{image}:{}", env!("CARGO_PKG_VERSION")));

    let told = yaml(&annotation("crds"));
    let told: BTreeSet<_> = told.as_array().unwrap().iter().map(|crd| [&crd["name"], &crd["kind"], &crd["version"]].map(told_as)).collect();
    let ours = crds::all();
    let ours: BTreeSet<_> = ours
        .iter()
        .map(|crd: &CustomResourceDefinition| [crd.name_any(), crd.spec.names.kind.clone(), crd.spec.versions[0].name.clone()])
        .collect();
    assert_eq!(told, ours);
}

fn told_as(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
