//! Deletion of links, and what keeps them from going.

use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Event, Namespace, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use link_operator::api::{
    landing_zone::LandingZone,
    link_connection::{LinkConnection, LinkPhase},
    plan::Plan,
};
use serde_json::json;

use super::stage::{self, Stage, condition, reason};
use crate::support::apiserver::ApiServer;

/// What the operator's own Events say of links that left something behind.
async fn left_behind(stage: &Stage) -> String {
    let events: Api<Event> = Api::namespaced(stage.client.clone(), &stage.operator_namespace);
    let told = events.list(&ListParams::default()).await.unwrap().items;
    told.into_iter().filter(|event| event.reason.as_deref() == Some("NotReleased")).filter_map(|event| event.message).collect()
}

/// Pauses the link and waits until it rests.
async fn pause(stage: &Stage, link: &str) {
    stage.merge::<LinkConnection>(link, json!({"spec": {"state": "Paused"}})).await;
    stage.becomes::<StatefulSet>(link, |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.observe_set(link).await;
    stage.link_where(link, |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Paused)).await;
}

/// Deletes it in the foreground; by then the garbage collector has taken its children.
async fn delete_in_the_foreground(stage: &Stage, link: &str) {
    let _ = stage.api::<ConfigMap>().delete(&format!("{link}-plan"), &DeleteParams::default()).await;
    let _ = stage.api::<Secret>().delete(&format!("{link}-api"), &DeleteParams::default()).await;
    let foreground = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    stage.api::<LinkConnection>().delete(link, &foreground).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_of_a_paused_link_releases_by_a_pod_of_its_own() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.plan_where("shop", |_| true).await;
    pause(&stage, "shop").await;
    delete_in_the_foreground(&stage, "shop").await;
    let release = stage.appears::<Pod>("shop-release").await;
    assert!(release.metadata.owner_references.is_none(), "the cascade would take it away");
    let asked: Plan = serde_json::from_str(&stage::request(&release)).unwrap();
    assert!(!asked.stop_only);
    assert_eq!(asked.link.name, "shop");
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.becomes_or_goes::<LinkConnection>("shop", |link| link.finalizers().iter().all(|name| name != "link-operator.io/release")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_without_its_zone_is_released_by_the_plan_that_its_controller_knows() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    let planned = stage.plan_where("shop", |_| true).await;
    pause(&stage, "shop").await;
    stage.becomes::<LandingZone>("staging", |zone| !zone.finalizers().is_empty()).await;
    stage.api::<LandingZone>().delete("staging", &DeleteParams::default()).await.unwrap();
    stage.merge::<LandingZone>("staging", json!({"metadata": {"finalizers": null}})).await;
    stage.link_where("shop", |link| reason(link) == "LandingZoneNotFound").await;
    // Neither the zone nor the stored plan is there by the time that somebody is asked to free anything.
    delete_in_the_foreground(&stage, "shop").await;
    let release = stage.appears::<Pod>("shop-release").await;
    let asked: Plan = serde_json::from_str(&stage::request(&release)).unwrap();
    assert_eq!((asked.zone, asked.link), (planned.zone, planned.link));
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.becomes_or_goes::<LinkConnection>("shop", |link| link.finalizers().iter().all(|name| name != "link-operator.io/release")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_terminating_namespace_what_is_left_is_named_and_the_link_goes() {
    let stage = Stage::new().await;
    goes_with_its_namespace(&stage).await;
}

/// A controller of one namespace may not ask whether it is going away: the pod that cannot be made tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_may_not_look_at_namespaces_lets_a_link_go_with_its_own() {
    let stage = Stage::of_one_namespace().await;
    goes_with_its_namespace(&stage).await;
}

async fn goes_with_its_namespace(stage: &Stage) {
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.plan_where("shop", |_| true).await;
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    namespaces.delete(&stage.namespace, &DeleteParams::default()).await.unwrap();
    // As the namespace controller does.
    stage.api::<LinkConnection>().delete("shop", &DeleteParams::default()).await.unwrap();
    stage.disappears::<LinkConnection>("shop").await;
    stage.becomes_or_goes::<LandingZone>("staging", |zone| zone.finalizers().is_empty()).await;
    let left = left_behind(stage).await;
    assert!(left.contains("pg_drop_replication_slot") && left.contains("DROP PUBLICATION"), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_cannot_be_carried_out_says_why_and_ends_at_its_deadline() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.plan_where("shop", |_| true).await;
    pause(&stage, "shop").await;
    // Whoever is to be asked about each new pod is down.
    let here = json!({"matchLabels": {"kubernetes.io/metadata.name": stage.namespace}});
    let down: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": stage.namespace},
        "webhooks": [{
            "name": "pods.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "namespaceSelector": here,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    }))
    .unwrap();
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(stage.client.clone());
    webhooks.create(&PostParams::default(), &down).await.unwrap();
    let pod = json!({"metadata": {"name": "any"}, "spec": {"containers": [{"name": "any", "image": "any"}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    while stage.api::<Pod>().create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }

    stage.api::<LinkConnection>().delete("shop", &DeleteParams::default()).await.unwrap();
    let hindered = |link: &LinkConnection| condition(link, "Ready").is_some_and(|ready| ready.message.contains("pods.example.com"));
    let link = stage.link_where("shop", hindered).await;
    assert_eq!(reason(&link), "Deleting");
    assert_eq!(left_behind(&stage).await, "");

    // That it was asked for long ago, when nobody was there, does not count: it was not tried for so long.
    let long = jiff::SignedDuration::from_mins(11);
    ApiServer::shared().await.deleted_earlier::<LinkConnection>(&stage.namespace, "shop", long).await;
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().release_start_time.is_some()).await;
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    assert_eq!(left_behind(&stage).await, "");
    let earlier = link.status.unwrap().release_start_time.unwrap() - long;
    let earlier = json!({"status": {"releaseStartTime": earlier}});
    stage.api::<LinkConnection>().patch_status("shop", &PatchParams::default(), &Patch::Merge(&earlier)).await.unwrap();
    stage.disappears::<LinkConnection>("shop").await;
    let left = left_behind(&stage).await;
    assert!(left.contains("pg_drop_replication_slot") && left.contains("pods.example.com"), "{left}");
    webhooks.delete(&stage.namespace, &DeleteParams::default()).await.unwrap();
}
