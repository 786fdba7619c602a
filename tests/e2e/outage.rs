//! Parts of the cluster that go away. Nothing else can be tested meanwhile: `make outage` runs these alone.

use std::{fs, path::Path, process::Command, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Place, client, condition, first_node, kubectl, until};

/// How long the API server is away, in seconds, unless the environment variable `AWAY` says otherwise.
const AWAY: u64 = 45;

/// What an administrator, or a failure, does to the cluster.
fn cluster(command: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local/cluster");
    let output = Command::new(script).arg(command).output().unwrap();
    assert!(output.status.success(), "cluster {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Brings back what was taken away, however the test ends.
struct Back(&'static str);

impl Drop for Back {
    fn drop(&mut self) {
        cluster(self.0);
    }
}

/// Whether processes of the worker run in the pod.
fn works(pod: &str) -> bool {
    fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|process| {
        let says = |file: &str, word: &str| fs::read_to_string(process.path().join(file)).is_ok_and(|text| text.contains(word));
        says("cgroup", pod) && says("cmdline", "link-operator\0worker")
    })
}

/// Writes to the source until told to stop.
async fn writer(place: &Place, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (stop, connection) = (stop.clone(), client("source", &place.database).await);
    tokio::spawn(async move {
        for round in 1.. {
            if stop.is_cancelled() {
                return;
            }
            let statements = format!(
                "BEGIN; INSERT INTO t SELECT 10000 + {round} * 10 + i, i FROM generate_series(0, 9) i;
                 UPDATE t SET v = v + 1 WHERE id % 97 = {round} % 97; DELETE FROM t WHERE id % 499 = {round} % 499; COMMIT"
            );
            connection.batch_execute(&statements).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "alone: make outage"]
async fn a_worker_of_a_dead_node_is_replaced_while_it_still_runs() {
    // The databases are on the first node.
    let first = first_node();
    let second = kubectl(&["get", "nodes", "-o", "jsonpath={.items[1].metadata.name}"]);
    let place = Place::linked("nodes").await;
    kubectl(&["cordon", &first]);
    kubectl(&["delete", "pod", "link-0", "-n", &place.namespace]);
    let uid = until(&place.namespace, "the worker is on the second node", || {
        let pod = place.get("pod/link-0")?;
        let ready = condition(&pod, "Ready")?["status"] == "True" && pod["metadata"]["deletionTimestamp"].is_null();
        (ready && pod["spec"]["nodeName"] == second.as_str()).then(|| pod["metadata"]["uid"].as_str().unwrap().to_owned())
    })
    .await;
    kubectl(&["uncordon", &first]);
    place.link_is("Running", "True", "Replicating").await;

    let stop = CancellationToken::new();
    let writing = writer(&place, &stop).await;
    cluster("node-kill");
    let back = Back("node-add");
    assert!(works(&uid), "the pods of a node without its kubelet run on");
    until(&place.namespace, "another worker is ready on the first node", || {
        let pod = place.get("pod/link-0")?;
        let ready = condition(&pod, "Ready")?["status"] == "True" && pod["metadata"]["uid"] != uid.as_str();
        (ready && pod["spec"]["nodeName"] == first.as_str()).then_some(())
    })
    .await;
    assert!(works(&uid), "the former worker was to run on");
    // Both have the source, the zone and the target. One may write.
    tokio::time::sleep(Duration::from_secs(10)).await;
    place.link_is("Running", "True", "Replicating").await;
    stop.cancel();
    writing.await.unwrap();
    place.converged("t").await;
    assert!(works(&uid), "the former worker was to run on to the end");

    drop(back);
    until(&place.namespace, "the former worker is gone", || (!works(&uid)).then_some(())).await;
    place.source.batch_execute("UPDATE t SET v = -v").await.unwrap();
    place.converged("t").await;
    place.link_is("Running", "True", "Replicating").await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "alone: make outage"]
async fn changes_arrive_while_the_api_server_is_away_and_status_catches_up() {
    let away = Duration::from_secs(std::env::var("AWAY").map_or(AWAY, |seconds| seconds.parse().unwrap()));
    let place = Place::linked("outage").await;
    let stop = CancellationToken::new();
    let writing = writer(&place, &stop).await;
    cluster("api-down");
    let back = Back("api-up");
    let until = Instant::now() + away;
    let mut arrived = 0;
    while Instant::now() < until {
        // What the source has now is in the target soon.
        let newest: i32 = place.source.query_one("SELECT max(id) FROM t", &[]).await.unwrap().get(0);
        let asked = Instant::now();
        loop {
            let there: i32 = place.target.query_one("SELECT max(id) FROM t", &[]).await.unwrap().get(0);
            if there >= newest {
                break;
            }
            assert!(asked.elapsed() < Duration::from_secs(30), "nothing arrives: {newest} in the source, {there} in the target");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        arrived += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eprintln!("in {} s without an API server the target was level with the source {arrived} times", away.as_secs());
    drop(back);

    let returned = Timestamp::now();
    crate::cluster::until(&place.namespace, "status is of a time after the outage", || {
        let link = place.get("lc/link")?;
        let as_of: Timestamp = link["status"]["consistentAsOf"].as_str()?.parse().ok()?;
        (as_of > returned && condition(&link, "Ready")?["status"] == "True").then_some(())
    })
    .await;
    stop.cancel();
    writing.await.unwrap();
    place.converged("t").await;
    place.patch("lc/link", r#"{"spec":{"state":"Paused"}}"#);
    place.link_is("Paused", "True", "Paused").await;
    place.done();
}
