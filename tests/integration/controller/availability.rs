//! What is lost without harm: a leader, the way to the API server, a node; and upgrades that reach few links at a time.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ConfigMap, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use link_operator::{
    api::{
        link_connection::{LinkConnection, LinkPhase},
        plan::Intent,
        report::TablePhase,
    },
    controller::leader,
};
use serde_json::json;

use super::stage::{Stage, Way, condition, ready, reason};

fn image(set: &StatefulSet) -> &str {
    let pod = set.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    pod.containers[0].image.as_deref().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_reaches_the_next_link_once_the_one_before_is_ready() {
    let mut stage = Stage::new().await;
    stage.zone("staging").await;
    let sets = stage.api::<StatefulSet>();
    let mut workers = Vec::new();
    for name in ["one", "two"] {
        stage.link(name, json!({"compute": {"coreCount": 4}})).await;
        stage.becomes::<StatefulSet>(name, |set| set.spec.as_ref().unwrap().replicas == Some(1)).await;
        stage.pods_are_ready(name).await;
        workers.push(stage.start_worker(name).await);
    }
    stage.kill_controller().await;
    stage.start_controller_as(|options| (options.worker_image, options.max_rollouts) = ("link-operator:next".to_owned(), 1)).await;
    let next = |set: &StatefulSet| image(set) == "link-operator:next";
    let upgraded = async || {
        let all = [sets.get("one").await.unwrap(), sets.get("two").await.unwrap()];
        all.iter().filter(|set| next(set)).map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    let first = loop {
        if let Some(first) = upgraded().await.pop() {
            break first;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let second = if first == "one" { "two" } else { "one" };
    // Time enough for the other to be looked at. What its owner changes restarts nobody, and carries no upgrade past its turn.
    stage.merge::<LinkConnection>(second, json!({"spec": {"compute": {"flushInterval": "2s"}}})).await;
    stage.link_where(second, |link| link.status.as_ref().unwrap().observed_generation == Some(2)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(upgraded().await, std::slice::from_ref(&first));
    let waiting = |link: &LinkConnection| condition(link, "WorkersAvailable").is_some_and(|condition| condition.reason == "RolloutWaiting");
    stage.link_where(second, waiting).await;
    stage.metrics_with(&["link_operator_rollouts_waiting 1"]).await;
    // More workers come at once, as those that are there.
    stage.merge::<LinkConnection>(second, json!({"spec": {"compute": {"coreCount": 8}}})).await;
    let more = stage.becomes::<StatefulSet>(second, |set| set.spec.as_ref().unwrap().replicas == Some(2)).await;
    assert!(!next(&more));
    stage.pods_are_ready(&first).await;
    stage.becomes::<StatefulSet>(second, next).await;
    stage.merge::<LinkConnection>(second, json!({"spec": {"compute": {"coreCount": 4}}})).await;
    stage.becomes::<StatefulSet>(second, |set| set.spec.as_ref().unwrap().replicas == Some(1)).await;
    // Its pod is ready, and has the former template: not what was asked for.
    let is_seen = |link: &LinkConnection| link.status.as_ref().unwrap().observed_generation == link.metadata.generation;
    stage.link_where(second, |link| is_seen(link) && ready(link) == "False").await;
    stage.pods_are_ready(second).await;
    let up = |link: &LinkConnection| condition(link, "WorkersAvailable").is_some_and(|condition| condition.reason == "AsRequested");
    stage.link_where(second, up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_that_cannot_become_as_it_should_is_made_anew_and_its_pods_stay() {
    let mut stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    let worker = stage.start_worker("shop").await;
    stage.kill_controller().await;
    // As a version would have made it that did not start all pods at once.
    let sets = stage.api::<StatefulSet>();
    let mut other = sets.get("shop").await.unwrap();
    let background = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    sets.delete("shop", &background).await.unwrap();
    stage.disappears::<StatefulSet>("shop").await;
    other.metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: other.metadata.name,
        labels: other.metadata.labels,
        owner_references: other.metadata.owner_references,
        ..Default::default()
    };
    other.spec.as_mut().unwrap().pod_management_policy = Some("OrderedReady".to_owned());
    let other = sets.create(&PostParams::default(), &other).await.unwrap();

    stage.start_controller().await;
    let leaving = stage.becomes::<StatefulSet>("shop", |set| set.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(leaving.finalizers(), ["orphan"], "its pods would go with it");
    // As the garbage collector does when it has let go of the pods.
    stage.merge::<StatefulSet>("shop", json!({"metadata": {"finalizers": null}})).await;
    let anew = stage.becomes::<StatefulSet>("shop", |set| set.uid() != other.uid()).await;
    assert_eq!(anew.spec.unwrap().pod_management_policy.as_deref(), Some("Parallel"));
    let plan = worker.plan_where(|plan| plan.intent == Intent::Run).await;
    worker.report(&plan, "", TablePhase::Replicating, false);
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Running)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_its_node_does_not_end_is_removed_so_that_its_successor_can_start() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    let template = stage.appears::<StatefulSet>("shop").await.spec.unwrap().template;
    let labels: BTreeMap<String, String> = template.metadata.unwrap().labels.unwrap();
    let mut spec = template.spec.unwrap();
    // On a node whose kubelet answers nobody.
    spec.node_name = Some("lost".to_owned());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop-0", "labels": labels}, "spec": spec});
    let pods = stage.api::<Pod>();
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    pods.delete("shop-0", &DeleteParams::default().grace_period(1)).await.unwrap();
    stage.becomes::<Pod>("shop-0", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    stage.disappears::<Pod>("shop-0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_controllers_are_ready_and_one_goes_on_where_the_other_was() {
    let mut stage = Stage::new().await;
    stage.kill_controller().await;
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (one, two) = (port(), port());
    let elected = |name: &str, port: u16| {
        let name = name.to_owned();
        move |options: &mut link_operator::controller::Options| {
            (options.no_leader_election, options.pod_name, options.health_port) = (false, Some(name), port);
        }
    };
    stage.start_controller_as(elected("one", one)).await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    let plan = stage.plan_where("shop", |_| true).await;
    let first = stage.swap_controller(elected("two", two)).await;
    for port in [one, two] {
        let is_ready = async || reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.is_ok_and(|answer| answer.status() == 200);
        while !is_ready().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &stage.operator_namespace);
    let holder = async || leases.get(leader::LEASE).await.unwrap().spec.unwrap().holder_identity;
    assert_eq!(holder().await.as_deref(), Some("one"));
    first.unwrap().ends().await;
    assert_ne!(holder().await.as_deref(), Some("one"), "the Lease was not given back");
    // What is asked for while nobody leads is done by who leads next.
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Paused"}})).await;
    let next = stage.plan_where("shop", |plan| plan.intent == Intent::Drain).await;
    assert!(next.revision > plan.revision && next.run == plan.run);
    assert_eq!(holder().await.as_deref(), Some("two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_the_lease_reads_and_writes_no_more() {
    let stage = Stage::new().await;
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &stage.operator_namespace);
    let claim = |holder: &str| LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(4),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let mut lease = Lease { spec: Some(claim("us")), ..Lease::default() };
    lease.metadata.name = Some(leader::LEASE.to_owned());
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let client = leader::guarded(stage.client.clone(), &stage.operator_namespace, "us");
    let maps: Api<ConfigMap> = Api::namespaced(client, &stage.namespace);
    let mut map = ConfigMap::default();
    map.metadata.name = Some("ours".to_owned());
    maps.create(&PostParams::default(), &map).await.unwrap();

    let patch = Patch::Merge(json!({"spec": claim("them")}));
    leases.patch(leader::LEASE, &PatchParams::default(), &patch).await.unwrap();
    // Past the end of the claim.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let refused = maps.delete("ours", &DeleteParams::default()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("LeaseLost"), "{refused:?}");
    assert!(maps.get_opt("ours").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_starts_while_the_api_server_is_gone_waits_for_it() {
    let mut stage = Stage::new().await;
    stage.kill_controller().await;
    let way = Way::new().await;
    way.cut();
    stage.start_controller_by(&way, |options| options.no_leader_election = false).await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    // More than one try.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(stage.api::<StatefulSet>().get_opt("shop").await.unwrap().is_none(), "the way was not cut");
    way.mend();
    stage.appears::<StatefulSet>("shop").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_gone_workers_go_on_and_then_the_status_catches_up() {
    let mut stage = Stage::new().await;
    stage.kill_controller().await;
    let way = Way::new().await;
    stage.start_controller_by(&way, |_| {}).await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("orders", "shop", "orders").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    worker.report(&plan, &plan.tables[0].uid, TablePhase::Snapshotting, false);
    let before = stage.link_where("shop", |link| reason(link) == "Snapshotting").await;

    way.cut();
    worker.report(&plan, &plan.tables[0].uid, TablePhase::Replicating, false);
    stage.merge::<LinkConnection>("shop", json!({"spec": {"compute": {"coreCount": 2}}})).await;
    // Longer than a request may take that nobody answers, and than the pauses between tries.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let meanwhile = stage.api::<LinkConnection>().get("shop").await.unwrap();
    assert_eq!(meanwhile.status, before.status, "the way was not cut");
    assert_eq!(worker.plan_where(|_| true).await, plan, "who cannot store a plan pushed one");
    way.mend();
    let next = worker.plan_where(|next| next.revision > plan.revision).await;
    assert_eq!((next.cores_per_worker, next.run), (2, plan.run));
    // Its pod is made anew, larger.
    stage.becomes::<StatefulSet>("shop", |set| set.metadata.generation > Some(1)).await;
    stage.pods_are_ready("shop").await;
    worker.report(&next, &plan.tables[0].uid, TablePhase::Replicating, false);
    let link = stage.link_where("shop", |link| reason(link) == "Replicating" && ready(link) == "True").await;
    assert_eq!(link.status.unwrap().phase, Some(LinkPhase::Running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_due_is_renewed_and_a_worker_with_the_old_one_is_heard() {
    let mut stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": "orders"}]})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    stage.kill_controller().await;
    let part = |secret: &Secret, key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
    let before = stage.appears::<Secret>("shop-api").await;
    stage.annotate::<Secret>("shop-api", "link-operator.io/renew-at", "2026-01-01T00:00:00Z").await;

    stage.start_controller().await;
    let after = stage.becomes::<Secret>("shop-api", |now| part(now, "tls.crt") != part(&before, "tls.crt")).await;
    assert_ne!(part(&after, "tls.key"), part(&before, "tls.key"));
    assert_eq!(part(&after, "token"), part(&before, "token"));
    let (trusted, trusted_before) = (part(&after, "ca.crt"), part(&before, "ca.crt"));
    assert!(trusted.ends_with(trusted_before.trim_end()) && trusted.len() > trusted_before.len());
    let due: Timestamp = after.annotations()["link-operator.io/renew-at"].parse().unwrap();
    assert!(due > Timestamp::now() + jiff::SignedDuration::from_hours(59 * 24));

    // It has not been handed the new one yet.
    worker.report(&plan, &plan.tables[0].uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| ready(link) == "True").await;
}
