//! The controller against a real API server. Nobody makes pods for StatefulSets and nobody runs them: the tests play the
//! StatefulSet controller and the kubelet, and a small HTTPS server plays the worker.

mod answers;
mod availability;
mod converging;
mod deleting;
mod discovering;
mod faults;
mod gitops;
mod lifecycle;
mod page;
mod plugin;
mod positions;
mod secrecy;
mod stage;

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use link_operator::api::{
    landing_zone::LandingZone,
    link_connection::{LinkConnection, LinkPhase},
    link_table::LinkTable,
    plan::{Intent, Plan, ProbeRequest},
    report::{Report, TablePhase},
    source_protection::OnPositionLost,
};
use serde_json::json;
use stage::{Stage, ready, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_applied_and_the_revision_rises_only_with_content() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"compute": {"coreCount": 4}, "tables": [{"schemaName": "public", "tableName": "orders"}]})).await;

    let four = stage.appears::<StatefulSet>("shop").await;
    stage.appears::<Service>("shop").await;
    stage.appears::<Secret>("shop-api").await;
    stage.appears::<PodDisruptionBudget>("shop").await;
    stage.appears::<NetworkPolicy>("shop").await;
    stage.appears::<ServiceAccount>("link-worker").await;
    let first = stage.plan_where("shop", |plan| plan.tables.len() == 1).await;
    assert_eq!((first.run, first.intent, first.workers), (1, Intent::Run, 1));
    assert_eq!(first.link.link_id, format!("{}.shop", stage.namespace));

    // What the plan does not hold does not raise it.
    stage.annotate::<LinkConnection>("shop", "example.com/note", "x").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(stage.plan("shop").await.unwrap().revision, first.revision);

    // A LinkTable does, and so do more cores, which restart nobody.
    stage.table("customers", "shop", "customers").await;
    let second = stage.plan_where("shop", |plan| plan.tables.len() == 2).await;
    assert!(second.revision > first.revision);
    stage.merge::<LinkConnection>("shop", json!({"spec": {"compute": {"coreCount": 8}}})).await;
    let eight = stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(2)).await;
    assert_eq!(four.spec.unwrap().template, eight.spec.unwrap().template);
    stage.plan_where("shop", |plan| plan.workers == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_zone_is_named_and_heals() {
    let stage = Stage::new().await;
    stage.link("shop", json!({})).await;
    let link = stage.link_where("shop", |link| reason(link) == "LandingZoneNotFound").await;
    assert_eq!(ready(&link), "False");
    stage.table("lost", "nowhere", "t").await;
    stage.becomes::<LinkTable>("lost", |table| table_reason(table) == "LinkConnectionNotFound").await;
    stage.zone("staging").await;
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Starting)).await;
    assert_eq!(link.status.unwrap().run_id, Some(1));
    // In use, it stays.
    stage.becomes::<LandingZone>("staging", |zone| !zone.finalizers().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_starts_pauses_resumes_and_is_deleted() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": "orders"}]})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let uid = plan.tables[0].uid.clone();

    worker.report(&plan, &uid, TablePhase::Snapshotting, false);
    let link = stage.link_where("shop", |link| reason(link) == "Snapshotting").await;
    assert_eq!((ready(&link).as_str(), link.status.as_ref().unwrap().phase), ("True", Some(LinkPhase::Running)));
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    let link = stage.link_where("shop", |link| reason(link) == "Replicating").await;
    assert_eq!(link.status.unwrap().tables.unwrap().summary, "1/1");
    let table = plan.tables[0].name.clone();
    stage
        .becomes::<LinkTable>(&table, |table| table.status.as_ref().and_then(|status| status.phase) == Some(TablePhase::Replicating))
        .await;

    // A check that fails is told at once, with its remedy.
    worker.fail(&plan, "SourceReachable", "SourceUnreachable");
    let link = stage.link_where("shop", |link| reason(link) == "SourceUnreachable").await;
    assert_eq!(ready(&link), "False");
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| ready(link) == "True").await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Paused"}})).await;
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    let set = stage.appears::<StatefulSet>("shop").await;
    assert_eq!(set.spec.unwrap().replicas, Some(1), "scaled down before it was drained");
    worker.report(&drain, &uid, TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.stop_worker(worker).await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Paused)).await;
    // No worker: a probe asks, and what it finds is told.
    let probe = stage.appears::<Pod>("shop-link-probe").await;
    stage.ends(&probe, &stage::answer(&[("SourceReachable", Some("SourceAuthenticationFailed"))], false)).await;
    let link = stage.link_where("shop", |link| reason(link) == "SourceAuthenticationFailed").await;
    assert_eq!(ready(&link), "False");

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.intent == Intent::Run).await;
    assert_eq!(plan.run, 1, "a link that was paused goes on in its run");
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| reason(link) == "Replicating").await;

    stage.api::<LinkConnection>().delete("shop", &DeleteParams::default()).await.unwrap();
    // What was read comes into the target, which keeps its tables.
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(stage.api::<StatefulSet>().get_opt("shop").await.unwrap().is_some(), "its workers go before they are done");
    worker.report(&drain, &uid, TablePhase::Replicating, true);
    stage.disappears::<StatefulSet>("shop").await;
    assert!(stage.api::<Pod>().get_opt("shop-release").await.unwrap().is_none(), "released while a worker lives");
    stage.stop_worker(worker).await;
    let release = stage.appears::<Pod>("shop-release").await;
    stage.becomes::<LinkTable>(&table, |table| table_reason(table) == "LinkConnectionDeleted").await;
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.disappears::<LinkConnection>("shop").await;
    stage.disappears::<Pod>("shop-release").await;
    stage.becomes::<LinkTable>(&table, |table| table_reason(table) == "LinkConnectionNotFound").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_controller_does_is_counted_and_names_of_links_go_with_them() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("peculiar", json!({"tables": [{"schemaName": "public", "tableName": "oddities"}]})).await;
    let worker = stage.start_worker("peculiar").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    worker.report(&plan, &plan.tables[0].uid, TablePhase::Replicating, false);
    stage.link_where("peculiar", |link| reason(link) == "Replicating").await;
    let of_link = format!(r#"link="peculiar",namespace="{}""#, stage.namespace);
    let each = format!(r#"link_operator_link_status{{{of_link},phase="Running",state="Ready"}} 1"#);
    let metrics = stage
        .metrics_with(&[
            "link_operator_leader 1",
            r#"link_operator_links{phase="Running",state="Ready"} 1"#,
            r#"link_operator_links{phase="Paused",state="Stalled"} 0"#,
            r#"link_operator_tables{phase="Replicating"} 1"#,
            r#"link_operator_landing_zones{phase="Pending"} 1"#,
            "link_operator_workers_desired 1",
            "link_operator_workers_ready 1",
            &each,
            r#"link_operator_queue_depth{kind="LinkConnection"} 0"#,
            r#"link_operator_events_total{kind="LinkConnection",reason="LinkStarted"} 1"#,
            r#"link_operator_events_total{kind="LinkTable",reason="StartReplicating"} 1"#,
            r#"link_operator_api_requests_total{code="201",resource="statefulsets",verb="apply"} 1"#,
        ])
        .await;
    for series in [
        r#"link_operator_api_requests_total{code="200",resource="linkconnections/status",verb="apply"} "#,
        r#"link_operator_api_requests_total{code="200",resource="linktables",verb="watch"} "#,
        r#"link_operator_api_request_duration_seconds_count{verb="get"} "#,
        r#"link_operator_reconcile_duration_seconds_count{kind="LinkConnection",result="ok"} "#,
        r#"link_operator_queue_wait_seconds_count{kind="LinkTable"} "#,
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    let named = |name: &str| metrics.lines().filter(|line| line.contains(name)).map(str::to_owned).collect::<Vec<_>>();
    assert!(named("peculiar").iter().all(|line| line.starts_with("link_operator_link_")), "{metrics}");
    assert!(named("oddities").is_empty(), "{metrics}");
    stage.api::<LinkConnection>().delete("peculiar", &DeleteParams::default()).await.unwrap();
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, &plan.tables[0].uid, TablePhase::Replicating, true);
    stage.disappears::<StatefulSet>("peculiar").await;
    stage.stop_worker(worker).await;
    let release = stage.appears::<Pod>("peculiar-release").await;
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.disappears::<LinkConnection>("peculiar").await;
    let metrics = stage.metrics_with(&[r#"link_operator_links{phase="Running",state="Ready"} 0"#]).await;
    assert!(!metrics.contains(&of_link), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_and_past_errors_stand_in_status() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("orders", "shop", "orders").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let uid = plan.tables[0].uid.clone();
    let wrong = json!({"phase": "Suspended", "error": {"reason": "NoPrimaryKey", "message": "no key", "remedy": "add one", "heals": true}});
    worker.progresses(&plan, &uid, "0/2", &wrong);
    let table = stage.becomes::<LinkTable>("orders", |table| table_reason(table) == "NoPrimaryKey").await;
    let status = table.status.unwrap();
    assert_eq!(status.recent_errors.len(), 1);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    let page = "https://github.com/link-operator/link-operator/blob/main/deploy/runbooks/LinkTablesFailed.md";
    assert_eq!(ready.message, format!("no key; add one; see {page}"));

    // Over, it is still told of; and the position moves on though nothing else does.
    worker.progresses(&plan, &uid, "0/3", &json!({}));
    stage.link_where("shop", |link| reason(link) == "Replicating").await;
    for at in ["0/4", "0/5"] {
        worker.progresses(&plan, &uid, at, &json!({}));
        let position = |link: &LinkConnection| link.status.as_ref()?.position.clone();
        let is_there = |link: &LinkConnection| position(link).is_some_and(|position| position.source_head.as_deref() == Some(at));
        let applied = position(&stage.link_where("shop", is_there).await).unwrap().applied.unwrap();
        assert_eq!((applied.value.as_str(), applied.time.unwrap().to_string().as_str()), (at, "2026-01-01T00:00:00Z"));
    }
    let table = stage.becomes::<LinkTable>("orders", |table| table_reason(table) == "Replicating").await;
    let past = table.status.unwrap().recent_errors;
    assert_eq!((past.len(), past[0].code.as_str(), past[0].message.as_str(), past[0].count), (1, "NoPrimaryKey", "no key", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_is_asked_for_once_and_its_outcome_told() {
    const ASK: &str = "link-operator.io/verify-requested-at";
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("customers", "shop", "customers").await;
    stage.table("orders", "shop", "orders").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 2).await;
    let [customers, orders] = [0, 1].map(|table: usize| plan.tables[table].uid.clone());
    worker.verified(&plan, &[(&customers, &[], "Equal"), (&orders, &[], "Equal")]);

    // A table's own request, with repair.
    stage.annotate::<LinkTable>("orders", "link-operator.io/verify-repair", "true").await;
    stage.annotate::<LinkTable>("orders", ASK, "monday").await;
    let asked = worker.plan_where(|plan| plan.tables[1].verify.is_some()).await;
    let request = asked.tables[1].verify.clone().unwrap();
    assert_eq!((request.requested_at.as_str(), request.repair), ("monday", true));
    assert_eq!((&asked.tables[0].verify, &asked.verify), (&None, &None));
    worker.verified(&asked, &[(&customers, &[], "Equal"), (&orders, &["monday"], "Different")]);
    let table = stage.becomes::<LinkTable>("orders", |table| handled(table).as_deref() == Some("monday")).await;
    let found = serde_json::to_value(table.status.unwrap().verification).unwrap();
    assert_eq!((&found["result"], &found["differingRanges"][0]["after"]), (&json!("Different"), &json!("(5)")));
    stage.event("VerifyFoundDifferences", "orders").await;
    // Done with, it leaves the plan, and nobody does it again.
    let done = worker.plan_where(|plan| plan.revision > asked.revision && plan.tables[1].verify.is_none()).await;

    // The link's request is for all of its tables.
    stage.annotate::<LinkConnection>("shop", ASK, "tuesday").await;
    let asked = worker.plan_where(|plan| plan.revision > done.revision && plan.verify.is_some()).await;
    assert!(asked.tables.iter().all(|table| table.verify.is_none()) && !asked.verify.as_ref().unwrap().repair);
    worker.verified(&asked, &[(&customers, &["tuesday"], "Equal"), (&orders, &["monday"], "Different")]);
    stage.becomes::<LinkTable>("customers", |table| table.status.as_ref().is_some_and(|status| status.verification.is_some())).await;
    let half = stage.api::<LinkConnection>().get("shop").await.unwrap().status.unwrap();
    assert_eq!((half.verification, half.last_handled_verify_at), (None, None), "told before all tables were compared");
    worker.verified(&asked, &[(&customers, &["tuesday"], "Equal"), (&orders, &["tuesday"], "Equal")]);
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().last_handled_verify_at.as_deref() == Some("tuesday")).await;
    let found = serde_json::to_value(link.status.unwrap().verification).unwrap();
    assert_eq!((&found["result"], &found["tables"], &found["sourceRows"]), (&json!("Equal"), &json!(2), &json!(6)));
    worker.plan_where(|plan| plan.revision > asked.revision && plan.verify.is_none()).await;
    stage.event("VerifyCompleted", "shop").await;
}

fn handled(table: &LinkTable) -> Option<String> {
    table.status.as_ref().and_then(|status| status.last_handled_verify_at.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_releases_and_the_next_start_is_a_new_run() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.plan_where("shop", |_| true).await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Stopped"}})).await;
    stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.observe_set("shop").await;
    let release = stage.appears::<Pod>("shop-release").await;
    let asked: Plan = serde_json::from_str(&stage::request(&release)).unwrap();
    assert!(asked.stop_only && !asked.delete_target_tables);
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Stopped)).await;
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    assert_eq!(stage.plan_where("shop", |plan| plan.intent == Intent::Run).await.run, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_whose_controller_died_before_it_said_so_is_paused_and_released_all_the_same() {
    let mut stage = Stage::new().await;
    stage.zone("staging").await;
    for name in ["paused", "deleted"] {
        stage.link(name, json!({})).await;
        stage.link_where(name, |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Starting)).await;
        stage.appears::<StatefulSet>(name).await;
    }
    stage.kill_controller().await;
    for name in ["paused", "deleted"] {
        let never = Patch::Merge(json!({"status": {"phase": "Initial", "runId": null}}));
        stage.api::<LinkConnection>().patch_status(name, &PatchParams::default(), &never).await.unwrap();
    }
    stage.merge::<LinkConnection>("paused", json!({"spec": {"state": "Paused"}})).await;
    stage.api::<LinkConnection>().delete("deleted", &DeleteParams::default()).await.unwrap();

    stage.start_controller().await;
    stage.becomes::<StatefulSet>("paused", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.observe_set("paused").await;
    let link = stage.link_where("paused", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Paused)).await;
    assert_eq!(link.status.unwrap().run_id, Some(1));
    let release = stage.appears::<Pod>("deleted-release").await;
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.disappears::<LinkConnection>("deleted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_lost_its_zone_pauses_and_stops_all_the_same() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.plan_where("shop", |_| true).await;
    // By force, past the finalizer that says it is in use.
    stage.becomes::<LandingZone>("staging", |zone| !zone.finalizers().is_empty()).await;
    stage.api::<LandingZone>().delete("staging", &DeleteParams::default()).await.unwrap();
    stage.merge::<LandingZone>("staging", json!({"metadata": {"finalizers": null}})).await;
    stage.link_where("shop", |link| reason(link) == "LandingZoneNotFound").await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Paused"}})).await;
    stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.observe_set("shop").await;
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Paused)).await;
    assert_eq!((ready(&link).as_str(), reason(&link).as_str()), ("False", "LandingZoneNotFound"));

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Stopped"}})).await;
    let release = stage.appears::<Pod>("shop-release").await;
    stage.ends(&release, &stage::answer(&[], true)).await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Stopped)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_link_tables_of_one_table_the_oldest_is_linked() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("first", "shop", "orders").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    stage.table("second", "shop", "orders").await;
    let accepted = |table: &LinkTable, status: &str| {
        let conditions = table.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| condition.type_ == "Accepted" && condition.status == status)
    };
    let loser = stage.becomes::<LinkTable>("second", |table| accepted(table, "False")).await;
    let reasons: BTreeMap<_, _> = loser.status.unwrap().conditions.into_iter().map(|c| (c.type_, c.reason)).collect();
    assert_eq!(reasons["Accepted"], "TableAlreadyLinked");
    stage.becomes::<LinkTable>("first", |table| accepted(table, "True")).await;
    // The winner goes: the other takes its place.
    stage.api::<LinkTable>().delete("first", &DeleteParams::default()).await.unwrap();
    stage.becomes::<LinkTable>("second", |table| accepted(table, "True")).await;
    stage.plan_where("shop", |plan| plan.tables.iter().any(|table| table.name == "second")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_asked_by_a_probe_again_until_it_is_well() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    let probe = stage.appears::<Pod>("staging-zone-probe").await;
    stage.ends(&probe, &stage::answer(&[("Readable", Some("CredentialExpired"))], false)).await;
    let told = |zone: &LandingZone, reason: &str| {
        let conditions = zone.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.reason == reason)
    };
    stage.becomes::<LandingZone>("staging", |zone| told(zone, "CredentialExpired")).await;
    let again = stage.becomes::<Pod>("staging-zone-probe", |pod| pod.uid() != probe.uid()).await;
    stage.ends(&again, &stage::answer(&[("Readable", None)], false)).await;
    stage.becomes::<LandingZone>("staging", |zone| told(zone, "AsRequested")).await;
    let report: Report = serde_json::from_str(&stage::answer(&[("Readable", None)], false)).unwrap();
    assert!(report.checks[0].fault.is_none());
    let params = PatchParams::default();
    stage
        .api::<LandingZone>()
        .patch("staging", &params, &Patch::Merge(json!({"metadata": {"annotations": {"link-operator.io/test-requested-at": "now"}}})))
        .await
        .unwrap();
    stage.becomes::<Pod>("staging-zone-probe", |pod| pod.uid() != again.uid()).await;
}

fn table_reason(table: &LinkTable) -> String {
    let conditions = table.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().find(|condition| condition.type_ == "Ready").map(|ready| ready.reason.clone()).unwrap_or_default()
}
