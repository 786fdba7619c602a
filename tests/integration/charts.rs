//! The charts render, and what they render is what a real API server takes. What needs no server is in charts/*/tests.

mod installed;
mod kustomize;
mod rights;
mod schemas;
mod values;

use std::process::Command;

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    discovery::{Scope, pinned_kind},
};
use serde::Deserialize as _;
use serde_json::Value;

use crate::support::apiserver::{ApiServer, binary};

fn helm(arguments: &[&str]) -> Result<String, String> {
    answer(Command::new(binary("helm")).args(arguments))
}

/// What a program that runs at the top of the source tree says.
fn answer(program: &mut Command) -> Result<String, String> {
    let output = program.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

fn documents(text: &str) -> Vec<DynamicObject> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .map(|document| serde_json::from_value(document).unwrap())
        .collect()
}

/// Applies as `kubectl apply --server-side` does, without keeping anything: an unknown field is an error.
async fn apply(server: &ApiServer, namespace: &str, objects: Vec<DynamicObject>) {
    let client = server.client();
    for object in objects {
        let types = object.types.clone().unwrap();
        let (resource, capabilities) = pinned_kind(&client, &(&types).try_into().unwrap()).await.unwrap();
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
            Scope::Cluster => Api::all_with(client.clone(), &resource),
        };
        let parameters = PatchParams::apply("chart").force().dry_run().validation_strict();
        if let Err(error) = api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await {
            panic!("{} {}: {error}", types.kind, object.name_any());
        }
    }
}

#[tokio::test]
async fn server_takes_what_the_charts_render() {
    let server = ApiServer::shared().await;
    let namespace = server.namespace().await;
    let crds = documents(&helm(&["template", "kinds", "charts/link-operator-crds"]).unwrap());
    assert_eq!(crds.len(), 4);
    for crd in &crds {
        assert_eq!(crd.annotations().get("helm.sh/resource-policy").map(String::as_str), Some("keep"), "{}", crd.name_any());
    }
    apply(server, &namespace, crds).await;

    let full = [
        "template",
        "ops",
        "charts/link-operator",
        "--namespace",
        &namespace,
        "--set",
        "replicas=2,image.tag=v1,logLevel=debug,priorityClassName=high,networkPolicy.from[0].ipBlock.cidr=10.0.0.0/8",
        "--set",
        "podLabels.team=data,nodeSelector.disk=ssd,serviceAccount.annotations.a=b,imagePullSecrets[0].name=registry",
    ];
    for arguments in [&full[..5], &full] {
        let objects = documents(&helm(arguments).unwrap());
        assert!(objects.iter().any(|object| object.types.as_ref().unwrap().kind == "Deployment"));
        apply(server, &namespace, objects).await;
    }
}

#[test]
fn operator_cannot_list_secrets() {
    let objects = documents(&helm(&["template", "ops", "charts/link-operator"]).unwrap());
    let rules: Vec<Value> = objects
        .iter()
        .filter(|object| object.name_any() == "ops-link-operator")
        .filter_map(|object| object.data["rules"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert!(rules.len() > 5, "{rules:#?}");
    for rule in rules {
        let has = |field: &str, value: &str| rule[field].as_array().unwrap().contains(&value.into());
        for field in ["apiGroups", "resources", "verbs"] {
            assert!(!has(field, "*"), "{rule}");
        }
        if has("resources", "secrets") {
            assert_eq!(rule["verbs"], serde_json::json!(["get", "create", "patch"]));
        }
    }
}

#[tokio::test]
async fn server_takes_the_samples() {
    let server = ApiServer::shared().await;
    let namespace = server.namespace().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/samples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let objects = documents(&std::fs::read_to_string(&path).unwrap());
        assert!(!objects.is_empty(), "{}", path.display());
        apply(server, &namespace, objects).await;
    }
}
