//! The process: watches, reconcilers, health, leadership.

use std::{
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    apply::Applier,
    budget::Budget,
    context::{Context, Kept, Queues, watch_all},
    events::Events,
    integration_runtime, landing_zone, leader,
    link_connection::{self, Memory},
    link_table,
    metrics::Metrics,
    page::{self, Page},
    requests,
    rollouts::Rollouts,
    watch::Queue,
    workers::Workers,
};
use crate::{api::plan::HEALTH_PORT, telemetry};

/// Name of the container that this process runs in.
const CONTAINER: &str = "controller";
/// How many objects of one kind are reconciled at once.
const AT_ONCE: u16 = 16;
/// After this long a failed reconciliation is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Options of the subcommand `controller`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Image of the pods that it makes. Default: the image of its own container, pulled in the same way.
    #[arg(long, env = "WORKER_IMAGE", default_value = "", hide_default_value = true)]
    pub worker_image: String,
    /// When nodes pull that image: Always, IfNotPresent or Never. Only with an image.
    #[arg(long, env = "IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// The one namespace to look after. Default: all.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub namespace: Option<String>,
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, env = "HEALTH_PORT", default_value_t = HEALTH_PORT)]
    pub health_port: u16,
    /// The page to look at.
    #[command(flatten)]
    pub page: page::Options,
    /// Work without holding the Lease: only where no other controller runs.
    #[arg(long)]
    pub no_leader_election: bool,
    /// To how many links at a time a change of their workers' pods is rolled out that nobody asked for: an upgrade of the operator.
    #[arg(long, env = "MAX_ROLLOUTS", default_value_t = 10)]
    pub max_rollouts: usize,
    /// The controller's own namespace, of its Lease and of Events that can be told nowhere else.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: Option<String>,
    /// The controller's own pod.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
}

/// Runs the controller until `stop`.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let mut config = Config::infer().await?;
    // A worker's first report, its StatefulSet and its status belong together: do not queue behind each other.
    config.read_timeout = Some(Duration::from_secs(295));
    run_with(Client::try_from(config)?, options, stop).await
}

/// Runs the controller with this client until `stop`. Ready is who leads and who waits: both do what they are there for.
pub async fn run_with(client: Client, options: Options, stop: CancellationToken) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::new());
    let client = requests::counted(client, metrics.clone());
    let readiness = telemetry::Readiness::default();
    let gather = {
        let metrics = metrics.clone();
        move || metrics.gather()
    };
    let health = telemetry::serve_health(options.health_port, gather, readiness, stop.clone());
    let page = Arc::new(Page::new(&options));
    let shown = page.clone().serve(stop.clone());
    let led = async {
        let working = |client: Client| Box::pin(work(client, options.clone(), metrics.clone(), page.clone(), stop.clone()));
        if options.no_leader_election {
            return working(client).await;
        }
        page.waits(&client);
        let namespace = options.pod_namespace.as_deref().unwrap_or("default");
        let identity = options.pod_name.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Box::pin(leader::lead(client, namespace, &identity, stop.clone(), working)).await
    };
    tokio::select! {
        result = led => result,
        // When told to stop, these end sooner than the work, which has a Lease to give back.
        Err(error) = health => Err(error.into()),
        Err(error) = shown => Err(error.into()),
    }
}

