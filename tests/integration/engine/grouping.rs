//! With transactional consistency, readers of the target see all tables as of one moment of the source.

use std::time::Duration;

use link_operator::api::report::TablePhase;
use tokio_util::sync::CancellationToken;

use super::{Engine, Link, planned};
use crate::support::postgres::Server;

/// Transfers between tables: in every state that the source ever committed, all tables together sum to nothing.
async fn transfers(link: &Link, stop: CancellationToken) {
    let connection = link.source.connect().await;
    let mut turn = 0;
    while !stop.is_cancelled() {
        turn += 1;
        let (many, from) = (if turn % 20 == 0 { 400 } else { 3 }, turn * 7 % 500);
        connection
            .batch_execute(&format!(
                "BEGIN; UPDATE l SET v = v + 1 WHERE id BETWEEN {from} AND {from} + {many} - 1;
                 UPDATE r SET v = v - (SELECT count(*) FROM l WHERE id BETWEEN {from} AND {from} + {many} - 1) WHERE id = {turn} % 500 + 1;
                 INSERT INTO l VALUES (1000 + {turn}, 5); INSERT INTO r VALUES (1000 + {turn}, -5);
                 DELETE FROM l WHERE id = 990 + {turn}; DELETE FROM r WHERE id = 990 + {turn}; COMMIT"
            ))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn with_tables(tables: &[&str]) -> Link {
    let link = Link::new(Server::shared(), tables).await;
    for table in ["l", "r"] {
        link.source
            .execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v int); INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 1000) i"
            ))
            .await;
    }
    link
}

async fn grouped(link: &Link) -> i64 {
    let sql = "SELECT count(*) FROM link_operator.link_status WHERE grouped AND consistent_as_of IS NOT NULL";
    link.target.connect().await.query_one(sql, &[]).await.map_or(0, |row| row.get(0))
}

