//! Positions that are lost, and what paused links keep of the source.

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_position_begins_the_next_run_if_the_spec_says_so_and_then_backs_off() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": "orders"}]})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let uid = plan.tables[0].uid.clone();
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| ready(link) == "True").await;

    // As the worker says: by this plan it needs a person.
    worker.lose(&plan, 1, false);
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().position_lost.is_some()).await;
    let status = link.status.as_ref().unwrap();
    assert_eq!(
        (reason(&link).as_str(), status.run_id, status.position_lost.as_ref().unwrap().next_attempt),
        ("PositionLost", Some(1), None)
    );

    stage.merge::<LinkConnection>("shop", json!({"spec": {"onPositionLost": "Reseed"}})).await;
    let plan = worker.plan_where(|plan| plan.on_position_lost == OnPositionLost::Reseed).await;
    assert_eq!(plan.run, 1);
    worker.lose(&plan, 1, true);
    let plan = worker.plan_where(|plan| plan.run == 2).await;
    assert_eq!(plan.intent, Intent::Run);
    // What is still said of the run before is over.
    worker.lose(&plan, 1, true);
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().run_id == Some(2)).await;
    assert_eq!(link.status.unwrap().phase, Some(LinkPhase::Starting));
    assert_eq!(told(&stage, "LinkReseeding").await, 1);
    worker.report(&plan, &uid, TablePhase::Snapshotting, false);
    stage.link_where("shop", |link| reason(link) == "Snapshotting").await;

    // Again, at once: it waits, and says until when.
    worker.lose(&plan, 2, true);
    let waits = |link: &LinkConnection| stage::condition(link, "Ready").unwrap().message.contains("2 runs in a row lost their position");
    let link = stage.link_where("shop", waits).await;
    let status = link.status.as_ref().unwrap();
    let lost = status.position_lost.as_ref().unwrap();
    assert_eq!((status.run_id, lost.attempt), (Some(2), 2));
    assert!(lost.next_attempt > lost.time);
    assert_eq!(stage.plan("shop").await.unwrap().run, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_link_says_when_to_resume_it_and_what_became_of_its_position() {
    let stage = Stage::new().await;
    stage.zone("staging").await;
    let protection = json!({"maxRetainedLog": "1Gi", "action": "Reseed", "maxConnections": 10, "maxSnapshotRate": "10Mi"});
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": "orders"}], "sourceProtection": protection})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let bounds = plan.bounds;
    assert_eq!((bounds.max_retained_log, bounds.give_up), (Some(1 << 30), true));
    assert_eq!((bounds.max_connections, bounds.max_snapshot_rate), (Some(10), Some(10 << 20)));
    let uid = plan.tables[0].uid.clone();

    // An alarm is told once, and the link does what it shall all the same.
    worker.retains(&plan, &uid, 2 << 30);
    let word =
        |link: &LinkConnection| stage::condition(link, "SourceProtected").map(|condition| condition.reason.clone()).unwrap_or_default();
    let link = stage.link_where("shop", |link| word(link) == "RetainedLogHigh" && ready(link) == "True").await;
    assert_eq!(link.status.unwrap().source.unwrap().retained_log_bytes, Some(2 << 30));
    assert_eq!(told(&stage, "RetainedLogHigh").await, 1);
    worker.retains(&plan, &uid, 1 << 20);
    stage.link_where("shop", |link| word(link) == "AsRequested").await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Paused"}})).await;
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, &uid, TablePhase::Replicating, true);
    stage.becomes::<StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.stop_worker(worker).await;
    let probe = stage.appears::<Pod>("shop-link-probe").await;
    let request: ProbeRequest = serde_json::from_str(&stage::request(&probe)).unwrap();
    let kept = request.kept.unwrap();
    assert_eq!((kept.run, kept.give_up_above), (1, Some(1 << 30)));
    assert_eq!(Some(kept.uid), stage.api::<LinkConnection>().get("shop").await.unwrap().uid());
    // It grew a lot since it was paused, and will be too much soon.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    stage.ends(&probe, &stage::keeps(Some(500 << 20), None)).await;
    let link = stage.link_where("shop", |link| word(link) == "ResumeSoon").await;
    assert_eq!(ready(&link), "True");
    let status = link.status.unwrap();
    assert!(status.resume_before > status.source.unwrap().retained_log_time, "no time to resume before");

    // Somebody asks again, and it was given up.
    stage.annotate::<LinkConnection>("shop", "link-operator.io/test-requested-at", "now").await;
    let again = stage.becomes::<Pod>("shop-link-probe", |pod| pod.uid() != probe.uid()).await;
    stage.ends(&again, &stage::keeps(None, Some((1, "PositionGivenUp")))).await;
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().position_lost.is_some()).await;
    let message = stage::condition(&link, "Ready").unwrap().message.clone();
    assert!(ready(&link) == "True" && message.contains("gave its position up"), "{message}");
    assert_eq!((link.status.as_ref().unwrap().resume_before, word(&link).as_str()), (None, ""));

    // The next start is a full load: as soon as its worker meets what the probe said.
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.intent == Intent::Run).await;
    assert_eq!(plan.run, 1);
    worker.lose(&plan, 1, true);
    worker.plan_where(|plan| plan.run == 2).await;

    // Its pod cannot start any more: as while it was paused, only a probe sees what piles up.
    stage.break_worker(worker).await;
    let request = |pod: &Pod| serde_json::from_str::<ProbeRequest>(&stage::request(pod)).unwrap();
    let probe = stage.becomes::<Pod>("shop-link-probe", |pod| request(pod).kept.is_some_and(|kept| kept.run == 2)).await;
    assert_eq!(request(&probe).kept.unwrap().give_up_above, Some(1 << 30));
    stage.ends(&probe, &stage::keeps(Some(2 << 30), None)).await;
    stage.link_where("shop", |link| word(link) == "RetainedLogHigh").await;
    stage.annotate::<LinkConnection>("shop", "link-operator.io/test-requested-at", "later").await;
    let again = stage.becomes::<Pod>("shop-link-probe", |pod| pod.uid() != probe.uid()).await;
    stage.ends(&again, &stage::keeps(None, Some((2, "PositionGivenUp")))).await;
    let lost = |link: &LinkConnection| link.status.as_ref().unwrap().position_lost.as_ref().map(|lost| lost.run_id);
    let link = stage.link_where("shop", |link| lost(link) == Some(2)).await;
    // Not before there is a worker that can begin it.
    assert_eq!(link.status.unwrap().run_id, Some(2));
}

/// Waits for an Event of this reason, which comes after the status; how many there are.
async fn told(stage: &Stage, reason: &str) -> usize {
    let until = tokio::time::Instant::now() + std::time::Duration::from_mins(1);
    loop {
        let events = stage.api::<Event>().list(&ListParams::default()).await.unwrap();
        let count = events.items.iter().filter(|event| event.reason.as_deref() == Some(reason)).count();
        if count > 0 {
            return count;
        }
        assert!(tokio::time::Instant::now() < until, "no Event {reason}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
