//! Tables join and leave a running link, also while transactions that touched them are open.

use link_operator::api::report::TablePhase;

use super::{Link, PATIENCE, planned};
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_waits_for_transactions_that_were_open_when_it_joined() {
    let server = Server::start();
    let link = Link::new(&server, &["busy"]).await;
    link.source.execute("CREATE TABLE busy (id int PRIMARY KEY); INSERT INTO busy SELECT generate_series(1, 100)").await;
    let open = link.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO busy VALUES (1000)").await.unwrap();

    let engine = link.start();
    let waits = engine.table("public.busy", TablePhase::Waiting, Some("OpenTransaction")).await;
    assert!(waits.waiting.unwrap().message.contains("test"), "names who is waited for");
    open.batch_execute("INSERT INTO busy VALUES (1001); COMMIT").await.unwrap();
    engine.replicating(1).await;
    link.converged("busy").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_join_and_leave_without_effect_on_the_others() {
    let link = Link::new(Server::shared(), &["stays"]).await;
    link.source
        .execute("CREATE TABLE stays (id int PRIMARY KEY, v int); INSERT INTO stays SELECT i, i FROM generate_series(1, 1000) i")
        .await;
    link.source
        .execute("CREATE TABLE comes (id int PRIMARY KEY, v int); INSERT INTO comes SELECT i, i FROM generate_series(1, 1000) i")
        .await;
    let engine = link.start();
    engine.replicating(1).await;

    link.replan(|plan| plan.tables.push(planned("comes", 1)));
    link.source.execute("UPDATE comes SET v = -v WHERE id < 500; UPDATE stays SET v = -v").await;
    engine.replicating(2).await;
    link.converged("comes").await;
    link.converged("stays").await;

    // Whoever builds an index holds the table in the publication meanwhile.
    let index = link.source.connect().await;
    index.batch_execute("BEGIN; LOCK TABLE comes IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    link.replan(|plan| plan.tables.retain(|table| table.source.table_name != "comes"));
    engine.until("the table is gone from the report", |report| report.tables.len() == 1).await;
    link.cannot_silence(Server::shared(), "comes").await;
    index.batch_execute("COMMIT").await.unwrap();
    let published = "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'comes'";
    let connection = link.source.connect().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while connection.query_one(published, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(tokio::time::Instant::now() < deadline, "the table stays in the publication");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    link.source.execute("DELETE FROM comes; INSERT INTO stays VALUES (-1, -1)").await;
    link.converged("stays").await;
    assert_eq!(Link::rows(&link.target, "comes").await.unwrap().len(), 1000, "the target's table stays as it was");
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_linked_says_why_and_heals_once_mended() {
    let link = Link::new(Server::shared(), &["absent", "keyless", "taken"]).await;
    link.source.execute("CREATE TABLE keyless (id int); INSERT INTO keyless VALUES (1); CREATE TABLE taken (id int PRIMARY KEY)").await;
    link.target.execute("CREATE TABLE taken (x int)").await;
    let engine = link.start();
    for (table, reason) in [("absent", "SourceTableMissing"), ("keyless", "NoPrimaryKey"), ("taken", "TargetTableExists")] {
        let report = engine.table(&format!("public.{table}"), TablePhase::Failed, Some(reason)).await;
        assert!(report.error.is_some_and(|fault| !fault.remedy.is_empty()));
    }
    link.source.execute("CREATE TABLE absent (id int PRIMARY KEY); ALTER TABLE keyless ADD PRIMARY KEY (id)").await;
    link.target.execute("DROP TABLE taken").await;
    engine.replicating(3).await;
    link.converged("keyless").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrite_between_two_chunks_starts_the_snapshot_over() {
    let server = Server::start();
    let link = Link::new(&server, &["moved"]).await;
    link.source.execute("CREATE TABLE moved (id int PRIMARY KEY, pad text); INSERT INTO moved SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i").await;
    link.source.execute("DELETE FROM moved WHERE id % 2 = 0").await;
    let engine = link.start();
    // The first chunks are in, more are to come: VACUUM FULL moves rows from those to these.
    engine
        .until("some chunks are loaded", |report| {
            report.tables.iter().any(|table| table.snapshot.as_ref().is_some_and(|snapshot| snapshot.chunks_done > 0))
                || report.tables.iter().any(|table| table.rows > 0)
        })
        .await;
    link.source.execute("VACUUM FULL moved").await;
    engine.replicating(1).await;
    link.converged("moved").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_another_link_is_left_alone() {
    let link = Link::new(Server::shared(), &["mine"]).await;
    link.source.execute("CREATE TABLE mine (id int PRIMARY KEY)").await;
    let engine = link.start();
    engine.replicating(1).await;
    engine.kill().await;

    link.replan(|plan| plan.link.uid = "another".into());
    let engine = link.start();
    let refused = |report: &link_operator::replication::EngineReport| {
        report.checks.iter().any(|check| check.fault.as_ref().is_some_and(|fault| fault.reason == "ZoneNotEmpty" && !fault.heals))
    };
    engine.until("the folder is refused", refused).await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_waits_without_effect_on_the_others() {
    let link = Link::new(Server::shared(), &["locked", "free"]).await;
    link.source
        .execute("CREATE TABLE locked (id int PRIMARY KEY); INSERT INTO locked VALUES (1); CREATE TABLE free (id int PRIMARY KEY); INSERT INTO free VALUES (1)")
        .await;
    // As CREATE INDEX CONCURRENTLY does for as long as it takes.
    let locker = link.source.connect().await;
    locker.batch_execute("BEGIN; LOCK TABLE locked IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let engine = link.start();
    let report = engine.table("public.locked", TablePhase::Suspended, Some("SourceTableLocked")).await;
    assert!(report.error.is_some_and(|fault| fault.heals && fault.remedy.contains("pg_locks")));
    engine.table("public.free", TablePhase::Replicating, None).await;
    link.converged("free").await;
    locker.batch_execute("COMMIT").await.unwrap();
    engine.replicating(2).await;
    link.converged("locked").await;
    engine.kill().await;
}
