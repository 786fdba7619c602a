//! LinkTables of what workers find.

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use link_operator::api::{
    link_connection::{LinkConnection, LinkPhase},
    link_table::LinkTable,
    plan::{Plan, ProbeRequest},
    report::TablePhase,
};
use serde_json::json;

use super::stage::{Stage, ready, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_found_are_linked_and_stay_until_they_are_no_longer_asked_for() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    let tables = json!([{"schemaName": "public", "tableName": "orders", "target": {"schemaName": "dw"}}]);
    stage.link("shop", json!({"discover": {"include": ["public.*"], "exclude": ["*.tmp*"]}, "tables": tables})).await;
    stage.table("mine", "shop", "customers").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 2 && plan.discover.is_some()).await;
    let names = |plan: &Plan| plan.tables.iter().map(|table| table.source.table_name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&plan), ["customers", "orders"]);

    // What a person or the list has is not made twice, and what is left out not at all.
    worker.discovers(&plan, &["customers", "items", "orders", "tmp1"]);
    let plan = worker.plan_where(|plan| plan.tables.len() == 3).await;
    assert_eq!(names(&plan), ["customers", "items", "orders"]);
    assert_eq!(plan.tables.iter().map(|table| table.target.schema_name.as_str()).collect::<Vec<_>>(), ["public", "public", "dw"]);
    worker.discovers(&plan, &[]);
    stage.link_where("shop", |link| reason(link) == "Replicating").await;
    let items = plan.tables[1].name.clone();
    let made = stage.appears::<LinkTable>(&items).await;
    assert!(items.starts_with("shop-items-") && made.owner_references().len() == 1, "{made:?}");

    // A person deletes it: the spec still asks for it.
    stage.api::<LinkTable>().delete(&items, &DeleteParams::default()).await.unwrap();
    let less = worker.plan_where(|plan| plan.tables.len() == 2).await;
    worker.discovers(&less, &["items"]);
    let plan = worker.plan_where(|plan| plan.tables.len() == 3).await;
    worker.discovers(&plan, &[]);

    // It vanishes from the source: it stays, and says so. The other tables go on.
    worker.report(&plan, &plan.tables[1].uid, TablePhase::Failed, false);
    let phase = |table: &LinkTable| table.status.as_ref().and_then(|status| status.phase);
    stage.becomes::<LinkTable>(&items, |table| phase(table) == Some(TablePhase::Failed)).await;
    // A spec that nobody can read takes nothing away.
    stage.merge::<LinkConnection>("shop", json!({"spec": {"discover": {"include": ["public.["]}}})).await;
    let link = stage.link_where("shop", |link| reason(link) == "NotApplicable").await;
    assert_eq!(ready(&link), "False");
    assert!(super::stage::condition(&link, "Accepted").unwrap().message.contains("public.["), "{link:?}");
    stage.appears::<LinkTable>(&items).await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"discover": {"include": ["sales.*"]}}})).await;
    stage.disappears::<LinkTable>(&items).await;
    worker.plan_where(|plan| plan.tables.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_table_takes_over_from_one_that_was_found() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"discover": {"include": ["public.*"]}})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.discover.is_some()).await;
    worker.discovers(&plan, &["items"]);
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    worker.discovers(&plan, &[]);
    // A plan may be stored at any time: none that comes between may know it as another table.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    stage.table("mine", "shop", "items").await;
    stage.disappears::<LinkTable>(&plan.tables[0].name).await;
    worker.plan_where(|plan| plan.tables[0].name == "mine").await;
    let pushed = worker.pushed();
    let known = |then: &&link_operator::api::plan::Plan| !then.tables.is_empty();
    assert!(pushed.iter().filter(known).all(|then| then.tables[0].uid == plan.tables[0].uid), "it would be loaded again: {pushed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_link_would_do_is_told_until_it_starts() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"discover": {"include": ["public.*"]}, "compute": {"coreCount": 2}, "state": "Stopped"})).await;
    let probe = stage.appears::<Pod>("shop-link-probe").await;
    let request: ProbeRequest = serde_json::from_str(&super::stage::request(&probe)).unwrap();
    assert_eq!((request.forecast_cores, request.discover.unwrap().include), (Some(2), vec!["public.*".to_owned()]));
    let plan = json!({"time": "2026-01-01T00:00:00Z", "tables": 3, "blocked": 1, "rows": 7, "bytes": 8192, "unmeasured": 0, "loadSeconds": 1,
        "lossy": 0, "blockedTables": [{"schemaName": "public", "tableName": "keyless", "reason": "NoPrimaryKey", "message": "no key"}]});
    let mut answer: serde_json::Value = serde_json::from_str(&super::stage::answer(&[("SourceReachable", None)], false)).unwrap();
    answer["plan"] = plan.clone();
    stage.ends(&probe, &answer.to_string()).await;
    let told = |link: &LinkConnection| link.status.as_ref().unwrap().plan.clone();
    let link = stage.link_where("shop", |link| told(link).is_some()).await;
    assert_eq!(serde_json::to_value(told(&link)).unwrap(), plan);
    assert_eq!(link.status.unwrap().phase, Some(LinkPhase::Initial));

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    stage.link_where("shop", |link| told(link).is_none()).await;
}
