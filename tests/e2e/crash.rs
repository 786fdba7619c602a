//! SIGKILL: the worker's process dies at any moment, and nothing is lost or doubled.

use std::{fs, process::Command, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::cluster::{Place, client, until};

/// Kills the worker's process; returns whether there was one.
fn kill_worker(place: &Place) -> bool {
    let Some(pod) = place.get("pod/link-0") else { return false };
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let mut killed = false;
    for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let in_pod = fs::read_to_string(process.path().join("cgroup")).is_ok_and(|cgroup| cgroup.contains(&uid));
        let worker = fs::read(process.path().join("cmdline")).is_ok_and(|command| command.starts_with(b"/usr/local/bin/link-operator"));
        if in_pod && worker {
            killed |= Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success();
        }
    }
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let place = Place::new("crash").await;
    place
        .source
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int, note text); INSERT INTO t SELECT i, 0, repeat('x', 300) FROM generate_series(1, 400000) i;
             CREATE TABLE u (id int PRIMARY KEY, v int, note text); INSERT INTO u SELECT i, 0, repeat('x', 300) FROM generate_series(1, 1000) i",
        )
        .await
        .unwrap();
    place.link(&["t", "u"]);

    let stop = CancellationToken::new();
    let writer = {
        let (stop, connection) = (stop.clone(), client("source", &place.database).await);
        tokio::spawn(async move {
            let mut round = 0;
            while !stop.is_cancelled() {
                round += 1;
                for table in ["t", "u"] {
                    let statements = format!(
                        "BEGIN; INSERT INTO {table} SELECT 1000000 + {round} * 10 + i, i FROM generate_series(0, 9) i;
                         UPDATE {table} SET v = v + 1 WHERE id % 997 = {round} % 997; DELETE FROM {table} WHERE id % 4999 = {round} % 4999; COMMIT;
                         UPDATE {table} SET id = -id WHERE id % 3001 = {round} % 3001"
                    );
                    connection.batch_execute(&statements).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            round
        })
    };

    // During the snapshot: the chunks of t are under way and not all loaded.
    until(&place.namespace, "the snapshot is under way", || {
        let table = place.table("t")?;
        (table["status"]["phase"] == "Snapshotting").then_some(())
    })
    .await;
    assert!(kill_worker(&place), "a worker runs during the snapshot");
    assert_ne!(place.table("t").unwrap()["status"]["phase"], "Replicating", "it was killed during the snapshot");
    until(&place.namespace, "the worker is back", || {
        (place.get("pod/link-0")?["status"]["containerStatuses"][0]["restartCount"] == 1).then_some(())
    })
    .await;

    // During changes.
    for table in ["t", "u"] {
        place.table_is(table, "Replicating", "").await;
    }
    for restarts in [2, 3] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(kill_worker(&place), "a worker runs during changes");
        until(&place.namespace, "the worker is back", || {
            let status = &place.get("pod/link-0")?["status"]["containerStatuses"][0];
            (status["restartCount"] == restarts && status["ready"] == true).then_some(())
        })
        .await;
    }
    stop.cancel();
    eprintln!("{} rounds of changes", writer.await.unwrap());
    for table in ["t", "u"] {
        place.converged(table).await;
    }
    place.link_is("Running", "True", "Replicating").await;
    place.done();
}
