//! Plays the workers of all links: one server answers at the address of every pod, with the certificate and the token of its link.
//! A table waits, loads and replicates in steps of half a second, as the reports of a worker come at most; then nothing changes
//! unless the heart beats.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, Query, State, connect_info::Connected},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, put},
    serve::{IncomingStream, Listener},
};
use flate2::read::GzDecoder;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use link_operator::{
    api::{
        conditions::mark::{LINK, ROLE},
        plan::{API_PORT, Plan},
    },
    data::TableName,
};
use rustls::{ServerConfig, pki_types::pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;

/// The least time between two reports.
const STEP: Duration = Duration::from_millis(500);
/// Tables that one report tells of that are not in the plan yet.
const PIECE: usize = 2000;

/// What all workers do alike.
#[derive(Clone)]
pub struct Play {
    /// Tables of the source, in links that discover them.
    pub discover: usize,
    /// Counts minutes: with each, the position of every link moves on though nobody writes to its source.
    pub heart: watch::Receiver<u64>,
}

/// Whom a link's pods belong to, by address.
type Addresses = Arc<Mutex<HashMap<IpAddr, (String, String)>>>;

pub struct Workers {
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl Workers {
    pub async fn start(client: &Client, play: Play) -> Self {
        let addresses = Addresses::default();
        let watching = {
            let (pods, addresses) = (Api::<Pod>::all(client.clone()), addresses.clone());
            let workers = watcher::Config::default().labels(&format!("{ROLE}=worker"));
            tokio::spawn(async move {
                let pods = watcher(pods, workers).default_backoff().applied_objects();
                let note = pods.try_for_each(|pod| {
                    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
                    if let (Some(address), Some(link)) = (address, pod.labels().get(LINK)) {
                        addresses.lock().unwrap().insert(address, (pod.namespace().unwrap_or_default(), link.clone()));
                    }
                    std::future::ready(Ok(()))
                });
                note.await.unwrap();
            })
        };
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, API_PORT)).await.unwrap();
        let (sender, accepted) = mpsc::channel(64);
        let accepting = tokio::spawn(accept(listener, Cast { client: client.clone(), addresses, workers: Mutex::default(), play }, sender));
        let router = Router::new().route("/v1/plan", put(take_plan)).route("/v1/report", get(tell)).with_state(());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(Accepted(accepted), router.into_make_service_with_connect_info::<Speaker>()).await;
        });
        Self { _tasks: [watching, accepting, serving].map(AbortOnDropHandle::new) }
    }
}

/// Who plays.
struct Cast {
    client: Client,
    addresses: Addresses,
    workers: Mutex<HashMap<IpAddr, Arc<Worker>>>,
    play: Play,
}

async fn accept(listener: TcpListener, cast: Cast, accepted: mpsc::Sender<(TlsStream<TcpStream>, Arc<Worker>)>) {
    let cast = Arc::new(cast);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (cast, accepted) = (cast.clone(), accepted.clone());
        tokio::spawn(async move {
            let Some(worker) = cast.worker(stream.local_addr().unwrap().ip()).await else { return };
            // Whoever asks comes again.
            if let Ok(stream) = worker.tls.accept(stream).await {
                let _ = accepted.send((stream, worker)).await;
            }
        });
    }
}

impl Cast {
    /// The worker of an address; its link's Secret is read when it is spoken to for the first time.
    async fn worker(&self, address: IpAddr) -> Option<Arc<Worker>> {
        if let Some(worker) = self.workers.lock().unwrap().get(&address) {
            return Some(worker.clone());
        }
        let (namespace, link) = self.addresses.lock().unwrap().get(&address).cloned()?;
        let secret = Api::<Secret>::namespaced(self.client.clone(), &namespace).get(&format!("{link}-api")).await.ok()?;
        let fresh = Worker::new(address, &secret.data?.into_iter().map(|(key, value)| (key, value.0)).collect());
        let worker = self.workers.lock().unwrap().entry(address).or_insert_with(|| Arc::new(fresh)).clone();
        let plans = worker.plan.subscribe();
        if worker.works.set(()).is_ok() {
            tokio::spawn(work(worker.clone(), plans, self.play.clone()));
        }
        Some(worker)
    }
}

/// One worker.
struct Worker {
    tls: TlsAcceptor,
    token: String,
    address: IpAddr,
    plan: watch::Sender<Option<Arc<Plan>>>,
    /// The newest report and its sequence.
    report: watch::Sender<(u64, Bytes)>,
    works: std::sync::OnceLock<()>,
}

