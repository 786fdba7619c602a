//! Nothing lost, nothing doubled: engines that are cut off at any moment, and captures that do not know of each other.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Link, planned};
use crate::support::postgres::{Database, Server};

/// Writes to the tables until told to stop: inserts, updates, deletes, key changes, rollbacks.
async fn workload(database: &Database, tables: &[&str], stop: CancellationToken) {
    let connection = database.connect().await;
    let mut round = 0;
    while !stop.is_cancelled() {
        round += 1;
        for table in tables {
            let statements = format!(
                "BEGIN; INSERT INTO {table} SELECT 1000000 + {round} * 10 + i, i, 'new', repeat('y', 3000) FROM generate_series(0, 9) i ON CONFLICT DO NOTHING;
                 UPDATE {table} SET v = v + 1 WHERE id % 97 = {round} % 97;
                 DELETE FROM {table} WHERE id % 1009 = {round} % 1009; COMMIT;
                 BEGIN; UPDATE {table} SET id = -id, note = 'moved' WHERE id % 211 = {round} % 211; COMMIT;
                 BEGIN; DELETE FROM {table}; ROLLBACK"
            );
            connection.batch_execute(&statements).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn create(database: &Database, tables: &[&str], rows: u32) {
    for table in tables {
        let sql = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v int, note text, body text); ALTER TABLE {table} ALTER body SET STORAGE EXTERNAL;
             INSERT INTO {table} SELECT i, 0, 'row ' || i, CASE WHEN i % 50 = 0 THEN repeat(md5(i::text), 100) END FROM generate_series(1, {rows}) i"
        );
        database.execute(&sql).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_cut_off_again_and_again_loses_and_doubles_nothing() {
    let tables = ["first", "second"];
    let server = Server::start();
    let link = Link::new(&server, &tables).await;
    create(&link.source, &tables, 20_000).await;
    let stop = CancellationToken::new();
    let work = async {
        // Odd waits, so that all of joining, snapshot, catch-up and applying are cut off.
        for wait in [30, 110, 170, 240, 310, 390, 470, 560, 650, 740, 830, 920, 1010] {
            let engine = link.start();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            engine.kill().await;
        }
        let mut engine = link.start();
        engine.replicating(2).await;
        for wait in [20, 90, 160, 230] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            engine.kill().await;
            engine = link.start();
        }
        stop.cancel();
        engine
    };
    let (engine, ()) = tokio::join!(work, workload(&link.source, &tables, stop.clone()));
    engine.replicating(2).await;
    for table in tables {
        link.converged(table).await;
    }
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_captures_at_once_fence_each_other() {
    let tables = ["fenced"];
    let server = Server::start();
    let link = Link::new(&server, &tables).await;
    create(&link.source, &tables, 2_000).await;
    let stop = CancellationToken::new();
    let work = async {
        let zombie = link.start();
        zombie.replicating(1).await;
        // The same worker once more: the cluster believes that the first is gone.
        let successor = link.start();
        successor.until("the successor reigns", |report| report.term.is_some()).await;
        zombie
            .until("the zombie says that it lost its term", |report| {
                report.term.is_none()
                    && report.checks.iter().any(|check| check.fault.as_ref().is_some_and(|fault| fault.reason == "TermLost"))
            })
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.cancel();
        (zombie, successor)
    };
    let ((zombie, successor), ()) = tokio::join!(work, workload(&link.source, &tables, stop.clone()));
    link.converged("fenced").await;
    zombie.kill().await;
    successor.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_made_again_behind_our_back_is_a_lost_position() {
    let server = Server::start();
    let link = Link::new(&server, &["t"]).await;
    create(&link.source, &["t"], 100).await;
    let engine = link.start();
    engine.replicating(1).await;
    engine.kill().await;

    let connection = link.source.connect().await;
    let slot: String = connection.query_one("SELECT slot_name::text FROM pg_replication_slots", &[]).await.unwrap().get(0);
    while connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active", &[]).await.unwrap()
        == 0
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    connection.batch_execute("DELETE FROM t WHERE id < 10").await.unwrap();
    connection.batch_execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await.unwrap();

    let engine = link.start();
    engine.loses_its_position("").await;

    // The remedy: a new run. Readers see the old rows until the new ones are complete.
    link.replan(|plan| plan.run = 2);
    engine.replicates_in_run(2).await;
    link.converged("t").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_link_goes_on_where_it_was() {
    let link = Link::new(Server::shared(), &["paused", "other"]).await;
    create(&link.source, &["paused", "other"], 1_000).await;
    let engine = link.start();
    engine.replicating(2).await;
    link.replan(|plan| plan.intent = link_operator::api::plan::Intent::Drain);
    engine.until("drained", |report| report.drained).await;
    link.source.execute("UPDATE paused SET v = 7; DELETE FROM other WHERE id < 100").await;
    engine.kill().await;

    let incarnation = "SELECT min(incarnation) FROM link_operator.link_progress";
    let before: i64 = link.target.connect().await.query_one(incarnation, &[]).await.unwrap().get(0);
    link.replan(|plan| {
        plan.intent = link_operator::api::plan::Intent::Run;
        plan.tables.push(planned("later", 1));
    });
    link.source.execute("CREATE TABLE later (id int PRIMARY KEY)").await;
    let engine = link.start();
    engine.replicating(3).await;
    for table in ["paused", "other"] {
        link.converged(table).await;
    }
    let after: i64 = link.target.connect().await.query_one(incarnation, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "no table was loaded again");
    engine.kill().await;
}
