//! kubeconform over everything that users apply, with schemas of the API server's own: its OpenAPI says what the chart, the
//! manifests and the samples may hold, our kinds included.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use kube::{api::GetParams, core::Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{answer, documents, helm, kustomize::kustomize};
use crate::support::apiserver::{ApiServer, binary};

/// Makes of an OpenAPI document what JSON Schema understands, and refuses fields that are not in it.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/definitions/");
            }
            let open = map.contains_key("additionalProperties") || map.contains_key("x-kubernetes-preserve-unknown-fields");
            if map.get("properties").is_some_and(Value::is_object) && map.get("type") == Some(&json!("object")) && !open {
                map.insert("additionalProperties".to_owned(), false.into());
            }
            map.values_mut().for_each(strict);
        }
        Value::Array(parts) => parts.iter_mut().for_each(strict),
        _ => {}
    }
}

/// Writes one schema a kind of these API versions, under the names by which kubeconform looks for them.
async fn write_schemas(server: &ApiServer, versions: &BTreeSet<String>, folder: &Path) {
    let client = server.client();
    for api_version in versions {
        let parent = if api_version.contains('/') { "/openapi/v3/apis" } else { "/openapi/v3/api" };
        let request = Request::new(parent).get(api_version, &GetParams::default()).unwrap();
        let document: Value = client.request(request).await.unwrap_or_else(|error| panic!("{api_version}: {error}"));
        let mut definitions = document["components"]["schemas"].clone();
        strict(&mut definitions);
        for (name, schema) in definitions.as_object().unwrap() {
            for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let [group, version, kind] = ["group", "version", "kind"].map(|part| kind[part].as_str().unwrap().to_lowercase());
                let of = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
                // Some kinds (DeleteOptions) are of every version.
                if of == *api_version {
                    let group =
                        group.split('.').next().filter(|group| !group.is_empty()).map_or(String::new(), |group| format!("-{group}"));
                    let text = json!({"$ref": format!("#/definitions/{name}"), "definitions": definitions}).to_string();
                    std::fs::write(folder.join(format!("{kind}{group}-{version}.json")), text).unwrap();
                }
            }
        }
    }
}

/// How many documents conform, or what is said of the first that does not.
fn kubeconform(schemas: &Path, files: &[PathBuf]) -> Result<u64, String> {
    let location = schemas.join("{{.ResourceKind}}{{.KindSuffix}}.json");
    let arguments = ["-strict", "-summary", "-output", "json", "-schema-location"];
    let said = answer(Command::new(binary("kubeconform")).args(arguments).arg(location).args(files));
    let report: Value = serde_json::from_str(said.as_ref().unwrap_or_else(|error| error)).unwrap();
    if said.is_err() || report["summary"]["skipped"] != 0 {
        return Err(report["resources"][0].to_string().chars().take(2000).collect());
    }
    Ok(report["summary"]["valid"].as_u64().unwrap())
}

/// The files that users apply as they are.
fn manifests() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let samples = std::fs::read_dir(root.join("deploy/samples")).unwrap().map(|entry| entry.unwrap().path());
    samples.chain([root.join("deploy/demo/databases.yaml"), root.join("deploy/base/operator.yaml")]).collect()
}

#[tokio::test]
async fn everything_that_users_apply_conforms() {
    let (server, folder) = (ApiServer::shared().await, TempDir::new().unwrap());
    let mut files = manifests();
    let mut write = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
        files.push(folder.path().join(name));
    };
    write("kinds.yaml", helm(&["template", "kinds", "charts/link-operator-crds"]).unwrap());
    let chart = |values: &str| helm(&["template", "ops", "charts/link-operator", "--namespace", "ops", "--set", values]).unwrap();
    write("default.yaml", chart("replicas=1"));
    write(
        "full.yaml",
        chart("replicas=2,watchNamespace=shop,networkPolicy.from[0].ipBlock.cidr=10.0.0.0/8,imagePullSecrets[0].name=registry"),
    );
    for overlay in ["ha", "namespaced"] {
        let objects = kustomize(&format!("deploy/overlays/{overlay}"));
        let text: Vec<String> = objects.iter().map(|object| serde_yaml::to_string(object).unwrap()).collect();
        write(&format!("{overlay}.yaml"), text.join("---\n"));
    }

    let objects = files.iter().flat_map(|file| documents(&std::fs::read_to_string(file).unwrap()));
    let versions: BTreeSet<String> = objects.map(|object| object.types.unwrap().api_version).collect();
    let schemas = TempDir::new().unwrap();
    write_schemas(server, &versions, schemas.path()).await;
    let valid = kubeconform(schemas.path(), &files).unwrap();
    assert!(valid > 60, "{valid}");

    // Not because it would take anything.
    let link = documents(&std::fs::read_to_string(&files[0]).unwrap()).remove(0);
    for (pointer, value) in [("/spec", json!({"nothing": 1})), ("/kind", json!("Deployment"))] {
        let mut wrong = serde_json::to_value(&link).unwrap();
        *wrong.pointer_mut(pointer).unwrap() = value;
        let file = folder.path().join("wrong.yaml");
        std::fs::write(&file, wrong.to_string()).unwrap();
        kubeconform(schemas.path(), &[file]).unwrap_err();
    }
}