async fn until_grouped(link: &Link, tables: i64) {
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    while grouped(link).await != tables {
        assert!(tokio::time::Instant::now() < deadline, "not {tables} tables in the group but {}", grouped(link).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks at both tables again and again; returns in how many different states it saw them.
async fn watch(link: &Link, looks: usize) -> usize {
    let reader = link.target.connect().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..looks {
        let sql = "SELECT (SELECT sum(v) FROM l), (SELECT sum(v) FROM r), (SELECT count(*) FROM l) - (SELECT count(*) FROM r)";
        let row = reader.query_one(sql, &[]).await.unwrap();
        let (left, right, more): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((left + right, more), (0, 0), "{left} to the left, {right} to the right, {more} rows more on the left");
        seen.insert(left);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_all_tables_as_of_one_moment() {
    let link = with_tables(&["l", "r"]).await;
    link.replan(|plan| plan.workers = 2);
    let stop = CancellationToken::new();
    let story = async {
        // Each apart, then together, while they run.
        let (mut first, mut second) = (link.start_worker(0), link.start_worker(1));
        converging(&first, &second, 2).await;
        assert_eq!(grouped(&link).await, 0);
        link.replan(|plan| plan.transactional_consistency = true);
        until_grouped(&link, 2).await;
        assert!(watch(&link, 100).await > 10, "changes arrive");
        // Whoever comes after a crash may not move one of them before the other.
        for _ in 0..3 {
            first.kill().await;
            second.kill().await;
            (first, second) = (link.start_worker(0), link.start_worker(1));
            watch(&link, 100).await;
        }
        // Another joins while they move, and then there is one worker.
        link.source.execute("CREATE TABLE third (id int PRIMARY KEY); INSERT INTO third SELECT generate_series(1, 1000)").await;
        link.replan(|plan| plan.tables.push(planned("third", 1)));
        watch(&link, 50).await;
        until_grouped(&link, 3).await;
        link.replan(|plan| plan.workers = 1);
        second.kill().await;
        watch(&link, 100).await;
        // Apart again.
        link.replan(|plan| plan.transactional_consistency = false);
        until_grouped(&link, 0).await;
        stop.cancel();
        first
    };
    let (engine, ()) = tokio::join!(story, transfers(&link, stop.clone()));
    for table in ["l", "r", "third"] {
        link.source.execute(&format!("DELETE FROM {table} WHERE id = 1")).await;
        link.converged(table).await;
    }
    engine.kill().await;
}

async fn converging(first: &Engine, second: &Engine, tables: usize) {
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    let replicating = |engine: &Engine| {
        let report = engine.report.borrow();
        report.tables.iter().filter(|table| table.phase == TablePhase::Replicating && table.consistent).count()
    };
    while replicating(first) + replicating(second) < tables {
        assert!(tokio::time::Instant::now() < deadline, "{:#?} {:#?}", *first.report.borrow(), *second.report.borrow());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_table_holds_the_others_and_a_failed_one_leaves_them() {
    let link = with_tables(&["l", "r", "big"]).await;
    link.source
        .execute(
            "CREATE TABLE big (id int PRIMARY KEY, v int, large text); ALTER TABLE big ALTER large SET STORAGE EXTERNAL;
                  INSERT INTO big SELECT i, 0, repeat('x', 5000) FROM generate_series(1, 10) i",
        )
        .await;
    link.replan(|plan| plan.transactional_consistency = true);
    let engine = link.start();
    until_grouped(&link, 3).await;

    // What heals by itself once its cause is gone.
    link.target.execute("ALTER TABLE r ADD CONSTRAINT odd CHECK (v < 1000)").await;
    link.source.execute("BEGIN; UPDATE l SET v = -1000 WHERE id = 1; UPDATE r SET v = 1000 WHERE id = 1; COMMIT").await;
    engine.table("public.r", TablePhase::Suspended, Some("TargetError")).await;
    assert_eq!(watch(&link, 20).await, 1, "none moves without the other");
    link.target.execute("ALTER TABLE r DROP CONSTRAINT odd").await;
    link.converged("r").await;
    link.converged("l").await;
    engine.replicating(3).await;

    // What needs a person: a row that its change leaves in part as it was is gone.
    link.target.execute("DELETE FROM big WHERE id = 1").await;
    link.source
        .execute("BEGIN; UPDATE big SET v = 1 WHERE id = 1; UPDATE l SET v = 1 WHERE id = 2; UPDATE r SET v = -1 WHERE id = 2; COMMIT")
        .await;
    let failed = engine.table("public.big", TablePhase::Failed, Some("TargetInconsistent")).await;
    assert!(!failed.consistent);
    link.converged("l").await;
    until_grouped(&link, 2).await;
    // Also for whoever comes after.
    engine.kill().await;
    let engine = link.start();
    link.source.execute("BEGIN; UPDATE l SET v = 7 WHERE id = 3; UPDATE r SET v = -7 WHERE id = 3; COMMIT").await;
    link.converged("l").await;
    link.converged("r").await;
    // Mended, it comes back.
    link.replan(|plan| plan.tables.iter_mut().filter(|table| table.name == "big").for_each(|table| table.reseed = Some("now".into())));
    until_grouped(&link, 3).await;
    link.converged("big").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ails_the_whole_group_moves_none_apart_and_a_removed_table_holds_nobody() {
    let link = with_tables(&["l", "r"]).await;
    link.replan(|plan| plan.transactional_consistency = true);
    let engine = link.start();
    until_grouped(&link, 2).await;

    // The link's own tables are damaged: all wait for a person, and none goes first once it is mended.
    link.target.execute("ALTER TABLE link_operator.link_progress RENAME COLUMN updated_at TO lost").await;
    let write = |round: u32| {
        format!("BEGIN; UPDATE l SET v = v + {round} WHERE id = {round}; UPDATE r SET v = v - {round} WHERE id = {round}; COMMIT")
    };
    for round in 1..50 {
        link.source.execute(&write(round)).await;
    }
    for table in ["public.l", "public.r"] {
        engine.table(table, TablePhase::Failed, Some("TargetInconsistent")).await;
    }
    assert_eq!(watch(&link, 5).await, 1);
    link.target.execute("ALTER TABLE link_operator.link_progress RENAME COLUMN lost TO updated_at").await;
    watch(&link, 100).await;
    link.converged("l").await;
    link.converged("r").await;
    engine.replicating(2).await;
    assert_eq!(grouped(&link).await, 2);

    // A table that holds the others is taken out of the link while nothing is captured any more.
    link.target.execute("ALTER TABLE r ADD CONSTRAINT odd CHECK (v > -1000)").await;
    link.source.execute("BEGIN; UPDATE l SET v = 1000 WHERE id = 60; UPDATE r SET v = -1000 WHERE id = 60; COMMIT").await;
    engine.table("public.r", TablePhase::Suspended, Some("TargetError")).await;
    link.replan(|plan| plan.intent = link_operator::api::plan::Intent::Drain);
    tokio::time::sleep(Duration::from_millis(300)).await;
    link.replan(|plan| plan.tables.retain(|table| table.name != "r"));
    engine.until("the other is applied", |report| report.drained).await;
    link.converged("l").await;
    engine.kill().await;
}
