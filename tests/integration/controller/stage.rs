//! What the controller's tests play on: a namespace with a running controller, and what a cluster would do around it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod player;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use axum_server::tls_rustls::RustlsConfig;
use flate2::read::GzDecoder;
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Event, Pod, Secret},
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use link_operator::{
    api::{
        landing_zone::LandingZone,
        link_connection::LinkConnection,
        link_table::LinkTable,
        plan::{API_PORT, PLAN_KEY, Plan},
        report::{Report, TablePhase},
    },
    controller::{Options, page, run_with},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use player::Worker;

use super::faults::Faults;
use crate::support::{apiserver::ApiServer, azurite::free_port};

pub const PATIENCE: Duration = Duration::from_mins(1);

/// A namespace that a controller looks after.
pub struct Stage {
    pub client: Client,
    pub namespace: String,
    pub operator_namespace: String,
    health_port: u16,
    controller: Option<Controller>,
}

/// A controller that runs.
pub struct Controller {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Controller {
    /// Ends it as Kubernetes does, and waits until it has ended.
    pub async fn ends(mut self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("it ends").unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stage {
    pub async fn new() -> Self {
        Self::by(ApiServer::shared().await.client()).await
    }

    /// With a controller whose way to the API server has a fault.
    pub async fn with(faults: &Faults) -> Self {
        Self::by(ApiServer::shared().await.client_by(faults)).await
    }

    /// With a controller that may do all that it needs in its two namespaces, and look at nothing that has none.
    pub async fn of_one_namespace() -> Self {
        let server = ApiServer::shared().await;
        let (client, namespace, operator_namespace) = (server.client(), server.namespace().await, server.namespace().await);
        let rules = json!([
            {"apiGroups": ["link-operator.io", "apps", "policy", "networking.k8s.io", "events.k8s.io"], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["configmaps", "events", "pods", "secrets", "serviceaccounts", "services"], "verbs": ["*"]},
        ]);
        for within in [&namespace, &operator_namespace] {
            let role = json!({"metadata": {"name": "controller"}, "rules": rules});
            let bound = json!({"metadata": {"name": "controller"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "controller"},
                "subjects": [{"kind": "ServiceAccount", "name": "controller", "namespace": operator_namespace}]});
            Api::<Role>::namespaced(client.clone(), within)
                .create(&PostParams::default(), &serde_json::from_value(role).unwrap())
                .await
                .unwrap();
            Api::<RoleBinding>::namespaced(client.clone(), within)
                .create(&PostParams::default(), &serde_json::from_value(bound).unwrap())
                .await
                .unwrap();
        }
        let controllers = server.client_as(&operator_namespace, "controller");
        Self::within(namespace, operator_namespace, controllers).await
    }

    /// With a controller that has this client.
    async fn by(controllers: Client) -> Self {
        let server = ApiServer::shared().await;
        Self::within(server.namespace().await, server.namespace().await, controllers).await
    }

    async fn within(namespace: String, operator_namespace: String, controllers: Client) -> Self {
        let client = ApiServer::shared().await.client();
        let mut stage = Self { client, namespace, operator_namespace, health_port: 0, controller: None };
        let controller = stage.run(controllers, |_| {});
        stage.controller = Some(controller);
        stage
    }

    /// Starts a controller that knows nothing.
    pub async fn start_controller(&mut self) {
        self.start_controller_as(|_| {}).await;
    }

    /// Starts a controller with other options.
    pub async fn start_controller_as(&mut self, change: impl FnOnce(&mut Options)) {
        let controller = self.run(ApiServer::shared().await.client(), change);
        self.controller = Some(controller);
    }

    /// Starts one with other options beside the one that runs, which is returned.
    pub async fn swap_controller(&mut self, change: impl FnOnce(&mut Options)) -> Option<Controller> {
        let next = self.run(ApiServer::shared().await.client(), change);
        self.controller.replace(next)
    }

    /// Starts a controller whose way to the API server can be cut.
    pub async fn start_controller_by(&mut self, way: &Way, change: impl FnOnce(&mut Options)) {
        let controller = self.run(ApiServer::shared().await.client_at(&way.url), change);
        self.controller = Some(controller);
    }

    fn run(&mut self, client: Client, change: impl FnOnce(&mut Options)) -> Controller {
        let stop = CancellationToken::new();
        self.health_port = free_port();
        let mut options = Options {
            worker_image: "link-operator:test".to_owned(),
            image_pull_policy: "Never".to_owned(),
            namespace: Some(self.namespace.clone()),
            health_port: self.health_port,
            page: page::Options::default(),
            no_leader_election: true,
            max_rollouts: 10,
            pod_namespace: Some(self.operator_namespace.clone()),
            pod_name: Some("controller".to_owned()),
        };
        change(&mut options);
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { Box::pin(run_with(client, options, stop)).await.expect("the controller ended") }
        });
        Controller { stop, task: AbortOnDropHandle::new(task) }
    }

    /// Ends the controller as a node that dies does, wherever it is.
    pub async fn kill_controller(&mut self) {
        if let Some(mut controller) = self.controller.take() {
            controller.task.abort();
            let _ = (&mut controller.task).await;
        }
    }

    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn zone(&self, name: &str) {
        let zone = object("LandingZone", name, &json!({"persistentVolumeClaim": {"claimName": "disk"}}));
        self.create::<LandingZone>(zone).await;
    }

    pub async fn link(&self, name: &str, more: Value) {
        let database = |host: &str| json!({"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": host}}}});
        let mut spec = json!({
            "source": {"postgresql": database("db")}, "target": {"postgresql": database("dw")}, "landingZoneRef": {"name": "staging"},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.create::<LinkConnection>(object("LinkConnection", name, &spec)).await;
    }

    pub async fn table(&self, name: &str, link: &str, source: &str) {
        self.table_with(name, link, source, json!({})).await;
    }

    /// `target`: its `spec.target`.
    pub async fn table_with(&self, name: &str, link: &str, source: &str, target: Value) {
        let source = json!({"schemaName": "public", "tableName": source});
        let spec = json!({"linkConnectionRef": {"name": link}, "source": source, "target": target});
        self.create::<LinkTable>(object("LinkTable", name, &spec)).await;
    }

    async fn create<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + serde::Serialize,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    pub async fn merge<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn annotate<K>(&self, name: &str, key: &str, value: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.merge::<K>(name, json!({"metadata": {"annotations": {key: value}}})).await;
    }

    /// Waits until an object is so, or is gone where that is `gone`'s wish.
    async fn wait<K>(&self, name: &str, what: &str, so: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let (api, until) = (self.api::<K>(), Instant::now() + PATIENCE);
        let mut pause = Duration::from_millis(50);
        loop {
            let object = api.get_opt(name).await.unwrap();
            if so(object.as_ref()) {
                return object;
            }
            assert!(Instant::now() < until, "{} {name} never {what}: {object:#?}", K::kind(&()));
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(400));
        }
    }

    pub async fn appears<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.wait(name, "came", |object: Option<&K>| object.is_some()).await.unwrap()
    }

    pub async fn disappears<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.wait(name, "went", |object: Option<&K>| object.is_none()).await;
    }

    pub async fn becomes<K>(&self, name: &str, so: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.wait(name, "became so", |object: Option<&K>| object.is_some_and(&so)).await.unwrap()
    }

    pub async fn becomes_or_goes<K>(&self, name: &str, so: impl Fn(&K) -> bool)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.wait(name, "became so", |object: Option<&K>| object.is_none_or(&so)).await;
    }

    pub async fn link_where(&self, name: &str, so: impl Fn(&LinkConnection) -> bool) -> LinkConnection {
        self.becomes(name, |link: &LinkConnection| link.status.is_some() && so(link)).await
    }

    /// Waits for an Event of an object.
    pub async fn event(&self, reason: &str, object: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.api::<Event>().list(&ListParams::default()).await.unwrap();
            let of = |event: &Event| event.reason.as_deref() == Some(reason) && event.involved_object.name.as_deref() == Some(object);
            if events.iter().any(of) {
                return;
            }
            assert!(Instant::now() < deadline, "no Event {reason} of {object}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the controller's metrics have all of these lines, and returns all of them.
    pub async fn metrics_with(&self, lines: &[&str]) -> String {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http.get(format!("http://127.0.0.1:{}/metrics", self.health_port)).send().await.unwrap();
            let text = answer.text().await.unwrap();
            let missing: Vec<_> = lines.iter().filter(|wanted| !text.lines().any(|line| line == **wanted)).collect();
            if missing.is_empty() {
                return text;
            }
            assert!(Instant::now() < deadline, "{missing:?} is not in\n{text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn plan(&self, link: &str) -> Option<Plan> {
        let map = self.api::<ConfigMap>().get_opt(&format!("{link}-plan")).await.unwrap()?;
        Some(unpack(&map.binary_data.unwrap()[PLAN_KEY].0))
    }

    pub async fn plan_where(&self, link: &str, so: impl Fn(&Plan) -> bool) -> Plan {
        let name = format!("{link}-plan");
        let map = self.becomes(&name, |map: &ConfigMap| so(&unpack(&map.binary_data.as_ref().unwrap()[PLAN_KEY].0))).await;
        unpack(&map.binary_data.unwrap()[PLAN_KEY].0)
    }

    /// As the StatefulSet controller: says that it has seen the newest generation, and that no pods are left.
    pub async fn observe_set(&self, name: &str) {
        let set = self.appears::<StatefulSet>(name).await;
        let none = json!({"replicas": 0, "readyReplicas": 0, "updatedReplicas": 0, "observedGeneration": set.metadata.generation});
        self.api::<StatefulSet>().patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": none}))).await.unwrap();
    }

    /// As the StatefulSet controller: all pods are there, as the newest template says, and ready.
    pub async fn pods_are_ready(&self, name: &str) {
        let set = self.appears::<StatefulSet>(name).await;
        let replicas = set.spec.unwrap().replicas;
        let status = json!({"status": {"observedGeneration": set.metadata.generation, "replicas": replicas, "readyReplicas": replicas,
            "updatedReplicas": replicas, "currentRevision": "1", "updateRevision": "1"}});
        self.api::<StatefulSet>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// As the kubelet: the pod's container ended with this message.
    pub async fn ends(&self, pod: &Pod, message: &str) {
        let terminated = json!({"exitCode": 0, "message": message, "finishedAt": jiff::Timestamp::now().strftime("%FT%TZ").to_string()});
        let status = json!({"status": {"phase": "Succeeded", "containerStatuses": [{
            "name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": terminated}}]}});
        self.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// As StatefulSet controller and kubelet: makes the first pod of the link's StatefulSet and runs a worker in it.
    pub async fn start_worker(&self, link: &str) -> Worker {
        let set = self.becomes::<StatefulSet>(link, |set| set.spec.as_ref().unwrap().replicas == Some(1)).await;
        let template = set.spec.unwrap().template;
        let name = format!("{link}-0");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": template.metadata.unwrap().labels},
            "spec": template.spec,
        });
        let secret = self.appears::<Secret>(&format!("{link}-api")).await;
        let worker = Worker::start(name.clone(), secret.data.unwrap().into_iter().map(|(key, value)| (key, value.0)).collect()).await;
        self.create::<Pod>(pod).await;
        let address = worker.address.ip().to_string();
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.api::<Pod>().patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        self.pods_are_ready(link).await;
        worker
    }

    /// As the kubelet: the link's first pod cannot start any more.
    pub async fn break_worker(&self, worker: Worker) {
        let waiting = json!({"reason": "ImagePullBackOff", "message": "m"});
        let status = json!({"status": {"phase": "Pending", "conditions": [], "containerStatuses": [{
            "name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting}}]}});
        self.api::<Pod>().patch_status(&worker.pod, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// As both: the pod is gone, and the StatefulSet controller knows.
    pub async fn stop_worker(&self, worker: Worker) {
        self.api::<Pod>().delete(&worker.pod, &DeleteParams::default().grace_period(0)).await.unwrap();
        let link = worker.pod.trim_end_matches("-0").to_owned();
        drop(worker);
        if self.api::<StatefulSet>().get_opt(&link).await.unwrap().is_some() {
            self.observe_set(&link).await;
        }
    }
}

/// A way to the API server that can be cut.
pub struct Way {
    url: String,
    cut: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Way {
    pub async fn new() -> Self {
        let server = ApiServer::shared().await.url.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (cut, state) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (server, mut state) = (server.clone(), state.clone());
                tokio::spawn(async move {
                    let forward = async {
                        let mut far = TcpStream::connect(server).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        _ = forward => {}
                        _ = state.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { url, cut, _task: AbortOnDropHandle::new(task) }
    }

    /// Ends all connections, and every new one at once.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "link-operator.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn unpack(body: &[u8]) -> Plan {
    let mut json = Vec::new();
    GzDecoder::new(body).read_to_end(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

pub fn condition<'a>(link: &'a LinkConnection, kind: &str) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    link.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Status of the condition Ready.
pub fn ready(link: &LinkConnection) -> String {
    condition(link, "Ready").map(|ready| ready.status.clone()).unwrap_or_default()
}

/// Reason of the condition Ready.
pub fn reason(link: &LinkConnection) -> String {
    condition(link, "Ready").map(|ready| ready.reason.clone()).unwrap_or_default()
}

/// The argument that a one-shot pod is asked by.
pub fn request(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().containers[0].args.as_ref().unwrap().last().unwrap().clone()
}

/// An answer of a one-shot pod: checks by name with the reason of their failure.
pub fn answer(checks: &[(&str, Option<&str>)], released: bool) -> String {
    report_json(0, 0, &[], checks, false, released).to_string()
}

/// An answer of the probe of a link without a worker: so much log is kept, or the position of a run is lost.
pub fn keeps(bytes: Option<u64>, lost: Option<(u32, &str)>) -> String {
    let mut answer = report_json(0, 0, &[], &[("SourceReachable", None)], false, false);
    answer["source"] = json!({"version": "", "identity": "", "retainedLogBytes": bytes});
    if let Some((run, reason)) = lost {
        answer["positionLost"] = json!({"run": run, "fault": {"reason": reason, "message": "too much", "remedy": "r", "heals": true}});
    }
    answer.to_string()
}

fn report_json(sequence: u64, revision: u64, tables: &[Value], checks: &[(&str, Option<&str>)], drained: bool, released: bool) -> Value {
    let checks: Vec<Value> = checks
        .iter()
        .map(|(name, reason)| {
            let fault = reason.map(|reason| json!({"reason": reason, "message": "m", "remedy": "r", "heals": true}));
            json!({"name": name, "fault": fault, "message": ""})
        })
        .collect();
    json!({"formatVersion": 1, "sequence": sequence, "worker": "w", "version": "test", "planRevision": revision, "run": 1,
        "drained": drained, "released": released, "checks": checks, "tables": tables})
}
