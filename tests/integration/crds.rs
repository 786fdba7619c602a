//! A real API server takes our CRDs (the cost of their rules included), completes and accepts what is right, and refuses
//! what is wrong in words that help.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, Request},
    discovery::ApiResource,
};
use link_operator::api::{
    integration_runtime::IntegrationRuntime, landing_zone::LandingZone, link_connection::LinkConnection, link_table::LinkTable,
};
use serde_json::{Value, json};

use crate::support::apiserver::ApiServer;

mod changes;
mod refused;
mod sql_server;
mod synapse;

/// The four kinds' plurals.
const PLURALS: [&str; 4] = ["linkconnections", "linktables", "landingzones", "integrationruntimes"];

fn link() -> Value {
    json!({
        "kind": "LinkConnection",
        "metadata": {"name": "shop"},
        "spec": {
            "source": {"postgresql": {"host": "shop-rw", "database": "shop", "auth": {"password": {"secretRef": {"name": "shop-app"}}}}},
            "target": {"postgresql": {"host": "dw-rw", "database": "dw", "auth": {"password": {"secretRef": {"name": "dw-app"}}}}},
            "landingZoneRef": {"name": "staging"}
        }
    })
}

fn table() -> Value {
    json!({
        "kind": "LinkTable",
        "metadata": {"name": "shop-orders"},
        "spec": {"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": "orders"}}
    })
}

fn azure_zone() -> Value {
    json!({
        "kind": "LandingZone",
        "metadata": {"name": "staging"},
        "spec": {"azure": {
            "account": "contoso", "container": "links", "folder": "prod/shop",
            "auth": {"sasToken": {"secretKeyRef": {"name": "zone", "key": "sas"}}}
        }}
    })
}

fn claim_zone() -> Value {
    json!({
        "kind": "LandingZone",
        "metadata": {"name": "staging"},
        "spec": {"persistentVolumeClaim": {"claimName": "staging"}}
    })
}

fn runtime() -> Value {
    json!({"kind": "IntegrationRuntime", "metadata": {"name": "nearby"}, "spec": {"kubernetes": {}}})
}

/// A manifest with the values at these JSON pointers set (`null` removes).
fn with(mut manifest: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parents, name) = pointer.rsplit_once('/').unwrap();
        let mut at = &mut manifest;
        for part in parents.split('/').skip(1) {
            at = match at {
                Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
                other => &mut other[part],
            };
        }
        if value.is_null() {
            at.as_object_mut().unwrap().remove(name);
        } else {
            at[name] = value.clone();
        }
    }
    manifest
}

/// Creates an object as `kubectl create` does: an unknown field is an error. The error is the server's own words.
async fn create(client: &Client, namespace: &str, manifest: &Value) -> Result<DynamicObject, String> {
    let mut manifest = manifest.clone();
    manifest["apiVersion"] = json!("link-operator.io/v1alpha1");
    let url = format!(
        "/apis/link-operator.io/v1alpha1/namespaces/{namespace}/{}s?fieldValidation=Strict",
        manifest["kind"].as_str().unwrap().to_lowercase()
    );
    let mut request = Request::new(&url).create(&PostParams::default(), serde_json::to_vec(&manifest).unwrap()).unwrap();
    // Request::create puts a second question mark behind ours.
    *request.uri_mut() = url.parse().unwrap();
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("{other}"),
    })
}

/// Changes an object as `kubectl patch --type=merge` does.
async fn change(client: &Client, namespace: &str, kind: &str, name: &str, patch: &Value) -> Result<DynamicObject, String> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("link-operator.io", "v1alpha1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn server_takes_the_definitions_as_they_are_in_the_repository() {
    let server = ApiServer::shared().await;
    let api: Api<CustomResourceDefinition> = Api::all(server.client());
    for plural in PLURALS {
        let path = format!("{}/crds/{plural}.yaml", env!("CARGO_MANIFEST_DIR"));
        let crd: CustomResourceDefinition = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let taken = api.patch(&crd.name_any(), &PatchParams::apply("test").validation_strict(), &Patch::Apply(&crd)).await.unwrap();
        let conditions = taken.status.unwrap().conditions.unwrap_or_default();
        assert!(
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True"),
            "{plural}: {conditions:?}"
        );
        let structural = conditions.iter().find(|condition| condition.type_ == "NonStructuralSchema");
        assert!(structural.is_none(), "{plural}: {structural:?}");
        assert_eq!(taken.spec.names.categories, Some(vec!["linkop".to_owned()]));
    }
}

