//! Cores become pods.

use crate::cluster::{Place, kubectl, until};

#[tokio::test(flavor = "multi_thread")]
async fn more_cores_are_more_pods_and_restart_nobody() {
    let place = Place::new("scale").await;
    let tables = ["a", "b", "c", "d"];
    for table in tables {
        let sql =
            format!("CREATE TABLE {table} (id int PRIMARY KEY, v int); INSERT INTO {table} SELECT i, i FROM generate_series(1, 1000) i");
        place.source.batch_execute(&sql).await.unwrap();
    }
    place.link(&tables);
    place.link_is("Running", "True", "Replicating").await;
    let identity = || {
        let pod = place.get("pod/link-0")?;
        Some((pod["metadata"]["uid"].clone(), pod["status"]["containerStatuses"][0]["restartCount"].clone()))
    };
    let before = identity().unwrap();

    // The cluster has few cores: one core a worker. That 8 cores are two pods of four is shown on the API server alone.
    kubectl(&["scale", "lc/link", "-n", &place.namespace, "--replicas=2"]);
    until(&place.namespace, "two workers are ready", || (place.get("lc/link")?["status"]["workers"]["ready"] == 2).then_some(())).await;
    place.link_is("Running", "True", "Replicating").await;
    assert_eq!(identity().unwrap(), before, "the first worker is the same, and was not restarted");
    for table in tables {
        place.source.batch_execute(&format!("UPDATE {table} SET v = -v; DELETE FROM {table} WHERE id % 7 = 0")).await.unwrap();
    }
    for table in tables {
        place.converged(table).await;
    }

    kubectl(&["scale", "lc/link", "-n", &place.namespace, "--replicas=1"]);
    until(&place.namespace, "one worker is left", || (place.get("lc/link")?["status"]["workers"]["desired"] == 1).then_some(())).await;
    for table in tables {
        place.source.batch_execute(&format!("UPDATE {table} SET v = 1 WHERE id % 5 = 0")).await.unwrap();
    }
    for table in tables {
        place.converged(table).await;
    }
    assert_eq!(identity().unwrap(), before);
    place.done();
}