impl Worker {
    fn new(address: IpAddr, secret: &BTreeMap<String, Vec<u8>>) -> Self {
        let certificates = rustls::pki_types::CertificateDer::pem_slice_iter(&secret["tls.crt"]).map(Result::unwrap).collect();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&secret["tls.key"]).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).unwrap();
        Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            address,
            token: format!("Bearer {}", String::from_utf8(secret["token"].clone()).unwrap()),
            plan: watch::Sender::new(None),
            report: watch::Sender::new((0, Bytes::new())),
            works: std::sync::OnceLock::new(),
        }
    }

    fn tell(&self, plan: &Plan, tables: &BTreeMap<String, Step>, discovered: &[TableName], beats: u64) {
        let now = Timestamp::from_second(1_800_000_000 + 60 * beats as i64).unwrap();
        let at = format!("0/{:X}", 0x0100_0000 + beats);
        let position = json!({"value": at, "time": now});
        let checks =
            ["SourceReachable", "TargetReachable", "CapturePrepared"].map(|name| json!({"name": name, "fault": null, "message": ""}));
        let tables: Vec<Value> = tables.iter().map(|(uid, step)| step.report(uid, now, &at)).collect();
        self.report.send_modify(|report| {
            let said = json!({"formatVersion": 1, "sequence": report.0 + 1, "worker": "worker", "version": "bench", "run": plan.run,
                "term": 1, "planRevision": plan.revision, "tables": tables, "discovered": discovered,
                "checks": checks,
                "source": {"version": "PostgreSQL 17.2", "identity": plan.link.uid, "retainedLogBytes": 1_048_576},
                "position": {"sourceHead": at, "captured": position, "applied": position}});
            *report = (report.0 + 1, serde_json::to_vec(&said).unwrap().into());
        });
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the worker at {}", self.address)
    }
}

/// How far a table is.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Waits,
    Loads,
    LoadsOn,
    Replicates,
}

impl Step {
    fn next(self) -> Self {
        match self {
            Self::Waits => Self::Loads,
            Self::Loads => Self::LoadsOn,
            Self::LoadsOn | Self::Replicates => Self::Replicates,
        }
    }

    fn report(self, uid: &str, as_of: Timestamp, at: &str) -> Value {
        let (phase, rows) = match self {
            Self::Waits => return json!({"uid": uid, "phase": "Waiting"}),
            Self::Loads => ("Snapshotting", 1_000_000),
            Self::LoadsOn => ("Snapshotting", 2_000_000),
            Self::Replicates => ("Replicating", 3_000_000),
        };
        let done = self == Self::Replicates;
        json!({"uid": uid, "phase": phase, "rows": rows, "bytes": rows * 100, "consistent": done,
            "asOf": done.then_some(as_of), "position": done.then_some(at), "lastProcessedTime": "2026-01-01T00:00:00Z",
            "schema": {"version": 1, "columns": 10},
            "snapshot": {"rowsDone": rows, "rowsEstimated": 3_000_000, "bytesDone": rows * 100, "chunksDone": rows / 1_000_000,
                "chunksTotal": 3, "startTime": "2026-01-01T00:00:00Z"}})
    }
}

async fn work(worker: Arc<Worker>, mut plans: watch::Receiver<Option<Arc<Plan>>>, mut script: Play) {
    let mut tables: BTreeMap<String, Step> = BTreeMap::new();
    // Not all hearts beat at once.
    let lag = Duration::from_millis(
        u64::from(worker.token.bytes().fold(7_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))) % 600 * 100,
    );
    loop {
        let under_way = tables.values().any(|step| *step != Step::Replicates);
        tokio::select! {
            changed = plans.changed() => if changed.is_err() { return },
            () = time::sleep(STEP), if under_way => tables.values_mut().for_each(|step| *step = step.next()),
            beat = script.heart.changed() => {
                if beat.is_err() { return }
                time::sleep(lag).await;
            }
        }
        let Some(plan) = plans.borrow_and_update().clone() else { continue };
        let planned: HashMap<&str, &TableName> = plan.tables.iter().map(|table| (table.uid.as_str(), &table.source)).collect();
        tables.retain(|uid, _| planned.contains_key(uid.as_str()));
        for uid in planned.keys() {
            tables.entry((*uid).to_owned()).or_insert(Step::Waits);
        }
        let mut discovered = Vec::new();
        if plan.discover.is_some() {
            let known: std::collections::HashSet<&TableName> = planned.into_values().collect();
            let source = (0..script.discover).map(|number| TableName::new("public", format!("table_with_a_long_name_{number}")));
            discovered = source.filter(|table| !known.contains(table)).take(PIECE).collect();
        }
        worker.tell(&plan, &tables, &discovered, *script.heart.borrow());
    }
}

/// Who spoke on a connection.
#[derive(Clone)]
struct Speaker(Arc<Worker>);

struct Accepted(mpsc::Receiver<(TlsStream<TcpStream>, Arc<Worker>)>);

impl Listener for Accepted {
    type Io = TlsStream<TcpStream>;
    type Addr = Arc<Worker>;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.0.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Accepted>> for Speaker {
    fn connect_info(stream: IncomingStream<'_, Accepted>) -> Self {
        Self(stream.remote_addr().clone())
    }
}

impl Speaker {
    fn is_addressed(&self, headers: &HeaderMap) -> bool {
        headers.get("authorization").is_some_and(|value| value.as_bytes() == self.0.token.as_bytes())
    }
}

async fn take_plan(State(()): State<()>, ConnectInfo(speaker): ConnectInfo<Speaker>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if !speaker.is_addressed(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    let mut json = Vec::new();
    GzDecoder::new(&body[..]).read_to_end(&mut json).unwrap();
    speaker.0.plan.send_replace(Some(Arc::new(serde_json::from_slice(&json).unwrap())));
    StatusCode::OK
}

async fn tell(
    State(()): State<()>,
    ConnectInfo(speaker): ConnectInfo<Speaker>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, u64>>,
) -> Response {
    if !speaker.is_addressed(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut reports = speaker.0.report.subscribe();
    let news = time::timeout(Duration::from_secs(query["timeout"]), reports.wait_for(|report| report.0 > query["after"]));
    match news.await {
        Ok(Ok(report)) => ([("content-type", "application/json")], report.1.clone()).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}
