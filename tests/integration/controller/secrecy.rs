//! The controller's own program writes no credential, whatever it logs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::Stdio,
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Event, Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use link_operator::api::{
    integration_runtime::IntegrationRuntime, landing_zone::LandingZone, link_connection::LinkConnection, link_table::LinkTable,
    plan::Intent, report::TablePhase,
};
use serde_json::json;
use tokio::process::{Child, Command};

use super::stage::{self, Stage, reason};
use crate::support::{
    apiserver::ApiServer,
    azurite::{self, free_port},
    canaries::Canaries,
};

/// The program, as it runs in its pod.
struct Program {
    folder: tempfile::TempDir,
    port: u16,
    page_port: u16,
    _process: Child,
}

impl Program {
    async fn start(stage: &Stage) -> Self {
        let (folder, port, page_port) = (tempfile::tempdir().unwrap(), free_port(), free_port());
        let log = File::create(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("config"), ApiServer::shared().await.kubeconfig(&stage.namespace)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_link-operator"))
            .args(["controller", "--worker-image", "link-operator:test", "--image-pull-policy", "Never"])
            .args(["--namespace", &stage.namespace, "--pod-namespace", &stage.operator_namespace, "--pod-name", "controller"])
            .args(["--health-port", &port.to_string(), "--page-port", &page_port.to_string()])
            .env("KUBECONFIG", folder.path().join("config"))
            .env("LOG", "trace")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { folder, port, page_port, _process: process }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap()).into_owned()
    }

    async fn metrics(&self) -> String {
        answer(self.port, "metrics").await
    }

    /// Everything that the page says of a link and its tables.
    async fn page(&self, namespace: &str, link: &str, table: &str) -> String {
        let path = format!("api/links/{namespace}/{link}");
        let mut all = String::new();
        for path in ["api/links", &path, &format!("{path}/tables"), &format!("{path}/tables/{table}")] {
            all += &answer(self.page_port, path).await;
        }
        all
    }
}

async fn answer(port: u16, path: &str) -> String {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(format!("http://127.0.0.1:{port}/{path}")).send().await.unwrap();
    answer.error_for_status().unwrap().text().await.unwrap()
}

/// All objects of the namespace but its Secrets, as text.
async fn objects(stage: &Stage) -> String {
    async fn list<K>(stage: &Stage, namespace: &str) -> String
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let all = Api::<K>::namespaced(stage.client.clone(), namespace).list(&ListParams::default()).await.unwrap();
        all.items.iter().map(|object| serde_json::to_string(object).unwrap() + "\n").collect()
    }
    let ours = &stage.namespace;
    [
        list::<LinkConnection>(stage, ours).await,
        list::<LinkTable>(stage, ours).await,
        list::<LandingZone>(stage, ours).await,
        list::<IntegrationRuntime>(stage, ours).await,
        list::<StatefulSet>(stage, ours).await,
        list::<Pod>(stage, ours).await,
        list::<ConfigMap>(stage, ours).await,
        list::<Service>(stage, ours).await,
        list::<ServiceAccount>(stage, ours).await,
        list::<NetworkPolicy>(stage, ours).await,
        list::<Event>(stage, ours).await,
        list::<Event>(stage, &stage.operator_namespace).await,
    ]
    .concat()
}

async fn secrets(stage: &Stage) -> BTreeMap<String, Secret> {
    let all = stage.api::<Secret>().list(&ListParams::default()).await.unwrap();
    all.into_iter().map(|secret| (secret.name_any(), secret)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controller_writes_no_credential_whatever_it_logs() {
    let mut stage = Stage::new().await;
    stage.kill_controller().await;
    let program = Program::start(&stage).await;
    let user: Secret = serde_json::from_value(json!({"metadata": {"name": "db"}, "stringData": {"username": "postgres",
        "password": "k3y of the database", "token": azurite::sas("staging", azurite::ALL, jiff::SignedDuration::from_hours(1))}}))
    .unwrap();
    stage.api::<Secret>().create(&PostParams::default(), &user).await.unwrap();
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("orders", "shop", "orders").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let orders = plan.tables[0].uid.clone();
    worker.report(&plan, &orders, TablePhase::Replicating, false);
    stage.link_where("shop", |link| reason(link) == "Replicating").await;
    worker.fail(&plan, "SourceReachable", "SourceAuthenticationFailed");
    stage.link_where("shop", |link| reason(link) == "SourceAuthenticationFailed").await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Paused"}})).await;
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, &orders, TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.stop_worker(worker).await;
    let probe = stage.appears::<Pod>("shop-link-probe").await;
    stage.ends(&probe, &stage::answer(&[("SourceReachable", Some("SourceAuthenticationFailed"))], false)).await;
    stage.link_where("shop", |link| reason(link) == "SourceAuthenticationFailed").await;

    let mut canaries = Canaries::default();
    canaries.add("the API server's token", ApiServer::token());
    let held = secrets(&stage).await;
    assert!(held.contains_key("shop-api") && held.contains_key("db"), "{:?}", held.keys());
    for (name, secret) in held {
        canaries.add_secret(&name, secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)));
    }
    canaries.absent("the page", &program.page(&stage.namespace, "shop", &plan.tables[0].name).await);
    let written = objects(&stage).await;
    stage.api::<LinkConnection>().delete("shop", &DeleteParams::background()).await.unwrap();
    stage.appears::<Pod>("shop-release").await;
    canaries.absent("an object", &(written + &objects(&stage).await));
    canaries.absent("the metrics", &program.metrics().await);
    let log = program.log();
    assert!(log.contains("TRACE"), "not all is logged");
    canaries.absent("the controller's log", &log);
}
