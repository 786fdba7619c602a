//! Pause, stop, and every way to delete a link.

use std::{os::unix::process::CommandExt as _, process::Command};

use crate::cluster::{ONE_CORE, Place, kubectl, try_kubectl, until};

/// Waits until no pod, slot or publication of the link is left.
async fn nothing_is_left(place: &Place) {
    until(&place.namespace, "the link is gone", || place.get("lc/link").is_none().then_some(())).await;
    until(&place.namespace, "its pods are gone", || place.pods().iter().all(|pod| pod.contains("zone-probe")).then_some(())).await;
    assert_eq!(place.leftovers().await, (0, 0), "slots and publications");
    let rows: i64 = place.target.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert!(rows >= 1000, "the target's table is retained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_link_goes_on_where_it_was_and_a_stopped_one_starts_over() {
    let place = Place::linked("pause").await;
    place.patch("lc/link", r#"{"spec":{"state":"Paused"}}"#);
    let paused = place.link_is("Paused", "True", "Paused").await;
    assert_eq!(crate::cluster::condition(&paused, "Suspended").unwrap()["status"], "True");
    until(&place.namespace, "no worker runs", || place.pods().iter().all(|pod| pod != "link-0").then_some(())).await;
    assert_eq!(place.leftovers().await, (1, 1), "a pause keeps the position");
    place.source.batch_execute("UPDATE t SET v = -v; DELETE FROM t WHERE id < 10").await.unwrap();
    place.patch("lc/link", r#"{"spec":{"state":"Running"}}"#);
    let running = place.link_is("Running", "True", "Replicating").await;
    assert_eq!(running["status"]["runId"], 1);
    place.converged("t").await;

    place.patch("lc/link", r#"{"spec":{"state":"Stopped"}}"#);
    place.link_is("Stopped", "True", "Stopped").await;
    assert_eq!(place.leftovers().await, (0, 0), "a stop gives the position up");
    place.source.batch_execute("UPDATE t SET v = 0 WHERE id < 100; INSERT INTO t VALUES (0, 0)").await.unwrap();
    place.patch("lc/link", r#"{"spec":{"state":"Running"}}"#);
    let again = place.link_is("Running", "True", "Replicating").await;
    assert_eq!(again["status"]["runId"], 2, "a start after a stop is a new run");
    place.converged("t").await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_running_link_leaves_nothing_behind() {
    let place = Place::linked("delete").await;
    kubectl(&["delete", "lc", "link", "-n", &place.namespace, "--timeout=120s"]);
    nothing_is_left(&place).await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_paused_link_in_the_foreground_leaves_nothing_behind() {
    let place = Place::linked("foreground").await;
    place.patch("lc/link", r#"{"spec":{"state":"Paused"}}"#);
    place.link_is("Paused", "True", "").await;
    kubectl(&["delete", "lc", "link", "-n", &place.namespace, "--cascade=foreground", "--timeout=120s"]);
    nothing_is_left(&place).await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_namespace_hangs_nobody_and_names_what_is_left() {
    let place = Place::linked("namespace").await;
    kubectl(&["delete", "namespace", &place.namespace, "--timeout=150s"]);
    assert!(try_kubectl(&["get", "namespace", &place.namespace], "").is_err());
    let told = until("link-operator", "an Event names what is left", || {
        let events = kubectl(&["get", "events", "-n", "link-operator", "-o", "json"]);
        let events: serde_json::Value = serde_json::from_str(&events).ok()?;
        let ours = |event: &&serde_json::Value| event["message"].as_str().is_some_and(|message| message.contains(&place.namespace));
        events["items"].as_array()?.iter().find(ours).map(|event| event["message"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    let (slots, publications) = place.leftovers().await;
    // Whether or not the source could be freed in time: what is left is named with the command that removes it.
    assert!(slots + publications == 0 || told.contains("pg_drop_replication_slot"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_links_workers_log_what_they_are_asked_to_without_a_restart() {
    let place = Place::linked("logs").await;
    let logs = || {
        let program = env!("CARGO_BIN_EXE_link-operator");
        let output = Command::new(program).arg0("kubectl-link").args(["logs", "link", "-n", &place.namespace]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let pod = || {
        place.get("pod/link-0").map(|pod| (pod["metadata"]["uid"].clone(), pod["status"]["containerStatuses"][0]["restartCount"].clone()))
    };
    let (before, debug) = (pod(), |text: &str| text.matches(r#""level":"DEBUG""#).count());
    let usual = logs();
    assert!(usual.contains("plan") && debug(&usual) == 0, "{usual}");
    let annotate = |value: &str| kubectl(&["annotate", "--overwrite", "lc", "link", "-n", &place.namespace, value]);
    // A load has details to tell.
    let reseed = async |token: &str| {
        let value = format!("link-operator.io/reseed-requested-at={token}");
        kubectl(&["annotate", "--overwrite", "lt", "--all", "-n", &place.namespace, &value]);
        until(&place.namespace, "it is loaded again", || {
            let table = place.table("t")?;
            (table["status"]["lastHandledReseedAt"] == token && table["status"]["phase"] == "Replicating").then_some(())
        })
        .await;
    };
    annotate("link-operator.io/log=debug");
    reseed("once").await;
    until(&place.namespace, "its worker logs more", || (debug(&logs()) > 0).then_some(())).await;

    annotate("link-operator.io/log=link_operator=shout");
    until(&place.namespace, "its worker refuses what is no filter", || logs().contains("link-operator.io/log").then_some(())).await;
    let lines = debug(&logs());
    reseed("twice").await;
    assert_eq!(debug(&logs()), lines, "then the usual holds");
    annotate("link-operator.io/log-");
    place.link_is("Running", "True", "Replicating").await;
    assert_eq!(pod(), before, "it was not restarted");
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_link_rests_between_its_batches_and_a_reseed_does_not_wait_for_the_next() {
    let place = Place::with_rows("batches").await;
    place.link_with(&["t"], &format!("{ONE_CORE}, dataProcessIntervalMinutes: 60"), "zone");
    let rests = async || {
        place.link_is("Running", "True", "Idle").await;
        until(&place.namespace, "no worker runs", || place.pods().iter().all(|pod| pod != "link-0").then_some(())).await;
    };
    rests().await;
    place.converged("t").await;
    assert!(place.get("lc/link").unwrap()["status"]["nextBatchTime"].is_string());
    assert_eq!(place.leftovers().await, (1, 1), "its source keeps the log meanwhile");

    place.source.batch_execute("UPDATE t SET v = -v").await.unwrap();
    let name = place.table("t").unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    kubectl(&["annotate", "-n", &place.namespace, "lt", &name, "link-operator.io/reseed-requested-at=now"]);
    place.converged("t").await;
    until(&place.namespace, "the reseed is done", || (place.table("t")?["status"]["lastHandledReseedAt"] == "now").then_some(())).await;
    rests().await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_cluster_was_lost_goes_on_from_the_same_manifest_without_a_reload() {
    let place = Place::with_rows("rebuilt").await;
    let apply = || place.link_that(&["t"], ONE_CORE, "zone", "linkId: rebuilt\n  relinkPolicy: Adopt");
    apply();
    place.link_is("Running", "True", "Replicating").await;
    place.converged("t").await;

    // Nobody has the time to release anything.
    kubectl(&["delete", "lc", "link", "-n", &place.namespace, "--wait=false"]);
    place.patch("lc/link", r#"{"metadata":{"finalizers":null}}"#);
    until(&place.namespace, "the link is gone", || place.get("lc/link").is_none().then_some(())).await;
    until(&place.namespace, "its worker is gone", || place.pods().iter().all(|pod| pod != "link-0").then_some(())).await;
    until(&place.namespace, "its table is gone", || place.table("t").is_none().then_some(())).await;
    assert_eq!(place.leftovers().await, (1, 1), "the source keeps its log");
    place.source.batch_execute("UPDATE t SET v = 0 WHERE id > 1").await.unwrap();
    // A load would make this row as it is in the source.
    place.target.batch_execute("UPDATE t SET v = -1 WHERE id = 1").await.unwrap();

    apply();
    let link = place.link_is("Running", "True", "Replicating").await;
    assert_eq!(link["status"]["runId"], 1);
    place.arrives("SELECT count(*) FROM t WHERE v = 0", 999).await;
    assert_eq!(place.target.query_one("SELECT v FROM t WHERE id = 1", &[]).await.unwrap().get::<_, i32>(0), -1);
    place.done();
}
