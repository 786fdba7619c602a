//! Whatever call to the API server goes wrong, a link comes to where its spec asks, and leaves nothing behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Pod, Secret, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Resource, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use link_operator::api::{
    landing_zone::LandingZone,
    link_connection::{LinkConnection, LinkPhase},
    plan::Intent,
    report::TablePhase,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    faults::{Faults, Kind},
    stage::{self, Stage, ready, reason},
};

/// So many controllers at once: each waits most of the time.
const AT_ONCE: usize = 24;

/// Ends with its link gone.
type Scenario = for<'a> fn(&'a Stage) -> BoxFuture<'a, ()>;

const SCENARIOS: [(&str, Scenario); 3] = [
    ("runs, pauses, resumes, goes", |stage| Box::pin(runs_pauses_and_goes(stage))),
    ("stops, starts again, goes", |stage| Box::pin(stops_and_goes(stage))),
    ("goes before it began", |stage| Box::pin(goes_at_once(stage))),
];

async fn begin(stage: &Stage) {
    stage.zone("staging").await;
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": "orders"}]})).await;
}

async fn phase(stage: &Stage, phase: LinkPhase) -> LinkConnection {
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(phase)).await
}

async fn replicates(stage: &Stage) -> stage::Worker {
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1 && plan.intent == Intent::Run).await;
    worker.report(&plan, &plan.tables[0].uid, TablePhase::Replicating, false);
    let link = stage.link_where("shop", |link| reason(link) == "Replicating").await;
    assert_eq!((ready(&link).as_str(), link.status.unwrap().tables.unwrap().summary.as_str()), ("True", "1/1"));
    worker
}

async fn comes_to_rest(stage: &Stage, worker: stage::Worker, asked: &str) {
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": asked}})).await;
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, &drain.tables[0].uid, TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.stop_worker(worker).await;
}

/// Answers whatever release pod comes until the link is so: one may be asked for again.
async fn released(stage: &Stage, so: fn(Option<LinkConnection>) -> bool) {
    let (mut answered, until) = (None, Instant::now() + stage::PATIENCE);
    while !so(stage.api::<LinkConnection>().get_opt("shop").await.unwrap()) {
        if let Some(pod) = stage.api::<Pod>().get_opt("shop-release").await.unwrap()
            && pod.uid() != answered
        {
            answered = pod.uid();
            stage.ends(&pod, &stage::answer(&[], true)).await;
        }
        assert!(Instant::now() < until, "never released: {:#?}", stage.api::<LinkConnection>().get_opt("shop").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn goes(stage: &Stage, worker: Option<stage::Worker>) {
    stage.api::<LinkConnection>().delete("shop", &DeleteParams::default()).await.unwrap();
    if let Some(worker) = worker {
        let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
        worker.report(&drain, &drain.tables[0].uid, TablePhase::Replicating, true);
        stage.disappears::<StatefulSet>("shop").await;
        assert!(stage.api::<Pod>().get_opt("shop-release").await.unwrap().is_none(), "released while a worker lives");
        stage.stop_worker(worker).await;
    }
    released(stage, |link| link.is_none()).await;
    stage.disappears::<Pod>("shop-release").await;
    stage.becomes::<LandingZone>("staging", |zone| zone.finalizers().is_empty()).await;
}

async fn runs_pauses_and_goes(stage: &Stage) {
    begin(stage).await;
    let worker = replicates(stage).await;
    comes_to_rest(stage, worker, "Paused").await;
    phase(stage, LinkPhase::Paused).await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    let worker = replicates(stage).await;
    assert_eq!(phase(stage, LinkPhase::Running).await.status.unwrap().run_id, Some(1), "a start that was tried twice is one run");
    goes(stage, Some(worker)).await;
}

async fn stops_and_goes(stage: &Stage) {
    begin(stage).await;
    let worker = replicates(stage).await;
    comes_to_rest(stage, worker, "Stopped").await;
    let stopped = |link: Option<LinkConnection>| link.and_then(|link| link.status?.phase) == Some(LinkPhase::Stopped);
    released(stage, stopped).await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    let worker = replicates(stage).await;
    assert_eq!(phase(stage, LinkPhase::Running).await.status.unwrap().run_id, Some(2));
    goes(stage, Some(worker)).await;
}

async fn goes_at_once(stage: &Stage) {
    begin(stage).await;
    goes(stage, None).await;
}

/// What is left of a kind that the garbage collector would not take with the link.
async fn orphans<K>(stage: &Stage) -> Vec<String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let all = stage.api::<K>().list(&ListParams::default().labels("link-operator.io/link")).await.unwrap();
    let orphans = all.iter().filter(|object| object.owner_references().is_empty());
    orphans.map(|object| format!("{} {}", K::kind(&()), object.name_any())).collect()
}

async fn left(stage: &Stage) -> Vec<String> {
    [
        orphans::<StatefulSet>(stage).await,
        orphans::<Pod>(stage).await,
        orphans::<ConfigMap>(stage).await,
        orphans::<Secret>(stage).await,
        orphans::<Service>(stage).await,
        orphans::<NetworkPolicy>(stage).await,
        orphans::<PodDisruptionBudget>(stage).await,
    ]
    .concat()
}

/// Plays a scenario with one fault; says whether it came to it, and how many calls there were.
async fn play(scenario: usize, faults: Faults) -> usize {
    let stage = Stage::with(&faults).await;
    SCENARIOS[scenario].1(&stage).await;
    assert_eq!(left(&stage).await, [""; 0]);
    faults.calls()
}

/// Every fourth call goes wrong in one way; with `FAULTS=each` every call, with `FAULTS=all` every call in each of the ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_goes_wrong_a_link_comes_to_where_its_spec_asks() {
    let wanted = std::env::var("FAULTS").unwrap_or_default();
    let mut played = Vec::new();
    for (scenario, (name, _)) in SCENARIOS.iter().enumerate() {
        let calls = play(scenario, Faults::new(Kind::Lost, usize::MAX)).await;
        println!("{name}: {calls} calls");
        let kinds = [Kind::Lost, Kind::Unanswered, Kind::Conflict, Kind::Late];
        let all = (0..calls).flat_map(|at| (0..kinds.len()).map(move |kind| (at, kind)));
        let is_wanted = |(at, kind): &(usize, usize)| match wanted.as_str() {
            "all" => true,
            "each" => at % kinds.len() == *kind,
            _ => at % 4 == 0 && at / 4 % kinds.len() == *kind,
        };
        played.extend(all.filter(is_wanted).map(|(at, kind)| (scenario, kinds[kind], at)));
    }
    let happened = Arc::new(AtomicUsize::new(0));
    let all = played.len();
    let failed: Vec<String> = stream::iter(played)
        .map(|(scenario, kind, at)| {
            let happened = happened.clone();
            async move {
                let faults = Faults::new(kind, at);
                let played = tokio::spawn(play(scenario, faults.clone())).await;
                happened.fetch_add(usize::from(faults.happened()), Ordering::Relaxed);
                let failed = played.err().map(|error| format!("{} with call {at} {kind:?}: {error}", SCENARIOS[scenario].0));
                if let Some(failed) = &failed {
                    eprintln!("{failed}");
                }
                failed
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    assert!(failed.is_empty(), "{failed:#?}");
    let happened = happened.load(Ordering::Relaxed);
    println!("{all} faults, {happened} of them met");
    assert!(happened * 10 > all * 8, "only {happened} of {all} faults were met");
}
