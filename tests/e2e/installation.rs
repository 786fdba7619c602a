//! The installation itself: what `helm test` says of it, and two replicas that are both ready.

use std::process::Command;

use crate::cluster::{kubectl, until};

/// Namespace and name of the release.
const OPERATOR: &str = "link-operator";

fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("helm").args(["--namespace", OPERATOR]).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn ready_replicas() -> String {
    kubectl(&["get", "deployment", OPERATOR, "-n", OPERATOR, "-o", "jsonpath={.status.readyReplicas}/{.spec.replicas}"])
}

#[tokio::test]
async fn helm_test_passes_and_of_two_replicas_both_are_ready() {
    helm(&["test", OPERATOR, "--timeout", "2m"]).unwrap();
    let before = ready_replicas();
    kubectl(&["scale", "deployment", OPERATOR, "-n", OPERATOR, "--replicas=2"]);
    until(OPERATOR, "both replicas are ready", || (ready_replicas() == "2/2").then_some(())).await;
    helm(&["test", OPERATOR, "--timeout", "2m"]).unwrap();
    kubectl(&["scale", "deployment", OPERATOR, "-n", OPERATOR, "--replicas=1"]);
    until(OPERATOR, "one replica is ready", || (ready_replicas() == "1/1").then_some(())).await;
    assert_eq!(before, "1/1");
}
