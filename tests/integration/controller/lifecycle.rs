//! The life of a link: late starts, batches, cores, ownership, adoption.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use link_operator::api::{
    link_connection::{LinkConnection, LinkPhase, RelinkPolicy},
    link_table::LinkTable,
    plan::{Intent, ProbeRequest},
    report::TablePhase,
};
use serde_json::json;

use super::{
    stage::{self, Stage, condition, ready, reason},
    table_reason,
};

fn replicas(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref().unwrap().replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_takes_too_long_says_so_and_goes_on() {
    const LATE: &str = "StartDeadlineExceeded";
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    let link = stage.link_where("shop", |link| condition(link, LATE).is_some_and(|late| late.status == "False")).await;
    // As if it had begun earlier.
    let mut conditions = link.status.unwrap().conditions;
    let began = Timestamp::now().checked_sub(SignedDuration::from_mins(6)).unwrap();
    conditions.iter_mut().filter(|condition| condition.type_ == LATE).for_each(|late| late.last_transition_time.0 = began);
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    stage.api::<LinkConnection>().patch_status("shop", &PatchParams::default(), &patch).await.unwrap();
    let link = stage.link_where("shop", |link| condition(link, LATE).is_some_and(|late| late.status == "True")).await;
    assert_eq!((ready(&link).as_str(), link.status.as_ref().unwrap().phase), ("False", Some(LinkPhase::Starting)));
    stage.event(LATE, "shop").await;

    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.intent == Intent::Run).await;
    worker.report(&plan, "", TablePhase::Replicating, false);
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Running)).await;
    assert!(condition(&link, LATE).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_link_works_in_batches_and_rests_between_them() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    let compute = json!({"compute": {"dataProcessIntervalMinutes": 60}, "sourceProtection": {"maxRetainedLog": "1Gi"}});
    stage.link("shop", compute).await;
    stage.table("orders", "shop", "orders").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let (first, orders) = (plan.batch.expect("no batch"), plan.tables[0].uid.clone());
    worker.report(&plan, &orders, TablePhase::Snapshotting, false);
    let link = stage.link_where("shop", |link| reason(link) == "Snapshotting").await;
    assert_eq!(link.status.unwrap().next_batch_time, first.checked_add(SignedDuration::from_hours(1)).ok());

    // Another batch's end is none of this one, and this one is not over while a table is loaded.
    worker.finishes(&plan, first.checked_sub(SignedDuration::from_hours(1)).unwrap(), TablePhase::Replicating);
    stage.link_where("shop", |link| reason(link) == "Replicating").await;
    worker.finishes(&plan, first, TablePhase::Snapshotting);
    stage.link_where("shop", |link| reason(link) == "Snapshotting").await;
    assert_eq!(stage.plan("shop").await.unwrap().intent, Intent::Run);
    worker.finishes(&plan, first, TablePhase::Replicating);
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    assert_eq!(drain.batch, Some(first));
    let set = stage.appears::<StatefulSet>("shop").await;
    assert_eq!(replicas(&set), Some(1), "scaled down before all was applied");
    worker.report(&drain, &orders, TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| replicas(set) == Some(0)).await;
    stage.stop_worker(worker).await;
    let link = stage.link_where("shop", |link| reason(link) == "Idle").await;
    let status = link.status.as_ref().unwrap();
    assert_eq!((ready(&link).as_str(), status.phase, status.core_count), ("True", Some(LinkPhase::Running), Some(0)));
    assert_eq!(status.next_batch_time, first.checked_add(SignedDuration::from_hours(1)).ok());

    // A table that is to be loaded does not wait for the next.
    stage.table("customers", "shop", "customers").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 2 && plan.intent == Intent::Run).await;
    let second = plan.batch.unwrap();
    assert!(second > first);
    worker.finishes(&plan, second, TablePhase::Replicating);
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, &orders, TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| replicas(set) == Some(0)).await;
    stage.stop_worker(worker).await;

    // Nor does a source that keeps almost as much log as it may.
    let asks = |pod: &Pod| serde_json::from_str::<ProbeRequest>(&stage::request(pod)).unwrap();
    let probe = stage.becomes::<Pod>("shop-link-probe", |pod| asks(pod).tables.len() == 2).await;
    assert_eq!(asks(&probe).kept.map(|kept| (kept.run, kept.give_up_above)), Some((1, None)));
    stage.ends(&probe, &stage::keeps(Some(1000 << 20), None)).await;
    let third = stage.plan_where("shop", |plan| plan.intent == Intent::Run && plan.batch > Some(second)).await;
    stage.becomes::<StatefulSet>("shop", |set| replicas(set) == Some(1)).await;

    // Continuous from now on.
    stage.merge::<LinkConnection>("shop", json!({"spec": {"compute": {"dataProcessIntervalMinutes": 0}}})).await;
    let plan = stage.plan_where("shop", |plan| plan.batch.is_none()).await;
    assert_eq!((plan.intent, plan.run, third.run), (Intent::Run, 1, 1));
    stage.link_where("shop", |link| link.status.as_ref().unwrap().next_batch_time.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cores_are_scaled_by_kubectl_and_no_autoscaler_can_count_pods() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"compute": {"coreCount": 4}})).await;
    let four = stage.becomes::<StatefulSet>("shop", |set| replicas(set) == Some(1)).await;
    let links = stage.api::<LinkConnection>();
    let scale = links.get_scale("shop").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(4));
    // An autoscaler asks for it first, and gives up: it would count pods, not cores.
    assert_eq!(scale.status.and_then(|status| status.selector), None);
    let cores = |cores: i32| Patch::Merge(json!({"spec": {"replicas": cores}}));
    links.patch_scale("shop", &PatchParams::default(), &cores(6)).await.expect_err("workers of unequal cores");
    links.patch_scale("shop", &PatchParams::default(), &cores(12)).await.unwrap();
    let twelve = stage.becomes::<StatefulSet>("shop", |set| replicas(set) == Some(3)).await;
    assert_eq!(four.spec.unwrap().template, twelve.spec.unwrap().template, "workers would restart");
    stage.link_where("shop", |link| link.status.as_ref().unwrap().core_count == Some(12)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_goes_on_for_a_former_one_goes_on_in_its_run() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"linkId": "old.shop"})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.relink_policy == RelinkPolicy::Refuse).await;
    assert_eq!(plan.link.link_id, "old.shop");
    worker.fail(&plan, "ZoneOwned", "ZoneNotEmpty");
    stage.link_where("shop", |link| reason(link) == "ZoneNotEmpty").await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"relinkPolicy": "Adopt"}})).await;
    let plan = worker.plan_where(|plan| plan.relink_policy == RelinkPolicy::Adopt).await;
    worker.works_in(&plan, 7);
    let plan = worker.plan_where(|plan| plan.run == 7).await;
    worker.works_in(&plan, 7);
    stage.link_where("shop", |link| link.status.as_ref().unwrap().run_id == Some(7) && ready(link) == "True").await;
    // The next start is a run that was not there before.
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Stopped"}})).await;
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, "", TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| replicas(set) == Some(0)).await;
    stage.stop_worker(worker).await;
    let release = stage.appears::<Pod>("shop-release").await;
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Stopped)).await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    assert_eq!(stage.plan_where("shop", |plan| plan.intent == Intent::Run).await.run, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_table_is_linked_once_to_a_target_and_the_loser_says_who_has_it() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("first", json!({})).await;
    stage.table("first-orders", "first", "orders").await;
    let elsewhere = json!({"host": "other", "database": "shop", "auth": {"password": {"secretRef": {"name": "other"}}}});
    stage.link("elsewhere", json!({"target": {"postgresql": elsewhere}})).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    stage.link("second", json!({})).await;
    for (name, link, table) in
        [("second-orders", "second", "orders"), ("second-items", "second", "items"), ("e-orders", "elsewhere", "orders")]
    {
        stage.table(name, link, table).await;
    }
    let loser = stage.becomes::<LinkTable>("second-orders", |table| table_reason(table) == "TableAlreadyLinked").await;
    let told = loser.status.unwrap().conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap().message;
    let holder = format!("LinkTable {0}/first-orders of LinkConnection {0}/first", stage.namespace);
    assert!(told.contains(&holder), "{told}");
    let names = |plan: &link_operator::api::plan::Plan| plan.tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>();
    stage.plan_where("second", |plan| names(plan) == ["second-items"]).await;
    stage.plan_where("elsewhere", |plan| names(plan) == ["e-orders"]).await;

    // Whose goes, the other has it.
    stage.api::<LinkTable>().delete("first-orders", &DeleteParams::default()).await.unwrap();
    stage.plan_where("second", |plan| names(plan) == ["second-items", "second-orders"]).await;
    stage.becomes::<LinkTable>("second-orders", |table| table_reason(table) != "TableAlreadyLinked").await;
    // A younger one changes nothing.
    stage.table("first-again", "first", "orders").await;
    stage.becomes::<LinkTable>("first-again", |table| table_reason(table) == "TableAlreadyLinked").await;
    assert_eq!(names(&stage.plan("second").await.unwrap()), ["second-items", "second-orders"]);
}
