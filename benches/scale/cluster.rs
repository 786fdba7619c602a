//! The cluster: etcd, API server, controller manager and scheduler as they are, nodes and pods played by kwok, and the operator's
//! controller as a process of its own, with the rights of an administrator.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    apiserver::{ApiServer, Guarded, binary, install_crds},
    counts::Counts,
};

/// Addresses of pods: this machine answers for all of them, in the benchmark's own network.
pub const PODS: &str = "10.64.0.0/12";
/// Namespace of the controller.
pub const OPERATOR: &str = "link-operator";
const NODES: usize = 10;
const HEALTH_PORT: u16 = 8080;
/// The controllers that a link's children and its pods meet.
const CONTROLLERS: [&str; 7] = [
    "statefulset-controller",
    "garbage-collector-controller",
    "replicaset-controller",
    "disruption-controller",
    "endpointslice-controller",
    "node-lifecycle-controller",
    "namespace-controller",
];

pub struct Cluster {
    pub client: Client,
    // In this order: nobody is to wait for a server that has ended.
    _programs: Vec<Guarded>,
    _apiserver: ApiServer,
    dir: TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let apiserver = ApiServer::start();
        apiserver.ready().await;
        let client = apiserver.client();
        install_crds(&client).await;
        std::fs::write(path("kubeconfig"), apiserver.kubeconfig("default")).unwrap();
        std::fs::write(path("stages.yaml"), include_str!("stages.yaml")).unwrap();
        let config = |flag: &str, file: &str| format!("--{flag}={}", path(file).display());
        let kubeconfig = config("kubeconfig", "kubeconfig");
        // Their own limits on requests are of small clusters: here the API server is to be the limit.
        let programs: [(&str, Vec<String>); 3] = [
            (
                "kube-controller-manager",
                vec![
                    format!("--controllers={}", CONTROLLERS.join(",")),
                    "--leader-elect=false --bind-address=127.0.0.1 --kube-api-qps=2000 --kube-api-burst=4000".to_owned(),
                    "--concurrent-statefulset-syncs=20 --concurrent-endpoint-syncs=20".to_owned(),
                ],
            ),
            ("kube-scheduler", vec!["--leader-elect=false --bind-address=127.0.0.1 --kube-api-qps=2000 --kube-api-burst=4000".to_owned()]),
            (
                "kwok",
                vec![
                    config("config", "stages.yaml"),
                    format!("--manage-all-nodes --node-ip=127.0.0.1 --node-lease-duration-seconds=40 --cidr={PODS}"),
                ],
            ),
        ];
        let programs = programs.map(|(name, arguments)| {
            let mut program = Command::new(binary(name));
            program.arg(&kubeconfig).args(arguments.iter().flat_map(|line| line.split(' ')));
            Guarded::spawn(&program, &File::create(path(name)).unwrap(), None)
        });
        let nodes: Api<Node> = Api::all(client.clone());
        for number in 0..NODES {
            nodes.create(&PostParams::default(), &named(&json!({"name": format!("node-{number}")}))).await.unwrap();
        }
        let ready = |node: &Node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            let tainted = node.spec.as_ref().is_some_and(|spec| spec.taints.is_some());
            !tainted && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let until = Instant::now() + Duration::from_mins(1);
        while !nodes.list(&ListParams::default()).await.unwrap().items.iter().all(ready) {
            assert!(Instant::now() < until, "the nodes are not ready:\n{}", std::fs::read_to_string(path("kwok")).unwrap());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &named(&json!({"name": OPERATOR}))).await.unwrap();
        Self { client, _programs: programs.into(), _apiserver: apiserver, dir }
    }

    /// What the API server counted, of all who ask it.
    pub async fn served(&self) -> Counts {
        let text = self.client.request_text(axum::http::Request::get("/metrics").body(Vec::new()).unwrap()).await.unwrap();
        Counts::read(&text, "apiserver_request_total")
    }

    /// Starts the operator's controller.
    pub fn controller(&self) -> Controller {
        Controller::start(self.dir.path())
    }

    /// What a program said.
    pub fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(program)).unwrap_or_default()
    }
}

/// An object of a kind that needs no more.
pub fn named<K: serde::de::DeserializeOwned>(metadata: &serde_json::Value) -> K {
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

/// The operator's controller.
pub struct Controller {
    child: Child,
    http: reqwest::Client,
}

impl Controller {
    fn start(dir: &Path) -> Self {
        // Of another version, to compare.
        let program = std::env::var("CONTROLLER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_link-operator").to_owned());
        // Ends with this process, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &program, "controller"])
            .args(["--worker-image=link-operator:bench", "--image-pull-policy=Never", "--pod-name=controller-0"])
            .arg(format!("--pod-namespace={OPERATOR}"))
            .arg(format!("--health-port={HEALTH_PORT}"))
            .env("KUBECONFIG", dir.join("kubeconfig"))
            // As the chart has it.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("controller")).unwrap())
            .stderr(File::create(dir.join("controller.err")).unwrap())
            .spawn()
            .unwrap();
        Self { child, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All its metrics.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{HEALTH_PORT}/metrics");
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            match self.http.get(&url).send().await {
                Ok(answer) => return answer.text().await.unwrap(),
                Err(error) => assert!(Instant::now() < until, "the controller does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Bytes of memory that it has now, and had at most: what it allocated, and what is mapped of its program.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0) * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Seconds of CPU so far.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<u64> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        (fields[11] + fields[12]) as f64 / 100.0
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
