//! The installation itself: what `helm test` says of it, two replicas that are both ready, and who gets to the page.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::cluster::{kubectl, try_kubectl, until};

/// Namespace and name of the release.
pub const OPERATOR: &str = "link-operator";

pub fn helm(namespace: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("helm").args(["--namespace", namespace]).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn ready_replicas() -> String {
    kubectl(&["get", "deployment", OPERATOR, "-n", OPERATOR, "-o", "jsonpath={.status.readyReplicas}/{.spec.replicas}"])
}

/// Held by a test that adds and removes replicas, and by one that needs there to be one.
static REPLICAS: Mutex<()> = Mutex::const_new(());

/// Addresses of the controller's pods that have one, also of those that are about to end.
fn addresses() -> Vec<IpAddr> {
    let selected = ["-l", "app.kubernetes.io/component=controller", "-o", "jsonpath={.items[*].status.podIP}"];
    let told = kubectl(&[["get", "pods", "-n", OPERATOR].as_slice(), &selected].concat());
    told.split_whitespace().map(|address| address.parse().unwrap()).collect()
}

#[tokio::test]
async fn helm_test_passes_and_of_two_replicas_both_are_ready() {
    let _held = REPLICAS.lock().await;
    helm(OPERATOR, &["test", OPERATOR, "--timeout", "2m"]).unwrap();
    let before = ready_replicas();
    kubectl(&["scale", "deployment", OPERATOR, "-n", OPERATOR, "--replicas=2"]);
    until(OPERATOR, "both replicas are ready", || (ready_replicas() == "2/2").then_some(())).await;
    helm(OPERATOR, &["test", OPERATOR, "--timeout", "2m"]).unwrap();
    kubectl(&["scale", "deployment", OPERATOR, "-n", OPERATOR, "--replicas=1"]);
    until(OPERATOR, "one replica is left", || (ready_replicas() == "1/1" && addresses().len() == 1).then_some(())).await;
    assert_eq!(before, "1/1");
}

/// A `kubectl port-forward`, as long as it lasts.
struct Forwarding(Child);

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_page_is_behind_the_api_server() {
    let _held = REPLICAS.lock().await;
    let forward = ["port-forward", "-n", OPERATOR, "deployment/link-operator", ":8090"];
    let mut forwarding = Forwarding(Command::new("kubectl").args(forward).stdout(Stdio::piped()).spawn().unwrap());
    // Kept: kubectl ends when it can no longer tell of connections.
    let mut told = BufReader::new(forwarding.0.stdout.take().unwrap());
    let mut said = String::new();
    told.read_line(&mut said).unwrap();
    let address = said.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap_or_else(|| panic!("{said}"));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/api/links");
    let answers = async || http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200);
    let patience = Instant::now() + Duration::from_mins(1);
    while !answers().await {
        assert!(Instant::now() < patience, "{url} does not answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // Who may look at everything else in the namespace may not do that.
    kubectl(&["create", "rolebinding", "viewer", "-n", OPERATOR, "--clusterrole=view", "--user=viewer"]);
    let refused = try_kubectl(&[forward.as_slice(), &["--as=viewer"]].concat(), "").unwrap_err();
    kubectl(&["delete", "rolebinding", "viewer", "-n", OPERATOR]);
    assert!(refused.contains("pods/portforward"), "{refused}");

    // At the pod's address there are health and metrics alone.
    let [ip] = addresses()[..] else { panic!("one replica") };
    let answers = |port: u16| TcpStream::connect_timeout(&SocketAddr::new(ip, port), Duration::from_secs(3)).is_ok();
    assert_eq!((answers(8080), answers(8090)), (true, false));
}
