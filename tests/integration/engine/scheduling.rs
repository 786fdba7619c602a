//! Batches: their end is fixed when they begin, and they were read once all is captured up to there, loads included.

use std::time::Duration;

use jiff::Timestamp;
use link_operator::api::{plan::Intent, report::TablePhase, verification::VerifyRequest};

use super::{Engine, Link, planned};
use crate::support::postgres::Server;

/// Begins the batch of that number, in a worker that has just come.
fn begin(link: &Link, number: i64) -> (Engine, Timestamp) {
    let batch = Timestamp::from_second(1_700_000_000 + number).unwrap();
    link.replan(|plan| (plan.intent, plan.batch) = (Intent::Run, Some(batch)));
    (link.start(), batch)
}

/// Ends it as the controller does.
async fn end(link: &Link, engine: Engine) {
    link.replan(|plan| plan.intent = Intent::Drain);
    engine.until("drained", |report| report.drained).await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_brings_the_target_to_where_the_source_was_when_it_began() {
    let link = Link::new(Server::shared(), &["t", "keyless"]).await;
    link.source
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 20000) i;
             CREATE TABLE keyless (v int)",
        )
        .await;
    let (engine, batch) = begin(&link, 1);
    let report = engine.until("the batch was read", |report| report.batch_done == Some(batch)).await;
    // What needs a person is not waited for.
    assert!(report.tables.iter().any(|table| table.uid.starts_with("public.keyless") && table.phase == TablePhase::Failed));
    // Its load is part of it.
    engine.table("public.t", TablePhase::Replicating, None).await;
    end(&link, engine).await;
    link.converged("t").await;

    // Nobody works, and changes come.
    link.source.execute("UPDATE t SET v = 1 WHERE id <= 10000; DELETE FROM t WHERE id > 19000").await;
    let (engine, batch) = begin(&link, 2);
    engine.until("the second batch is done", |report| report.batch_done == Some(batch)).await;
    end(&link, engine).await;
    link.converged("t").await;
    assert_eq!(link.loads("t"), 1);

    // What a batch is asked for while it lasts belongs to it: a comparison, and a table whose load waits.
    let (engine, batch) = begin(&link, 3);
    engine.until("the third batch is done", |report| report.batch_done == Some(batch)).await;
    link.source.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await;
    let blocker = link.source.connect().await;
    blocker.batch_execute("BEGIN; INSERT INTO t VALUES (30000, 0)").await.unwrap();
    link.replan(|plan| {
        plan.tables.push(planned("late", 1));
        plan.tables[0].verify = Some(VerifyRequest { requested_at: "now".to_owned(), repair: false });
    });
    engine.table("public.late", TablePhase::Waiting, Some("OpenTransaction")).await;
    assert_eq!(engine.report.borrow().batch_done, None);
    blocker.batch_execute("COMMIT").await.unwrap();
    let report = engine.until("it is done again", |report| report.batch_done == Some(batch)).await;
    assert_eq!(report.verifications.len(), 1);
    engine.replicating(2).await;
    end(&link, engine).await;
    link.converged("late").await;
    link.converged("t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_begins_while_workers_are_there_has_an_end_of_its_own() {
    let link = Link::new(Server::shared(), &["t"]).await;
    link.source.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)").await;
    let (engine, first) = begin(&link, 1);
    engine.until("the batch is done", |report| report.batch_done == Some(first)).await;
    let second = first.checked_add(Duration::from_mins(1)).unwrap();
    link.source.execute("UPDATE t SET v = 1").await;
    link.replan(|plan| plan.batch = Some(second));
    engine.until("the next batch is done", |report| report.batch_done == Some(second)).await;
    end(&link, engine).await;
    link.converged("t").await;
}
