//! What is said of an object is about its present spec, and comes from whoever knows.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
};
use kube::{ResourceExt, api::PostParams};
use link_operator::api::{
    integration_runtime::IntegrationRuntime,
    landing_zone::{LandingZone, ZonePhase},
    link_connection::LinkConnection,
    report::TablePhase,
};
use serde_json::json;

use super::stage::{Stage, condition, ready, reason};

const ORDERS: &str = "orders";

/// A link whose one table replicates.
async fn replicating(stage: &Stage) -> (super::stage::Worker, String) {
    stage.zone("staging").await;
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": ORDERS}]})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    worker.report(&plan, &plan.tables[0].uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| reason(link) == "Replicating").await;
    (worker, plan.tables[0].uid.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_spec_is_well_once_workers_say_so_of_it() {
    let stage = Stage::new().await;
    let (worker, uid) = replicating(&stage).await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"compute": {"flushInterval": "2s"}}})).await;
    let plan = worker.plan_where(|plan| plan.flush_interval_ms == 2000).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seen = |link: &LinkConnection| link.status.as_ref().unwrap().observed_generation;
    let link = stage.api::<LinkConnection>().get("shop").await.unwrap();
    assert_eq!((seen(&link), ready(&link).as_str(), reason(&link).as_str()), (Some(2), "Unknown", "NewGeneration"));
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| ready(link) == "True" && seen(link) == Some(2)).await;

    // A table that is to be made first.
    let tables = json!([{"schemaName": "public", "tableName": ORDERS}, {"schemaName": "public", "tableName": "items"}]);
    stage.merge::<LinkConnection>("shop", json!({"spec": {"tables": tables}})).await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 2).await;
    let link = stage.link_where("shop", |link| seen(link) == Some(3)).await;
    assert_ne!(ready(&link), "True");
    worker.discovers(&plan, &[]);
    stage.link_where("shop", |link| ready(link) == "True" && seen(link) == Some(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_heard_and_restarted_whatever_has_become_of_the_spec() {
    let mut stage = Stage::new().await;
    let (worker, uid) = replicating(&stage).await;
    let restart = "link-operator.io/restart-requested-at";
    stage.annotate::<LinkConnection>("shop", restart, "now").await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().last_handled_restart_at.as_deref() == Some("now")).await;
    let template = |set: &StatefulSet| set.spec.as_ref().unwrap().template.metadata.clone().unwrap().annotations.unwrap();
    assert_eq!(template(&stage.appears("shop").await)[restart], "now");
    // To take the wish back is no other.
    stage.merge::<LinkConnection>("shop", json!({"metadata": {"annotations": {restart: null}}})).await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"discover": {"include": ["public.["]}}})).await;
    stage.link_where("shop", |link| reason(link) == "NotApplicable").await;
    assert_eq!(template(&stage.appears("shop").await)[restart], "now");
    stage.kill_controller().await;
    stage.start_controller().await;
    let plan = worker.plan_where(|plan| !plan.tables.is_empty()).await;
    worker.progresses(&plan, &uid, "0/7", &json!({}));
    let at = |link: &LinkConnection| link.status.as_ref().unwrap().position.as_ref().and_then(|position| position.source_head.clone());
    let link = stage.link_where("shop", |link| at(link).as_deref() == Some("0/7")).await;
    assert_eq!(reason(&link), "NotApplicable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_worker_answers_for_its_zone() {
    let stage = Stage::new().await;
    let (worker, uid) = replicating(&stage).await;
    let phase = |zone: &LandingZone| zone.status.as_ref().and_then(|status| status.phase);
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    worker.fail(&plan, "ZoneReadable", "ZoneUnreachable");
    stage.becomes::<LandingZone>("staging", |zone| phase(zone) == Some(ZonePhase::Degraded)).await;
    worker.passes(&plan, &uid, "ZoneReadable");
    stage.becomes::<LandingZone>("staging", |zone| phase(zone) == Some(ZonePhase::Ready)).await;
    stage.annotate::<LandingZone>("staging", "link-operator.io/test-requested-at", "now").await;
    let handled = |zone: &LandingZone| zone.status.as_ref().and_then(|status| status.last_handled_test_at.clone());
    stage.becomes::<LandingZone>("staging", |zone| handled(zone).as_deref() == Some("now")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_rests_is_asked_by_a_pod_with_its_own_account_and_by_every_new_token() {
    let stage = Stage::new().await;
    let runtime = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "IntegrationRuntime", "metadata": {"name": "own"},
        "spec": {"kubernetes": {"serviceAccount": {"name": "with-identity", "annotations": {"cloud": "x"}}}}});
    let runtimes = stage.api::<IntegrationRuntime>();
    runtimes.create(&PostParams::default(), &serde_json::from_value(runtime).unwrap()).await.unwrap();
    stage.zone("staging").await;
    stage.appears::<Pod>("staging-zone-probe").await;
    stage.link("shop", json!({"state": "Stopped", "compute": {"integrationRuntimeRef": {"name": "own"}}})).await;
    let probe = stage.appears::<Pod>("shop-link-probe").await;
    assert_eq!(probe.spec.as_ref().unwrap().service_account_name.as_deref(), Some("with-identity"));
    let account = stage.appears::<ServiceAccount>("with-identity").await;
    assert_eq!(account.annotations()["cloud"], "x");
    stage.ends(&probe, &super::stage::answer(&[("SourceReachable", None)], false)).await;
    stage.link_where("shop", |link| ready(link) == "True").await;

    stage.annotate::<LinkConnection>("shop", "link-operator.io/test-requested-at", "now").await;
    let again = stage.becomes::<Pod>("shop-link-probe", |pod| pod.uid() != probe.uid()).await;
    stage.ends(&again, &super::stage::answer(&[("SourceReachable", None)], false)).await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().last_handled_test_at.as_deref() == Some("now")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_nobody_can_read_is_replaced_and_one_that_is_not_ours_is_left() {
    let stage = Stage::new().await;
    let maps = stage.api::<ConfigMap>();
    let map = |name: &str, labels: serde_json::Value| {
        let map = json!({"metadata": {"name": name, "labels": labels}, "binaryData": {"plan.json.gz": "bm8gcGxhbg=="}});
        serde_json::from_value::<ConfigMap>(map).unwrap()
    };
    maps.create(&PostParams::default(), &map("shop-plan", json!({"app.kubernetes.io/managed-by": "link-operator"}))).await.unwrap();
    maps.create(&PostParams::default(), &map("other-plan", json!({}))).await.unwrap();
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage
        .link(
            "other",
            json!({"source": {"postgresql": {"host": "db-2", "database": "d", "auth": {"password": {"secretRef": {"name": "s"}}}}}}),
        )
        .await;
    stage.appears::<Secret>("shop-api").await;
    assert_eq!(stage.plan("shop").await.unwrap().run, 1);
    let link = stage.link_where("other", |link| reason(link) == "NameTaken").await;
    assert!(condition(&link, "Ready").unwrap().message.contains("ConfigMap other-plan"), "{link:?}");
    let text = stage.metrics_with(&[]).await;
    assert!(text.contains(r#"link_operator_reconcile_errors_total{kind="LinkConnection",reason="NameTaken"}"#), "{text}");
    let there = maps.get("other-plan").await.unwrap().binary_data.unwrap();
    assert_eq!(there["plan.json.gz"].0, b"no plan");
}