#[tokio::test]
async fn server_completes_the_minimal_link() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    for manifest in [link(), table(), azure_zone(), runtime()] {
        create(&client, &namespace, &manifest).await.unwrap();
    }

    let link = Api::<LinkConnection>::namespaced(client.clone(), &namespace).get("shop").await.unwrap();
    assert_eq!(
        serde_json::to_value(&link.spec).unwrap(),
        json!({
            "state": "Running",
            "source": {"postgresql": {
                "host": "shop-rw", "port": 5432, "database": "shop", "tls": {"mode": "VerifyFull"},
                "auth": {"password": {"secretRef": {"name": "shop-app"}, "usernameKey": "username", "passwordKey": "password"}}
            }},
            "target": {"postgresql": {
                "host": "dw-rw", "port": 5432, "database": "dw", "tls": {"mode": "VerifyFull"}, "onExistingTable": "Fail",
                "auth": {"password": {"secretRef": {"name": "dw-app"}, "usernameKey": "username", "passwordKey": "password"}}
            }},
            "landingZoneRef": {"name": "staging"},
            "compute": {"coreCount": 1, "coresPerWorker": 4, "memoryPerCore": "2Gi", "flushInterval": "1s", "dataProcessIntervalMinutes": 0},
            "deletionPolicy": {"target": "Retain", "landingZone": "Delete"},
            "transactionalConsistency": false,
            "schemaChange": {"additive": "Propagate", "breaking": "Fail"},
            "onPositionLost": "Fail",
            "relinkPolicy": "Refuse",
            "sourceProtection": {"action": "Alert"}
        })
    );
    // The server itself must hold the defaults: kubectl shows what the controller goes by.
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("link-operator.io", "v1alpha1", "LinkConnection"));
    let raw = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &resource).get("shop").await.unwrap();
    assert_eq!(raw.data["spec"], serde_json::to_value(&link.spec).unwrap());

    let table = Api::<LinkTable>::namespaced(client.clone(), &namespace).get("shop-orders").await.unwrap();
    let zone = Api::<LandingZone>::namespaced(client.clone(), &namespace).get("staging").await.unwrap();
    let runtime = Api::<IntegrationRuntime>::namespaced(client.clone(), &namespace).get("nearby").await.unwrap();
    assert_eq!(table.spec.target_name().to_string(), "public.orders");
    assert_eq!(zone.spec.retention.committed_files, "24h");
    assert_eq!(zone.spec.store.azure.unwrap().folder, "prod/shop");
    assert_eq!(runtime.spec.kubernetes.unwrap().service_account.name, "link-worker");
    // Nobody has seen them yet, and they say so.
    for seen in [
        link.status.unwrap().observed_generation,
        table.status.unwrap().observed_generation,
        zone.status.unwrap().observed_generation,
        runtime.status.unwrap().observed_generation,
    ] {
        assert_eq!(seen, Some(-1));
    }
}

#[tokio::test]
async fn server_accepts_what_is_right() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    let good = [
        with(link(), &[("/metadata/name", json!("a".repeat(40)))]),
        with(link(), &[("/metadata/name", json!("paused")), ("/spec/state", json!("Paused")), ("/spec/linkId", json!("eu.shop"))]),
        with(
            link(),
            &[
                ("/metadata/name", json!("large")),
                (
                    "/spec/compute",
                    json!({"coreCount": 8, "flushInterval": "200ms", "memoryPerCore": "512Mi", "integrationRuntimeRef": {"name": "nearby"}}),
                ),
                ("/spec/deletionPolicy", json!({"target": "Delete", "landingZone": "Retain"})),
                ("/spec/schemaChange", json!({"breaking": "Reseed"})),
                ("/spec/onPositionLost", json!("Reseed")),
                (
                    "/spec/sourceProtection",
                    json!({"maxRetainedLog": "1.5Gi", "action": "Reseed", "maxConnections": 10, "maxSnapshotRate": "50M"}),
                ),
                (
                    "/spec/tables",
                    json!([
                        {"schemaName": "public", "tableName": "orders"},
                        {"schemaName": "public", "tableName": "Größe \"quoted\"", "target": {"schemaName": "shop"}}
                    ]),
                ),
            ],
        ),
        with(
            link(),
            &[
                ("/metadata/name", json!("private-ca")),
                ("/spec/source/postgresql/host", json!("::1")),
                ("/spec/source/postgresql/tls", json!({"ca": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}}, "serverName": "db"})),
                ("/spec/target/postgresql/tls", json!({"mode": "Disable"})),
                ("/spec/target/postgresql/onExistingTable", json!("Recreate")),
            ],
        ),
        with(link(), &[("/metadata/name", json!("adopting")), ("/spec/target/postgresql/onExistingTable", json!("Adopt"))]),
        with(claim_zone(), &[("/metadata/name", json!("claim")), ("/spec/persistentVolumeClaim/folder", json!("links"))]),
        with(
            azure_zone(),
            &[("/metadata/name", json!("emulator")), ("/spec/azure/endpoint", json!("http://127.0.0.1:10000/devstoreaccount1"))],
        ),
        // An explicit null is as good as nothing.
        with(claim_zone(), &[("/metadata/name", json!("null"))]),
        with(
            runtime(),
            &[(
                "/spec/kubernetes",
                json!({
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                    ]}}},
                    "tolerations": [{"key": "links", "operator": "Exists"}],
                    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
                    "priorityClassName": "high",
                    "imagePullSecrets": [{"name": "registry"}],
                    "podLabels": {"azure.workload.identity/use": "true"},
                    "podAnnotations": {"example.com/team": "data"},
                    "serviceAccount": {"name": "shop", "annotations": {"azure.workload.identity/client-id": "0"}}
                }),
            )],
        ),
    ];
    for mut manifest in good {
        if manifest["metadata"]["name"] == "null" {
            manifest["spec"]["azure"] = Value::Null;
        }
        if let Err(error) = create(&client, &namespace, &manifest).await {
            panic!("{manifest:#}\n{error}");
        }
    }
}

#[tokio::test]
async fn scale_sets_cores() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    create(&client, &namespace, &link()).await.unwrap();
    let links = Api::<LinkConnection>::namespaced(client, &namespace);
    let scale = links.patch_scale("shop", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 8}}))).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(8));
    assert_eq!(links.get("shop").await.unwrap().spec.compute.workers(), 2);
    let refused = links.patch_scale("shop", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 6}}))).await.unwrap_err();
    assert!(refused.to_string().contains("coreCount must be at most coresPerWorker"), "{refused}");
}
