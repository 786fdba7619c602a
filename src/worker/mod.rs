//! The pod that does a link's work: takes a plan, runs its share of the replication, answers for it, drains on SIGTERM.
//!
//! A worker holds no Kubernetes credentials and depends on nobody to go on: the plan comes from its mount ([`plans`]) or is
//! pushed ([`api`]), and what it knows is told to whoever asks ([`reports`]). Nothing outside the process ends it: a source,
//! target or zone that is gone is a failed check ([`checks`]), and [`engine`] tries again. Two more shapes of the same pod
//! do one thing and end: [`probe`] asks, [`release`] frees what the link made.

pub mod api;
mod checks;
mod engine;
pub mod metrics;
pub mod plans;
mod probe;
mod release;
mod reports;
mod systems;
pub mod termination;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(crate) use self::checks::{ask_source, ask_target, ask_zone};
use self::{api::Api, metrics::Metrics, plans::Plans, systems::Systems};
pub use self::{probe::probe, release::release};
use crate::{
    api::conditions::annotation,
    api::plan::{API_DIR, API_PORT, HEALTH_PORT, MEMORY_LIMIT, PLAN_DIR, PLAN_KEY, SECRETS_DIR, ZONE_DIR},
    replication::EngineReport,
    secrets::Secrets,
    telemetry::{self, Readiness},
};

/// How long the API goes on after the engine's end, so that the last report is heard.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Memory to reckon with where nobody says how much there is, bytes.
const LEAST_MEMORY: u64 = 512 << 20;

/// Where a worker finds what it works with. The paths are those of the pod; tests have others.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the pod.
    pub worker: String,
    /// Which of the link's workers this is, from 0.
    pub ordinal: u32,
    /// The plan's file.
    pub plan: PathBuf,
    /// Folder of the mounted Secrets.
    pub secrets: PathBuf,
    /// Where a claim is mounted.
    pub volume: PathBuf,
    /// Folder with the API's `tls.crt`, `tls.key` and `token`.
    pub api: PathBuf,
    /// Port of the API.
    pub api_port: u16,
    /// Port of the health endpoints.
    pub health_port: u16,
    /// Memory that the process may have, bytes.
    pub memory: u64,
}

/// Why a worker cannot start or go on: nothing that it could wait out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's name does not end in an ordinal.
    #[error("POD_NAME must be a StatefulSet pod's name like shop-0, not {0:?}")]
    WorkerNameInvalid(String),
    /// A port is taken.
    #[error("cannot listen: {0}")]
    ListenFailed(#[from] io::Error),
    /// The engine ended by itself: a programming error. A new process starts clean.
    #[error("the engine ended: {0}")]
    EngineEnded(String),
    /// A server task ended by itself: a programming error.
    #[error("a server ended: {0}")]
    ServerEnded(String),
}

impl Options {
    /// Those of a pod, whose name is in `POD_NAME`.
    pub fn of_pod() -> Result<Self, Error> {
        let worker = pod_name();
        let ordinal = worker.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok());
        Ok(Self {
            ordinal: ordinal.ok_or_else(|| Error::WorkerNameInvalid(worker.clone()))?,
            worker,
            plan: PathBuf::from(PLAN_DIR).join(PLAN_KEY),
            secrets: SECRETS_DIR.into(),
            volume: ZONE_DIR.into(),
            api: API_DIR.into(),
            api_port: API_PORT,
            health_port: HEALTH_PORT,
            memory: std::env::var(MEMORY_LIMIT).ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(LEAST_MEMORY),
        })
    }
}

/// Name of this pod, or nothing outside of one.
fn pod_name() -> String {
    std::env::var("POD_NAME").unwrap_or_default()
}

/// Works until `stop`, then finishes what is in flight and returns.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let secrets = Secrets::new(&options.secrets);
    let link = options.worker.rsplit_once('-').map_or("", |(link, _)| link);
    let metrics = Arc::new(Metrics::new(link));
    let plans = Plans::new();
    let readiness = Readiness::waiting_for(["api", "plan"]);
    let (systems, answers) = (watch::Sender::new(None), watch::Sender::new(checks::Answers::default()));
    let (engine, newest) = (watch::Sender::new(EngineReport::default()), watch::Sender::new(None));
    let revision = watch::Sender::new(0);
    let works_by = reports::WorksBy { systems: systems.subscribe(), revision: revision.subscribe() };
    let serving = CancellationToken::new();

    let _background = [
        background(plans::follow_mount(options.plan.clone(), plans.clone())),
        background(checks::keep_asking(systems.subscribe(), answers.clone(), (options.ordinal == 0).then(|| plans.subscribe()))),
        background(reports::collect(
            options.worker.clone(),
            plans.subscribe(),
            works_by,
            answers.subscribe(),
            engine.subscribe(),
            newest.clone(),
        )),
        background(note_plan(plans.clone(), readiness.clone())),
    ];
    let api = Api { plans: plans.clone(), reports: newest.subscribe(), folder: options.api.clone(), port: options.api_port };
    let mut api = tokio::spawn(api.serve(readiness.clone(), serving.clone()));
    let gather = {
        let (metrics, plans, newest) = (metrics.clone(), plans.subscribe(), newest.subscribe());
        move || metrics.gather(plans.borrow().as_deref(), newest.borrow().as_deref(), Timestamp::now())
    };
    let mut health = tokio::spawn(telemetry::serve_health(options.health_port, gather, readiness, serving.clone()));
    let zone_requests = metrics.engine.zone.clone();
    let open = move |plan: &_| Systems::open(plan, &secrets, &options.volume, &zone_requests);
    let engine = engine::Supervisor {
        worker: options.worker,
        ordinal: options.ordinal,
        memory: options.memory,
        metrics: metrics.engine.clone(),
        open,
        plans: plans.subscribe(),
        systems,
        revision,
        report: engine,
    };

    let result = tokio::select! {
        result = engine.run(stop) => result,
        result = &mut api => Err(ended(result)),
        result = &mut health => Err(ended(result)),
    };
    if result.is_ok() {
        time::sleep(LAST_WORDS).await;
    }
    serving.cancel();
    let last = async { tokio::join!(finish(api), finish(health)) };
    let _ = time::timeout(2 * LAST_WORDS, last).await;
    result
}

fn background(work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

/// Marks the process ready once there is a plan, and logs what the plan says.
async fn note_plan(plans: Plans, readiness: Readiness) {
    let mut plans = plans.subscribe();
    let mut logged = None;
    // The first plan may be there before this task runs.
    loop {
        let plan = plans.borrow_and_update().clone();
        if let Some(plan) = plan {
            readiness.has("plan");
            if plan.log != logged {
                logged.clone_from(&plan.log);
                if let Some(problem) = telemetry::follow_logs(plan.log.as_deref()) {
                    tracing::warn!(
                        annotation = annotation::LOG,
                        problem,
                        "not a filter such as debug or warn,link_operator=trace: ignored"
                    );
                }
            }
        }
        if plans.changed().await.is_err() {
            return;
        }
    }
}

fn ended(result: Result<io::Result<()>, tokio::task::JoinError>) -> Error {
    match result {
        Ok(Err(error)) => Error::ListenFailed(error),
        Ok(Ok(())) => Error::ServerEnded("without being told to".to_owned()),
        Err(error) => Error::ServerEnded(error.to_string()),
    }
}

async fn finish(server: JoinHandle<io::Result<()>>) {
    if !server.is_finished() {
        let _ = server.await;
    }
}
