//! `kubectl link`: the real binary under its other name, called by kubectl itself.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use link_operator::api::{
    link_connection::{LinkConnection, LinkPhase},
    link_table::LinkTable,
    plan::Intent,
    report::TablePhase,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::stage::{self, Stage, reason};
use crate::support::apiserver::{ApiServer, binary};

/// A user's machine: kubectl, and the plugin on its PATH.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    async fn new(stage: &Stage) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_link-operator"), folder.path().join("kubectl-link")).unwrap();
        fs::write(folder.path().join("config"), ApiServer::shared().await.kubeconfig(&stage.namespace)).unwrap();
        Self { folder }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let folder: PathBuf = self.folder.path().into();
        Command::new(binary("kubectl"))
            .arg("link")
            .args(arguments)
            .env("PATH", &folder)
            .env("KUBECONFIG", folder.join("config"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Exit code and all that was printed.
    async fn ends(child: Child) -> (i32, String) {
        let output = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await.expect("it ends").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    async fn link(&self, arguments: &[&str]) -> (i32, String) {
        Self::ends(self.start(arguments)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_and_steers_a_link() {
    let stage = Stage::new().await;
    let desk = Desk::new(&stage).await;
    assert_eq!(desk.link(&["status"]).await, (0, "no LinkConnections\n".to_owned()));
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("orders", "shop", "orders").await;
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.tables.len() == 1).await;
    let uid = plan.tables[0].uid.clone();
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    stage.link_where("shop", |link| reason(link) == "Replicating").await;

    let (code, text) = desk.link(&["status"]).await;
    assert!(code == 0 && text.contains("shop  Running  1/1"), "{text}");
    let (code, text) = desk.link(&["status", "shop"]).await;
    assert!(code == 0 && text.contains("Ready:") && text.contains("True, Replicating"), "{text}");
    let (_, text) = desk.link(&["status", "shop", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["status"]["phase"], "Running", "{text}");
    let (_, text) = desk.link(&["tables", "shop", "-o", "yaml"]).await;
    assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap()["items"][0]["metadata"]["name"], "orders", "{text}");
    let (_, text) = desk.link(&["tables", "-A", "-o", "wide"]).await;
    let line = text.lines().find(|line| line.starts_with(&format!("{} ", stage.namespace))).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[1..5], ["orders", "shop", "public.orders", "Replicating"], "{text}");
    for what in ["status", "tables"] {
        let (code, text) = desk.link(&[what, "shpo", "-A"]).await;
        assert!(code == 1 && text == "error: there is no LinkConnection shpo in any namespace\n", "{text}");
    }
    // Flags as kubectl has them.
    let (code, text) = desk.link(&["status", "shop", "--context", "elsewhere"]).await;
    assert!(code == 1 && text == "error: there is no LinkConnection shop in namespace default\n", "{text}");
    let (code, text) = desk.link(&["status", "shop", "--context", "elsewhere", "-n", &stage.namespace]).await;
    assert!(code == 0 && text.contains("Running"), "{text}");

    // A load anew is over when the worker has done it, not before.
    let mut waits = desk.start(&["reseed", "shop", "public.orders", "--wait"]);
    let plan = worker.plan_where(|plan| plan.tables[0].reseed.is_some()).await;
    let request = plan.tables[0].reseed.clone().unwrap();
    worker.loads(&plan, &uid, TablePhase::Replicating, None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(waits.try_wait().unwrap().is_none(), "nothing was loaded");
    worker.loads(&plan, &uid, TablePhase::Snapshotting, Some(&request));
    stage.becomes::<LinkTable>("orders", |table| table.status.as_ref().unwrap().last_handled_reseed_at.as_ref() == Some(&request)).await;
    assert!(waits.try_wait().unwrap().is_none(), "it is not loaded yet");
    worker.loads(&plan, &uid, TablePhase::Replicating, Some(&request));
    let (code, text) = Desk::ends(waits).await;
    assert!(code == 0 && text.ends_with("linktable/orders is loaded\n"), "{text}");
    let (code, text) = desk.link(&["reseed", "shop", "public.order"]).await;
    assert!(code == 1 && text.contains("link shop has no table public.order"), "{text}");
    assert_eq!(desk.link(&["reseed", "shop"]).await.0, 1);

    // A comparison's result is the exit code.
    for (result, code) in [("Different", 1), ("Unsettled", 1), ("Equal", 0)] {
        let waits = desk.start(&["verify", "shop", "orders", "--repair", "--wait"]);
        let plan = worker.plan_where(|plan| plan.tables[0].verify.is_some()).await;
        let asked = plan.tables[0].verify.clone().unwrap();
        assert!(asked.repair);
        worker.verified(&plan, &[(&uid, &[&asked.requested_at], result)]);
        let (ended, text) = Desk::ends(waits).await;
        assert!(ended == code && text.contains(result), "{text}");
        worker.plan_where(|plan| plan.tables[0].verify.is_none()).await;
    }
    let waits = desk.start(&["verify", "shop", "--wait"]);
    let plan = worker.plan_where(|plan| plan.verify.is_some()).await;
    worker.verified(&plan, &[(&uid, &[&plan.verify.as_ref().unwrap().requested_at], "Equal")]);
    let (code, text) = Desk::ends(waits).await;
    assert!(code == 0 && text.contains("Equal: 1 of 1 tables"), "{text}");

    let waits = desk.start(&["pause", "shop", "--wait"]);
    let drain = worker.plan_where(|plan| plan.intent == Intent::Drain).await;
    worker.report(&drain, &uid, TablePhase::Replicating, true);
    stage.becomes::<k8s_openapi::api::apps::v1::StatefulSet>("shop", |set| set.spec.as_ref().unwrap().replicas == Some(0)).await;
    stage.stop_worker(worker).await;
    let probe = stage.appears::<Pod>("shop-link-probe").await;
    stage.ends(&probe, &stage::answer(&[("SourceReachable", None)], false)).await;
    let (code, text) = Desk::ends(waits).await;
    assert!(code == 0 && text.ends_with("linkconnection/shop is Paused\n"), "{text}");
    for arguments in [&["verify", "shop", "--wait"][..], &["reseed", "shop", "--all"]] {
        let (code, text) = desk.link(arguments).await;
        assert!(code == 1 && text.contains("link shop is to be Paused: let it run first"), "{text}");
    }
    let (code, text) = desk.link(&["logs", "shop"]).await;
    assert!(code == 1 && text.contains("link shop has no worker pod now: it is Paused"), "{text}");

    let waits = desk.start(&["resume", "shop", "--wait"]);
    let worker = stage.start_worker("shop").await;
    let plan = worker.plan_where(|plan| plan.intent == Intent::Run).await;
    worker.report(&plan, &uid, TablePhase::Replicating, false);
    let (code, text) = Desk::ends(waits).await;
    assert!(code == 0 && text.ends_with("linkconnection/shop is Running\n"), "{text}");

    // What would be a full load is not done in passing; what does not come about is told.
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Stopped"}})).await;
    let (code, text) = desk.link(&["resume", "shop"]).await;
    assert!(code == 1 && text.contains("its next start is a full load"), "{text}");
    stage.merge::<LinkConnection>("shop", json!({"spec": {"state": "Running"}})).await;
    let (code, text) = desk.link(&["pause", "shop", "--wait", "--timeout", "1"]).await;
    assert!(code == 1 && text.contains("Paused of LinkConnection shop is not so after 1 s"), "{text}");
    assert_ne!(stage.api::<LinkConnection>().get("shop").await.unwrap().status.unwrap().phase, Some(LinkPhase::Paused));
    assert_eq!(stage.api::<LinkTable>().get("orders").await.unwrap().name_any(), "orders");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_linked_is_no_part_of_all_and_names_tell_a_terminal_nothing() {
    let stage = Stage::new().await;
    let desk = Desk::new(&stage).await;
    stage.zone("staging").await;
    stage.link("shop", json!({})).await;
    stage.table("orders", "shop", "orders").await;
    stage.table_with("odd", "shop", "odd\u{1b}[2J", json!({"distributionOptions": {"type": "RoundRobin"}})).await;
    let is_refused = |table: &LinkTable| {
        let conditions = table.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Accepted" && condition.status == "False")
    };
    stage.becomes::<LinkTable>("odd", is_refused).await;
    let (code, text) = desk.link(&["reseed", "shop", "--all"]).await;
    assert!(code == 0 && text.contains("linktable/orders ") && !text.contains("linktable/odd"), "{text}");
    let (code, text) = desk.link(&["reseed", "shop", "odd"]).await;
    assert!(code == 1 && text.contains("linktable/odd is not linked: ") && text.contains("without target.distributionOptions"), "{text}");
    let (_, text) = desk.link(&["tables", "shop"]).await;
    assert!(text.contains("public.odd\\u001b[2J") && !text.contains('\u{1b}'), "{text}");
}
