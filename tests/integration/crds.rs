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
            "compute": {"coreCount": 1, "coresPerWorker": 4, "memoryPerCore": "2Gi", "flushInterval": "1s"},
            "deletionPolicy": {"target": "Retain", "landingZone": "Delete"},
            "transactionalConsistency": false,
            "schemaChange": {"additive": "Propagate", "breaking": "Fail"},
            "onPositionLost": "Fail",
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

/// What is wrong, the manifest, and what a person must read.
#[allow(clippy::too_many_lines)] // a table
fn bad() -> Vec<(&'static str, Value, &'static str)> {
    let long = |length: usize| json!("a".repeat(length));
    let entry = |schema: &str, table: &str| json!({"schemaName": schema, "tableName": table});
    let source = "/spec/source/postgresql";
    let in_source = |field: &str, value: Value| with(link(), &[(&format!("{source}/{field}"), value)]);
    let compute = |value: Value| with(link(), &[("/spec/compute", value)]);
    let protected = |value: Value| with(link(), &[("/spec/sourceProtection", value)]);
    let kept = |time: &str| with(azure_zone(), &[("/spec/retention", json!({"committedFiles": time}))]);
    let azure = |field: &str, value: Value| with(azure_zone(), &[(&format!("/spec/azure/{field}"), value)]);
    vec![
        // LinkConnection
        ("no source", with(link(), &[("/spec/source", Value::Null)]), "spec.source: Required value"),
        (
            "empty source",
            with(link(), &[("/spec/source", json!({}))]),
            "spec.source: Invalid value: \"object\": set exactly one source: postgresql",
        ),
        ("null source", with(link(), &[("/spec/source", json!({"postgresql": {}}))]), "spec.source.postgresql.host: Required value"),
        ("unknown source", with(link(), &[("/spec/source/oracle", json!({}))]), "unknown field \"spec.source.oracle\""),
        ("no target", with(link(), &[("/spec/target", Value::Null)]), "spec.target: Required value"),
        ("empty target", with(link(), &[("/spec/target", json!({}))]), "set exactly one target: postgresql"),
        ("no landing zone", with(link(), &[("/spec/landingZoneRef", Value::Null)]), "spec.landingZoneRef: Required value"),
        ("reference without a name", with(link(), &[("/spec/landingZoneRef", json!({}))]), "spec.landingZoneRef.name: Required value"),
        (
            "reference to nothing",
            with(link(), &[("/spec/landingZoneRef/name", json!(""))]),
            "spec.landingZoneRef.name: Invalid value: \"\"",
        ),
        ("reference that is no name", with(link(), &[("/spec/landingZoneRef/name", json!("other/zone"))]), "spec.landingZoneRef.name"),
        ("name of 41 characters", with(link(), &[("/metadata/name", long(41))]), "the name of a LinkConnection has at most 40 characters"),
        ("unknown state", with(link(), &[("/spec/state", json!("Started"))]), "supported values: \"Running\", \"Paused\", \"Stopped\""),
        ("unknown field", with(link(), &[("/spec/discover", json!({}))]), "unknown field \"spec.discover\""),
        ("empty host", in_source("host", json!("")), "spec.source.postgresql.host"),
        ("host with port", in_source("host", json!("http://db:5432/shop")), "host is a name or an address alone"),
        ("over-long host", in_source("host", long(254)), "spec.source.postgresql.host: Too long: may not be more than 253"),
        ("port zero", in_source("port", json!(0)), "should be greater than or equal to 1"),
        ("port beyond the last", in_source("port", json!(65536)), "should be less than or equal to 65535"),
        ("empty database", in_source("database", json!("")), "spec.source.postgresql.database"),
        ("no way to log in", in_source("auth", json!({})), "set exactly one way to log in: password"),
        ("secret without a name", in_source("auth", json!({"password": {"secretRef": {}}})), "secretRef.name: Required value"),
        ("password in the clear", in_source("auth", json!({"password": {"value": "x", "secretRef": {"name": "a"}}})), "unknown field"),
        (
            "key that leaves the folder",
            in_source("auth", json!({"password": {"secretRef": {"name": "a"}, "passwordKey": "../x"}})),
            "passwordKey",
        ),
        ("unknown TLS mode", in_source("tls", json!({"mode": "prefer"})), "\"VerifyFull\", \"VerifyCA\", \"Require\", \"Disable\""),
        (
            "authority that nothing verifies",
            in_source("tls", json!({"mode": "Disable", "serverName": "db"})),
            "no certificate is verified: remove ca",
        ),
        ("no core", compute(json!({"coreCount": 0})), "should be greater than or equal to 1"),
        ("too many cores", compute(json!({"coreCount": 260})), "should be less than or equal to 256"),
        (
            "cores that make no whole worker",
            compute(json!({"coreCount": 6})),
            "spec.compute.coreCount: Invalid value: \"object\": coreCount must be at most coresPerWorker (4 unless set) or a multiple of it",
        ),
        ("interval without a unit", compute(json!({"flushInterval": "1"})), "spec.compute.flushInterval"),
        ("interval too short", compute(json!({"flushInterval": "199ms"})), "flushInterval is a whole number of ms or s from 200ms to 60s"),
        ("interval too long", compute(json!({"flushInterval": "61s"})), "flushInterval is a whole number of ms or s from 200ms to 60s"),
        ("interval that is no text", compute(json!({"flushInterval": 1})), "spec.compute.flushInterval"),
        ("memory that is no quantity", compute(json!({"memoryPerCore": "2 GB"})), "memoryPerCore is a quantity from 256Mi to 64Gi"),
        ("memory too small", compute(json!({"memoryPerCore": "64Mi"})), "memoryPerCore is a quantity from 256Mi to 64Gi"),
        (
            "unknown policy",
            with(link(), &[("/spec/deletionPolicy", json!({"target": "Drop"}))]),
            "supported values: \"Retain\", \"Delete\"",
        ),
        ("link id with a slash", with(link(), &[("/spec/linkId", json!("eu/shop"))]), "spec.linkId"),
        (
            "two tables alike",
            with(link(), &[("/spec/tables", json!([entry("public", "orders"), entry("public", "orders")]))]),
            "spec.tables[1]: Duplicate value",
        ),
        (
            "table without a name",
            with(link(), &[("/spec/tables", json!([{"schemaName": "public"}]))]),
            "spec.tables[0].tableName: Required value",
        ),
        (
            "too many tables",
            with(link(), &[("/spec/tables", (0..501).map(|n| entry("public", &n.to_string())).collect())]),
            "at most 500 items",
        ),
        // LinkTable
        ("table of no link", with(table(), &[("/spec/linkConnectionRef", Value::Null)]), "spec.linkConnectionRef: Required value"),
        ("table without a source", with(table(), &[("/spec/source", Value::Null)]), "spec.source: Required value"),
        ("empty table name", with(table(), &[("/spec/source/tableName", json!(""))]), "spec.source.tableName"),
        ("over-long table name", with(table(), &[("/spec/source/tableName", long(129))]), "Too long: may not be more than 128"),
        ("empty target name", with(table(), &[("/spec/target", json!({"tableName": ""}))]), "spec.target.tableName"),
        // LandingZone
        ("zone nowhere", with(azure_zone(), &[("/spec/azure", Value::Null)]), "set exactly one of azure and persistentVolumeClaim"),
        (
            "zone in two places",
            with(azure_zone(), &[("/spec/persistentVolumeClaim", json!({"claimName": "staging"}))]),
            "set exactly one of azure and persistentVolumeClaim",
        ),
        ("account that cannot be", azure("account", json!("Contoso")), "spec.azure.account"),
        ("container too short", azure("container", json!("ab")), "spec.azure.container"),
        ("folder that begins with a slash", azure("folder", json!("/links")), "folder is a path such as links/shop"),
        ("retention too short", kept("59m"), "committedFiles is a whole number of m or h from 1h to 8760h"),
        ("retention in days", kept("7d"), "committedFiles is a whole number of m or h from 1h to 8760h"),
        ("added columns in other words", with(link(), &[("/spec/schemaChange", json!({"additive": "Ignore"}))]), "\"Propagate\", \"Fail\""),
        ("position lost in other words", with(link(), &[("/spec/onPositionLost", json!("Ignore"))]), "\"Fail\", \"Reseed\""),
        (
            "retained log of a few bytes",
            protected(json!({"maxRetainedLog": "1Mi"})),
            "maxRetainedLog is a quantity of bytes of 64Mi or more",
        ),
        ("retained log in thousandths", protected(json!({"maxRetainedLog": "5000m"})), "spec.sourceProtection.maxRetainedLog"),
        ("retained log that is a number", protected(json!({"maxRetainedLog": 1})), "spec.sourceProtection.maxRetainedLog"),
        ("retained log in words", protected(json!({"maxRetainedLog": "half the disk"})), "spec.sourceProtection.maxRetainedLog"),
        ("giving up in other words", protected(json!({"maxRetainedLog": "1Gi", "action": "Drop"})), "\"Alert\", \"Reseed\""),
        ("giving up of nothing", protected(json!({"action": "Reseed"})), "action Reseed needs maxRetainedLog"),
        ("four connections", protected(json!({"maxConnections": 4})), "should be greater than or equal to 5"),
        ("a snail's rate", protected(json!({"maxSnapshotRate": "1k"})), "maxSnapshotRate is a quantity of bytes per second of 1Mi or more"),
        ("unknown protection", protected(json!({"maxLag": "1h"})), "unknown field \"spec.sourceProtection.maxLag\""),
        ("schema change in other words", with(link(), &[("/spec/schemaChange", json!({"breaking": "Ignore"}))]), "\"Fail\", \"Reseed\""),
        ("folder that climbs", azure("folder", json!("links/../other")), "folder is a path such as links/shop"),
        ("endpoint with its token", azure("endpoint", json!("https://x.example/?sig=1")), "without a query: the token goes into a Secret"),
        ("endpoint that is no address", azure("endpoint", json!("contoso")), "endpoint is the blob service's address"),
        ("zone without a credential", azure("auth", json!({})), "set exactly one credential: sasToken"),
        ("claim without a name", with(claim_zone(), &[("/spec/persistentVolumeClaim", json!({}))]), "claimName: Required value"),
        // IntegrationRuntime
        ("runtime of no kind", with(runtime(), &[("/spec/kubernetes", Value::Null)]), "set exactly one kind of runtime: kubernetes"),
        (
            "labels that are the operator's",
            with(runtime(), &[("/spec/kubernetes", json!({"podLabels": {"link-operator.io/link": "x"}}))]),
            "podLabels must not begin with link-operator.io/",
        ),
    ]
}

