//! A private Kubernetes API server with its etcd, on free loopback ports: objects are stored, checked and watched, and no
//! controller and no kubelet acts on them.
//!
//! [`ApiServer::shared`] is one server a test process, with our CRDs installed, and a namespace a test. Servers end when the
//! [`ApiServer`] is dropped, and also when the test process ends however it ends: a shell waits on a pipe from it.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::{Request, Response};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    client::{Body, ClientBuilder, DynBody},
    config::AuthInfo,
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use link_operator::api::crds;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tower::{BoxError, Layer, Service, util::BoxService};

const TOKEN: &str = "administrator-of-a-test";

/// A running API server.
pub struct ApiServer {
    /// Its address, for those who want it besides [`ApiServer::client`].
    pub url: String,
    certificate: Vec<u8>,
    etcd_url: String,
    namespaces: AtomicU32,
    // In this order: the API server ends before its etcd, and both before their files go.
    apiserver: Guarded,
    etcd: Guarded,
    dir: TempDir,
}

impl ApiServer {
    /// The process's server, with the CRDs of this source tree established.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        static INSTALLED: OnceCell<()> = OnceCell::const_new();
        let server = SHARED.get_or_init(Self::start);
        INSTALLED
            .get_or_init(|| async {
                server.ready().await;
                install_crds(&server.client()).await;
            })
            .await;
        server
    }

    /// A server of one's own, without CRDs; see [`ApiServer::ready`] and [`install_crds`].
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let log = |name: &str| File::create(path(name)).unwrap();
        let arg = |name: &str, value: &Path| format!("--{name}={}", value.display());

        let [client, peer, secure] = free_ports();
        let etcd_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let etcd = Guarded::spawn(
            Command::new(binary("etcd"))
                .arg(arg("data-dir", &path("etcd")))
                .args(["--name=test", "--unsafe-no-fsync=true", "--log-level=warn"])
                .arg(format!("--listen-client-urls={etcd_url}"))
                .arg(format!("--advertise-client-urls={etcd_url}"))
                .arg(format!("--listen-peer-urls={peer_url}"))
                .arg(format!("--initial-advertise-peer-urls={peer_url}"))
                .arg(format!("--initial-cluster=test={peer_url}")),
            &log("etcd.log"),
            Some(dir.path()),
        );

        let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("tls.crt"), identity.cert.pem()).unwrap();
        std::fs::write(path("tls.key"), identity.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("tokens"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let apiserver = Guarded::spawn(
            Command::new(binary("kube-apiserver"))
                .arg(format!("--etcd-servers={etcd_url}"))
                .arg(format!("--secure-port={secure}"))
                .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/16"])
                .args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--profiling=false"])
                // On by default in some distributions: who makes a child that keeps its owner needs a right for it.
                .arg("--enable-admission-plugins=OwnerReferencesPermissionEnforcement")
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .arg(arg("service-account-key-file", &path("tls.crt")))
                .arg(arg("service-account-signing-key-file", &path("tls.key")))
                .arg(arg("tls-cert-file", &path("tls.crt")))
                .arg(arg("tls-private-key-file", &path("tls.key")))
                .arg(arg("token-auth-file", &path("tokens"))),
            &log("apiserver.log"),
            None,
        );
        Self {
            url: format!("https://127.0.0.1:{secure}"),
            certificate: identity.cert.der().to_vec(),
            etcd_url,
            namespaces: AtomicU32::new(0),
            apiserver,
            etcd,
            dir,
        }
    }

    /// A client with all rights, for the runtime of the calling test (a client is bound to the runtime that it is made in).
    pub fn client(&self) -> Client {
        self.client_at(&self.url)
    }

    /// The same, by another way.
    pub fn client_at(&self, url: &str) -> Client {
        Client::try_from(self.config(url)).unwrap()
    }

    /// The same, by way of `layer`.
    pub fn client_by<L>(&self, layer: &L) -> Client
    where
        L: Layer<BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>>,
        L::Service: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError> + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
    {
        ClientBuilder::try_from(self.config(&self.url)).unwrap().with_layer(layer).build()
    }

    /// A client that acts as a ServiceAccount, with its rights alone.
    pub fn client_as(&self, namespace: &str, service_account: &str) -> Client {
        let mut config = self.config(&self.url);
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{service_account}"));
        config.auth_info.impersonate_groups = Some(vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()]);
        Client::try_from(config).unwrap()
    }

    fn config(&self, url: &str) -> Config {
        let mut config = Config::new(url.parse().unwrap());
        config.root_cert = Some(vec![self.certificate.clone()]);
        config.auth_info = AuthInfo { token: Some(TOKEN.to_owned().into()), ..AuthInfo::default() };
        // Already installed by another test: as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        config
    }

    /// What its clients show that they are who they are.
    pub fn token() -> &'static str {
        TOKEN
    }

    /// A kubeconfig file's text for programs, of the same rights.
    pub fn kubeconfig(&self, namespace: &str) -> String {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", encode(&self.certificate));
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority-data": encode(pem.as_bytes())}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}},
                {"name": "elsewhere", "context": {"cluster": "test", "user": "test", "namespace": "default"}},
            ],
        })
        .to_string()
    }

    /// Waits until the server answers and has made the namespace `default`.
    pub async fn ready(&self) {
        let until = Instant::now() + Duration::from_mins(1);
        let namespaces: Api<Namespace> = Api::all(self.client());
        while !matches!(namespaces.get_opt("default").await, Ok(Some(_))) {
            assert!(Instant::now() < until, "the API server did not start:\n{}\n{}", self.log("etcd.log"), self.log("apiserver.log"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A new, empty namespace.
    pub async fn namespace(&self) -> String {
        let name = format!("test-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        let namespace = Namespace { metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() }, ..Namespace::default() };
        Api::all(self.client()).create(&PostParams::default(), &namespace).await.unwrap();
        name
    }

    /// As if the deletion of an object of ours had begun earlier: nobody can say so to the API server, only to its etcd.
    pub async fn deleted_earlier<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str, by: jiff::SignedDuration) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = async |what: &str, body: serde_json::Value| -> serde_json::Value {
            http.post(format!("{}/v3/kv/{what}", self.etcd_url)).json(&body).send().await.unwrap().json().await.unwrap()
        };
        let key = STANDARD.encode(format!("/registry/{}/{}/{namespace}/{name}", K::group(&()), K::plural(&())));
        let found = ask("range", serde_json::json!({"key": key})).await;
        let stored = STANDARD.decode(found["kvs"][0]["value"].as_str().expect("it is there")).unwrap();
        let mut object: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        let began = &mut object["metadata"]["deletionTimestamp"];
        let earlier = began.as_str().unwrap().parse::<jiff::Timestamp>().unwrap() - by;
        *began = earlier.strftime("%FT%TZ").to_string().into();
        ask("put", serde_json::json!({"key": key, "value": STANDARD.encode(object.to_string())})).await;
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// Installs the CRDs and waits until they are served.
pub async fn install_crds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds::all() {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&crd)).await.unwrap_or_else(|error| match error {
            kube::Error::Api(status) => panic!("{name}: {}", status.message.replace(", spec.", ",\nspec.")),
            other => panic!("{name}: {other}"),
        });
        let established = await_condition(api.clone(), &name, is_crd_established());
        tokio::time::timeout(Duration::from_secs(30), established).await.unwrap().unwrap();
    }
}

/// A program that ends, at the latest, with this process.
pub struct Guarded(Child);

impl Guarded {
    /// Starts a program; when it has ended, `remove` goes.
    pub fn spawn(program: &Command, log: &File, remove: Option<&Path>) -> Self {
        // The shell ends the program when the pipe from this process closes. At once: there is nothing worth keeping.
        let script = r#"remove=$1; shift; "$@" & pid=$!; read -r _; kill -KILL $pid; wait $pid; [ -z "$remove" ] || rm -rf "$remove""#;
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(remove.unwrap_or(Path::new(""))).arg(program.get_program()).args(program.get_args());
        let child = shell.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap()).spawn();
        Self(child.unwrap())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Path of a program that `deploy/local/cluster deps` built.
pub fn binary(name: &str) -> PathBuf {
    let cache = std::env::var_os("LINK_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME or LINK_CACHE")).join(".cache/link-operator"), PathBuf::from);
    let path = cache.join("bin").join(name);
    assert!(path.exists(), "{} is missing: run deploy/local/cluster deps", path.display());
    path
}
