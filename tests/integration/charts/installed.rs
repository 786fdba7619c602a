//! The chart of the kinds as Helm installs, upgrades and removes it on a real API server; and what `helm test` finds there.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::{
    api::{
        authentication::v1::TokenRequest,
        core::v1::{Namespace, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use link_operator::{
    api::{landing_zone::LandingZone, link_connection::LinkConnection},
    controller::check::{CheckError, kinds_are_served},
    telemetry::{Readiness, serve_health},
};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio_util::sync::CancellationToken;

use super::answer;
use crate::support::apiserver::{ApiServer, binary};

const CHART: &str = "charts/link-operator-crds";

/// A kubeconfig: with all rights, or with those of a token's owner.
fn kubeconfig(server: &ApiServer, token: Option<&str>) -> NamedTempFile {
    let mut config: Value = serde_json::from_str(&server.kubeconfig("kinds")).unwrap();
    if let Some(token) = token {
        config["users"][0]["user"]["token"] = token.into();
    }
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    file
}

/// Helm, against this server.
fn helm(server: &ApiServer, arguments: &[&str]) -> Result<String, String> {
    let config = kubeconfig(server, None);
    answer(Command::new(binary("helm")).arg("--kubeconfig").arg(config.path()).args(arguments))
}

/// The chart as it was before a version that brought these fields of a LinkConnection's spec.
fn chart_before(fields: &[&str], folder: &Path) -> PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(CHART), folder.join("link-operator-crds"));
    for part in ["files", "templates", ""] {
        std::fs::create_dir_all(to.join(part)).unwrap();
        for entry in std::fs::read_dir(from.join(part)).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file()) {
            std::fs::copy(entry.path(), to.join(part).join(entry.file_name())).unwrap();
        }
    }
    let file = to.join("files/linkconnections.yaml");
    let mut crd: Value = serde_yaml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let spec = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap().as_object_mut().unwrap();
    for field in fields {
        spec.remove(*field).unwrap();
    }
    std::fs::write(&file, serde_yaml::to_string(&crd).unwrap()).unwrap();
    to
}

async fn make<K>(client: &Client, object: Value) -> K
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

fn link(more: &Value) -> Value {
    let database = |host: &str| json!({"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": host}}}});
    let mut spec = json!({
        "source": {"postgresql": database("db")}, "target": {"postgresql": database("dw")}, "landingZoneRef": {"name": "staging"},
        "transactionalConsistency": true, "tables": [{"schemaName": "public", "tableName": "orders"}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": "shop"}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_outlive_upgrades_and_removal_of_the_kinds() {
    let server = ApiServer::start();
    server.ready().await;
    let client = server.client();
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "kinds"}})).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let missing = kinds_are_served(&client).await.unwrap_err();
    assert!(matches!(&missing, CheckError::KindMissing { name, .. } if name == "linkconnections.link-operator.io"), "{missing}");

    let folder = TempDir::new().unwrap();
    let before = chart_before(&["sourceProtection", "onPositionLost"], folder.path());
    helm(&server, &["install", "kinds", before.to_str().unwrap(), "--wait"]).unwrap();
    make::<LandingZone>(
        &client,
        json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LandingZone", "metadata": {"name": "staging"},
            "spec": {"persistentVolumeClaim": {"claimName": "disk"}},
        }),
    )
    .await;
    let made: LinkConnection = make(&client, link(&json!({}))).await;
    let links: Api<LinkConnection> = Api::namespaced(client.clone(), "default");
    let status = json!({"status": {"runId": 7, "observedGeneration": 1, "phase": "Running"}});
    let made_status = links.patch_status("shop", &PatchParams::default(), &Patch::Merge(status)).await.unwrap().status;
    let outdated = kinds_are_served(&client).await.unwrap_err().to_string();
    assert!(outdated.contains("spec.onPositionLost, spec.sourceProtection"), "{outdated}");

    let is_as_made = async || {
        let found = links.get("shop").await.unwrap();
        assert_eq!(found.uid(), made.uid());
        assert_eq!(found.metadata.generation, made.metadata.generation, "{found:#?}");
        assert_eq!(serde_json::to_value(&found.status).unwrap(), serde_json::to_value(&made_status).unwrap());
        let (found, made) = (serde_json::to_value(&found.spec).unwrap(), serde_json::to_value(&made.spec).unwrap());
        assert_eq!(found, made);
    };
    helm(&server, &["upgrade", "kinds", CHART, "--wait"]).unwrap();
    is_as_made().await;
    kinds_are_served(&client).await.unwrap();
    // The new version's fields are known now.
    let protection = json!({"spec": {"sourceProtection": {"maxRetainedLog": "1Gi"}}});
    let strict = PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), dry_run: true, ..PatchParams::default() };
    links.patch("shop", &strict, &Patch::Merge(protection)).await.unwrap();

    helm(&server, &["uninstall", "kinds", "--wait"]).unwrap();
    is_as_made().await;
    let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
    assert_eq!(kinds.list(&kube::api::ListParams::default()).await.unwrap().items.len(), 4);

    // What stayed is taken over by an installation of the same name.
    helm(&server, &["install", "kinds", CHART, "--wait"]).unwrap();
    is_as_made().await;

    a_test_pod_needs_no_rights(&server, &client).await;

    helm(&server, &["upgrade", "kinds", CHART, "--set", "keep=false", "--wait"]).unwrap();
    is_as_made().await;
    helm(&server, &["uninstall", "kinds", "--wait"]).unwrap();
    let left = kinds.list(&kube::api::ListParams::default()).await.unwrap().items;
    assert!(left.iter().all(|kind| kind.metadata.deletion_timestamp.is_some()), "{left:#?}");
}

/// The program as `helm test` runs it, with a ServiceAccount that has no role.
async fn a_test_pod_needs_no_rights(server: &ApiServer, client: &Client) {
    let account: ServiceAccount = make(client, json!({"metadata": {"name": "test"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
    let token = accounts.create_token_request(&account.name_any(), &PostParams::default(), &request).await.unwrap().status.unwrap().token;
    let config = kubeconfig(server, Some(&token));
    let check = |arguments: &[&str]| {
        answer(Command::new(env!("CARGO_BIN_EXE_link-operator")).env("KUBECONFIG", config.path()).arg("check").args(arguments))
    };
    assert_eq!(check(&[]).unwrap(), "link-operator works here\n");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (readiness, stop) = (Readiness::waiting_for(["what never comes"]), CancellationToken::new());
    let health = tokio::spawn(serve_health(port, Vec::new, readiness.clone(), stop.clone()));
    let ready = format!("--ready=http://127.0.0.1:{port}/readyz");
    let waiting = tokio::task::block_in_place(|| check(&[&ready])).unwrap_err();
    assert!(waiting.contains("503") && waiting.contains("waiting for what never comes"), "{waiting}");
    readiness.has("what never comes");
    tokio::task::block_in_place(|| check(&[&ready])).unwrap();
    stop.cancel();
    health.await.unwrap().unwrap();
}