#[tokio::test]
async fn server_refuses_what_is_wrong_and_says_why() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    let mut failures = Vec::new();
    for (what, manifest, words) in bad() {
        match create(&client, &namespace, &manifest).await {
            Ok(object) => failures.push(format!("{what}: was accepted as {}", object.name_any())),
            Err(message) if !message.contains(words) => failures.push(format!("{what}: does not say {words:?} but {message}")),
            // A rule that itself breaks helps nobody.
            Err(message) if message.contains("evaluation error") || message.contains("compil") => {
                failures.push(format!("{what}: {message}"));
            }
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test]
async fn server_refuses_to_change_what_a_link_is() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    let inline = json!([{"schemaName": "public", "tableName": "orders", "target": {"schemaName": "shop"}}]);
    for manifest in [
        with(link(), &[("/spec/linkId", json!("eu.shop")), ("/spec/tables", inline)]),
        with(link(), &[("/metadata/name", json!("unnamed"))]),
        table(),
        azure_zone(),
        with(claim_zone(), &[("/metadata/name", json!("claim"))]),
    ] {
        create(&client, &namespace, &manifest).await.unwrap();
    }

    let database = json!({"postgresql": {"database": "other"}});
    let refused = [
        ("LinkConnection", "shop", json!({"source": database}), "postgresql.database is immutable: create another LinkConnection"),
        ("LinkConnection", "shop", json!({"target": database}), "postgresql.database is immutable: create another LinkConnection"),
        ("LinkConnection", "shop", json!({"landingZoneRef": {"name": "other"}}), "landingZoneRef is immutable"),
        ("LinkConnection", "shop", json!({"linkId": "other"}), "linkId is immutable"),
        ("LinkConnection", "shop", json!({"linkId": null}), "linkId is immutable"),
        ("LinkConnection", "unnamed", json!({"linkId": "other"}), "linkId is immutable"),
        (
            "LinkConnection",
            "shop",
            json!({"tables": [{"schemaName": "public", "tableName": "orders"}]}),
            "target is immutable: remove the table from the list and add it again",
        ),
        ("LinkConnection", "shop", json!({"compute": {"coreCount": 5}}), "coreCount must be at most coresPerWorker"),
        ("LinkTable", "shop-orders", json!({"linkConnectionRef": {"name": "other"}}), "linkConnectionRef is immutable"),
        ("LinkTable", "shop-orders", json!({"source": {"tableName": "other"}}), "source is immutable"),
        ("LinkTable", "shop-orders", json!({"target": {"tableName": "other"}}), "target is immutable"),
        (
            "LandingZone",
            "staging",
            json!({"azure": {"account": "fabrikam"}}),
            "azure.account, azure.container and azure.folder are immutable",
        ),
        ("LandingZone", "staging", json!({"azure": {"container": "other"}}), "azure.container and azure.folder are immutable"),
        ("LandingZone", "staging", json!({"azure": {"folder": null}}), "azure.folder are immutable"),
        ("LandingZone", "staging", json!({"azure": null, "persistentVolumeClaim": {"claimName": "c"}}), "the store is immutable"),
        ("LandingZone", "claim", json!({"persistentVolumeClaim": {"claimName": "other"}}), "persistentVolumeClaim.claimName"),
        ("LandingZone", "claim", json!({"persistentVolumeClaim": {"folder": "other"}}), "persistentVolumeClaim.folder are immutable"),
    ];
    let mut failures = Vec::new();
    for (kind, name, spec, words) in refused {
        match change(&client, &namespace, kind, name, &json!({"spec": spec})).await {
            Ok(_) => failures.push(format!("{kind} {name} {spec}: was accepted")),
            Err(message) if !message.contains(words) => {
                failures.push(format!("{kind} {name} {spec}: does not say {words:?} but {message}"));
            }
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));

    // How the same database is reached, how much works for it and what it shall do can change; so can spelling out a default.
    let accepted = [
        ("LinkConnection", "shop", json!({"source": {"postgresql": {"host": "shop-2", "port": 5433, "tls": {"mode": "Require"}}}})),
        ("LinkConnection", "shop", json!({"target": {"postgresql": {"auth": {"password": {"secretRef": {"name": "new"}}}}}})),
        ("LinkConnection", "shop", json!({"state": "Stopped", "compute": {"coreCount": 8, "coresPerWorker": 8}})),
        (
            "LinkConnection",
            "shop",
            json!({"tables": [{"schemaName": "public", "tableName": "orders", "target": {"schemaName": "shop"}},
                              {"schemaName": "public", "tableName": "items"}]}),
        ),
        ("LinkConnection", "shop", json!({"tables": []})),
        ("LinkTable", "shop-orders", json!({"target": null})),
        (
            "LandingZone",
            "staging",
            json!({"azure": {"endpoint": "https://private.example", "auth": {"sasToken": {"secretKeyRef": {"key": "b"}}}}}),
        ),
    ];
    for (kind, name, spec) in accepted {
        if let Err(error) = change(&client, &namespace, kind, name, &json!({"spec": spec})).await {
            panic!("{kind} {name} {spec}: {error}");
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