async fn work(client: Client, mut options: Options, metrics: Arc<Metrics>, page: Arc<Page>, stop: CancellationToken) -> Result<(), Error> {
    if options.worker_image.is_empty() {
        let own = tokio::select! {
            own = own_image(&client, &options) => own?,
            () = stop.cancelled() => return Ok(()),
        };
        (options.worker_image, options.image_pull_policy) = own;
    }
    let (links, link_wakes) = Queue::new();
    let (tables, table_wakes) = Queue::new();
    let (zones, zone_wakes) = Queue::new();
    let (runtimes, runtime_wakes) = Queue::new();
    let queues = Queues { links, tables, zones, runtimes };
    let budget = Arc::new(Budget::default());
    // Ends with this function, whichever way: nobody goes on watching or talking to workers without leading.
    let mut tasks = JoinSet::new();
    let memory = Arc::new(Memory::default());
    let applier = Arc::new(Applier::new(client.clone()));
    let wake = {
        let links = queues.links.clone();
        Arc::new(move |link: &ObjectRef<_>| links.wake(link.clone()))
    };
    let workers = Arc::new(Workers::new(wake));
    let kept = Kept { budget, memory, applier, workers };
    let stores = watch_all(&client, options.namespace.as_deref(), &queues, &kept, &mut tasks);
    let Kept { budget, memory, applier, workers } = kept;
    tasks.spawn(budget.clone().run(queues.clone()));
    metrics.leads(&stores, &queues);
    let context = Arc::new(Context {
        applier,
        events: Events::new(client.clone(), options.pod_name.clone(), metrics.clone()),
        workers,
        memory,
        rollouts: Rollouts::new(options.max_rollouts),
        budget,
        queues,
        stores: stores.clone(),
        options,
        client,
        metrics,
    });
    // A decision on half of what is there would be wrong: an orphan that is none, a table without its rival.
    let all = async {
        let ready = tokio::join!(
            stores.links.wait_until_ready(),
            stores.tables.store.wait_until_ready(),
            stores.zones.wait_until_ready(),
            stores.runtimes.wait_until_ready(),
            stores.pods.wait_until_ready(),
            stores.workers.wait_until_ready(),
        );
        ready.0.is_ok() && ready.1.is_ok() && ready.2.is_ok() && ready.3.is_ok() && ready.4.is_ok() && ready.5.is_ok()
    };
    tokio::select! {
        _ = all => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!("all watches have begun");
    page.leads(&context.stores);
    let controllers = futures::future::join4(
        control(stores.links, context.queues.links.clone(), link_wakes, link_connection::reconcile, context.clone(), &stop),
        control(stores.tables.store, context.queues.tables.clone(), table_wakes, link_table::reconcile, context.clone(), &stop),
        control(stores.zones, context.queues.zones.clone(), zone_wakes, landing_zone::reconcile, context.clone(), &stop),
        control(stores.runtimes, context.queues.runtimes.clone(), runtime_wakes, integration_runtime::reconcile, context.clone(), &stop),
    );
    controllers.await;
    drop(tasks);
    Ok(())
}

/// Image and pull policy of this process's own container. Waits for an API server that does not answer.
async fn own_image(client: &Client, options: &Options) -> Result<(String, String), Error> {
    let (Some(namespace), Some(name)) = (&options.pod_namespace, &options.pod_name) else { return Err(Error::ImageUnknown) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = loop {
        match pods.get(name).await {
            Ok(pod) => break pod,
            Err(kube::Error::Api(status)) if status.code < 500 => return Err(kube::Error::Api(status).into()),
            Err(error) => tracing::warn!(%error, "cannot ask for the image of this pod; trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    // What was put beside it is not it.
    let own = containers.into_iter().find(|container| container.name == CONTAINER).ok_or(Error::ImageUnknown)?;
    let policy = own.image_pull_policy.unwrap_or_else(|| options.image_pull_policy.clone());
    Ok((own.image.ok_or(Error::ImageUnknown)?, policy))
}

/// Reconciles one kind: whatever comes out of its queue.
fn control<K, F, W>(
    store: Store<K>,
    queue: Queue<K>,
    wakes: W,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
    context: Arc<Context>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + use<K, F, W>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Hash + Eq,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
    W: Stream<Item = ObjectRef<K>> + Send + 'static,
{
    let absent = queue.clone();
    let reconcile = move |object: Arc<K>, context: Arc<Context>| measured(reconcile, object, &queue, context);
    let nothing = stream::pending::<Result<K, watcher::Error>>();
    Controller::for_stream(nothing, store)
        .with_config(controller::Config::default().concurrency(AT_ONCE))
        .reconcile_on(wakes)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(reconcile, again, context)
        .for_each(move |result| {
            match result {
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                Err(controller::Error::ObjectNotFound(object)) => {
                    absent.taken(object.namespace.as_deref().unwrap_or_default(), &object.name);
                }
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "controller"),
            }
            std::future::ready(())
        })
}

/// Reconciles, and counts it.
fn measured<K, F>(
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
    object: Arc<K>,
    queue: &Queue<K>,
    context: Arc<Context>,
) -> impl Future<Output = Result<Action, Error>> + Send + use<K, F>
where
    K: Resource<DynamicType = ()> + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let kind = K::kind(&());
    if let Some(wait) = queue.taken(&object.namespace().unwrap_or_default(), &object.name_any()) {
        context.metrics.waited(&kind, wait);
    }
    let began = Instant::now();
    let work = reconcile(object, context.clone());
    async move {
        let result = work.await;
        context.metrics.reconciled(&kind, result.as_ref().err(), began.elapsed());
        result
    }
}

#[expect(clippy::needless_pass_by_value)] // the signature that the controller calls
fn again<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &Error, _: Arc<Context>) -> Action {
    let object = ObjectRef::from_obj(object.as_ref());
    if error.is_conflict() {
        tracing::debug!(%object, %error, "somebody else was faster; trying again");
        return Action::requeue(Duration::from_millis(500));
    }
    let reason: &'static str = error.into();
    tracing::warn!(%object, reason, %error, "reconciliation failed; trying again");
    Action::requeue(AGAIN)
}
