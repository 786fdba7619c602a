//! What nobody needs any more leaves the landing zone, and nothing else does.

use std::time::Duration;

use super::Link;
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_records_go_and_a_link_goes_on_from_what_is_left() {
    let mut link = Link::new(Server::shared(), &["swept", "idle"]).await;
    link.sweep_every = Duration::from_millis(100);
    for table in ["swept", "idle"] {
        link.source
            .execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v int); INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 1000) i"
            ))
            .await;
    }
    let mut engine = link.start();
    engine.replicating(2).await;
    for round in 0..4 {
        for id in 1..30 {
            link.source.execute(&format!("UPDATE swept SET v = v + {id} WHERE id % 30 = {id}")).await;
        }
        // Without it, an idle table would keep hundreds of records: its progress moves on but now and then.
        link.source.execute("UPDATE idle SET v = v + 1").await;
        link.converged("swept").await;
        // Whoever comes next begins with a checkpoint and a log whose first records are gone.
        engine.kill().await;
        engine = link.start();
        engine.replicating(2).await;
        link.until(&format!("round {round}: few records and files are left"), |link| {
            let (records, files) = (link.records(), link.files("/data/"));
            records.first().is_some_and(|first| *first > 10) && records.len() < 30 && files.len() < 30 && link.files("/chunks/").is_empty()
        })
        .await;
    }
    link.source.execute("UPDATE idle SET v = -7; DELETE FROM swept WHERE id < 500").await;
    link.converged("swept").await;
    link.converged("idle").await;

    // A new run: nothing of the one before is left.
    engine.kill().await;
    link.replan(|plan| plan.run = 2);
    let engine = link.start();
    link.until("the old run is gone", |link| link.files("").iter().all(|path| !path.contains("_link/0000000001/"))).await;
    engine.replicating(2).await;
    link.converged("idle").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_table_has_yet_to_apply_stays() {
    let mut link = Link::new(Server::shared(), &["held"]).await;
    link.sweep_every = Duration::from_millis(100);
    link.source.execute("CREATE TABLE held (id int PRIMARY KEY, v int); INSERT INTO held SELECT i, 0 FROM generate_series(1, 100) i").await;
    let engine = link.start();
    engine.replicating(1).await;
    // The target's table cannot be written for a while: its records wait.
    let holder = link.target.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE held IN SHARE MODE").await.unwrap();
    for id in 1..60 {
        link.source.execute(&format!("UPDATE held SET v = {id} WHERE id = {id}")).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let oldest = link.gauge("link_operator_zone_oldest_record_timestamp_seconds").unwrap();
    assert!(link.gauge("link_operator_zone_records").unwrap() > 1.0);
    holder.batch_execute("ROLLBACK").await.unwrap();
    link.converged("held").await;
    let newer = |link: &Link| link.gauge("link_operator_zone_oldest_record_timestamp_seconds").is_some_and(|now| now > oldest);
    link.until("the oldest record is a newer one", newer).await;
    engine.kill().await;
}
