//! What the tools of others say of a link in each of its phases: `kubectl wait`, `helm upgrade --wait`, kstatus (Flux), Argo CD. All
//! by their own code.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use kube::api::DeleteParams;
use link_operator::api::{
    link_connection::{LinkConnection, LinkPhase},
    link_table::LinkTable,
    plan::Intent,
    report::TablePhase,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::stage::{self, Stage, reason};
use crate::support::apiserver::{ApiServer, binary};

/// What they say of an object.
#[derive(Debug, Deserialize, PartialEq)]
struct Verdict {
    kind: String,
    kstatus: String,
    argo: String,
}

fn statuses(objects: &[Value]) -> Vec<Verdict> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/gitops/health.lua");
    let mut asked = Command::new(binary("statuses")).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    asked.stdin.take().unwrap().write_all(list.to_string().as_bytes()).unwrap();
    let output = asked.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether `kubectl wait` for the condition Ready ends at once.
async fn waits_no_longer(stage: &Stage, what: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, ApiServer::shared().await.kubeconfig(&stage.namespace)).unwrap();
    let mut kubectl = tokio::process::Command::new(binary("kubectl"));
    kubectl.arg("--kubeconfig").arg(config).args(["wait", "--for=condition=Ready", "--timeout=1s", what]);
    kubectl.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap().success()
}

/// Whether `helm upgrade --wait` of a chart with the link as it is succeeds: Helm 4 knows kinds that it has never seen.
async fn helm_waits_no_longer(stage: &Stage, link: &LinkConnection) -> bool {
    let chart = tempfile::tempdir().unwrap();
    let path = |name: &str| chart.path().join(name);
    let object =
        json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": "shop"}, "spec": link.spec});
    std::fs::create_dir(path("templates")).unwrap();
    std::fs::write(path("Chart.yaml"), "{apiVersion: v2, name: shop, version: 1.0.0}").unwrap();
    std::fs::write(path("templates/link.yaml"), object.to_string()).unwrap();
    std::fs::write(path("config"), ApiServer::shared().await.kubeconfig(&stage.namespace)).unwrap();
    let mut helm = tokio::process::Command::new(binary("helm"));
    helm.arg("--kubeconfig").arg(path("config")).args(["upgrade", "shop", "--install", "--take-ownership", "--wait", "--timeout=3s"]);
    let output = helm.arg(chart.path()).output().await.unwrap();
    // To have waited is one thing, to have failed for another reason another.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("not ready") || said.contains("deadline"), "{said}");
    output.status.success()
}

/// All of them, of the link.
async fn say(stage: &Stage, phase: LinkPhase, word: &str, kstatus: &str, argo: &str) {
    let link = stage.link_where("shop", |link| reason(link) == word && link.status.as_ref().unwrap().phase == Some(phase)).await;
    let verdict = statuses(&[serde_json::to_value(&link).unwrap()]).pop().unwrap();
    assert_eq!((verdict.kstatus.as_str(), verdict.argo.as_str()), (kstatus, argo), "{phase} {word}");
    assert_eq!(waits_no_longer(stage, "linkconnection/shop").await, kstatus == "Current", "{phase} {word}");
    assert_eq!(helm_waits_no_longer(stage, &link).await, kstatus == "Current", "{phase} {word}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_of_others_agree_in_every_phase() {
    let unseen = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": "shop", "generation": 1},
        "status": {"observedGeneration": -1}});
    assert_eq!(statuses(&[unseen]), [Verdict { kind: "LinkConnection".into(), kstatus: "InProgress".into(), argo: "Progressing".into() }]);

    let stage = Stage::new().await;
    stage.link("shop", json!({"tables": [{"schemaName": "public", "tableName": "orders"}]})).await;
    say(&stage, LinkPhase::Initial, "LandingZoneNotFound", "InProgress", "Progressing").await;
    stage.zone("staging").await;
    stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Starting)).await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let uid = plan.tables[0].uid.clone();
    worker.report(&plan, &uid, TablePhase::Snapshotting, false);
    say(&stage, LinkPhase::Running, "Snapshotting", "Current", "Healthy").await;
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    say(&stage, LinkPhase::Running, "Replicating", "Current", "Healthy").await;
    worker.fail(&plan, "SourceReachable", "SourceUnreachable");
    say(&stage, LinkPhase::Running, "SourceUnreachable", "InProgress", "Progressing").await;
    worker.report(&plan, &uid, TablePhase::Failed, false);
    say(&stage, LinkPhase::Running, "TablesFailed", "Failed", "Degraded").await;
    let tables = stage.api::<LinkTable>().list(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(statuses(&[serde_json::to_value(&tables.items[0]).unwrap()])[0].argo, "Degraded");
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    say(&stage, LinkPhase::Running, "Replicating", "Current", "Healthy").await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Paused"}})).await;
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    let link = stage.link_where("shop", |link| link.status.as_ref().unwrap().phase == Some(LinkPhase::Pausing)).await;
    assert_eq!(statuses(&[serde_json::to_value(link).unwrap()])[0].kstatus, "InProgress");
    worker.report(&drain, &uid, TablePhase::Replicating, true);
    stage.becomes::<k8s_openapi::api::apps::v1::StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.stop_worker(worker).await;
    let probe = stage.appears::<k8s_openapi::api::core::v1::Pod>("shop-link-probe").await;
    stage.ends(&probe, &stage::answer(&[("SourceReachable", None)], false)).await;
    say(&stage, LinkPhase::Paused, "Paused", "Current", "Suspended").await;

    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Stopped"}})).await;
    let release = stage.appears::<k8s_openapi::api::core::v1::Pod>("shop-release").await;
    stage.ends(&release, &stage::answer(&[], true)).await;
    // Of another spec nothing is known before it was tested.
    say(&stage, LinkPhase::Stopped, "NotChecked", "InProgress", "Progressing").await;
    let again = stage.becomes::<k8s_openapi::api::core::v1::Pod>("shop-link-probe", |pod| pod.metadata.uid != probe.metadata.uid).await;
    stage.ends(&again, &stage::answer(&[("SourceReachable", None)], false)).await;
    say(&stage, LinkPhase::Stopped, "Stopped", "Current", "Suspended").await;

    stage.api::<LinkConnection>().delete("shop", &DeleteParams::foreground()).await.unwrap();
    let going = stage.link_where("shop", |link| link.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(statuses(&[serde_json::to_value(going).unwrap()])[0].kstatus, "Terminating");
}
