//! The source fails over, and workers come back that slept through more than they know.

use std::sync::Arc;

use link_operator::api::report::TablePhase;
use tokio::sync::watch;

use super::Link;
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_behind_is_a_lost_position() {
    let (mut primary, targets) = (Server::start(), Server::shared());
    let mut link = Link::new(&primary, &["t"]).await;
    link.target = targets.create_database().await;
    let target = link.target.spec.clone();
    link.replan(|plan| plan.target.postgresql.as_mut().unwrap().database = target);
    link.source.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i").await;
    let engine = link.start();
    engine.replicating(1).await;

    // The standby hears nothing of what the link has read already.
    let mut standby = primary.standby();
    standby.pause();
    link.source.execute("INSERT INTO t VALUES (1000, 0)").await;
    link.converged("t").await;
    engine.kill().await;
    primary.pause();
    standby.resume();
    link.source.spec.port = standby.port;
    link.source.execute("SELECT pg_promote()").await;
    let port = standby.port;
    link.replan(|plan| plan.source.postgresql.as_mut().unwrap().port = port);
    let engine = link.start();
    engine.loses_its_position("was promoted or restored").await;
    engine.kill().await;

    // Also when somebody made the slot where it was missing: the row that only the former primary had would stay for ever.
    let slot = "SELECT slot_name::text FROM pg_replication_slots";
    let connection = link.source.connect().await;
    assert!(connection.query_opt(slot, &[]).await.unwrap().is_none());
    let publication: String = connection.query_one("SELECT pubname::text FROM pg_publication", &[]).await.unwrap().get(0);
    connection.batch_execute(&format!("SELECT pg_create_logical_replication_slot('{publication}', 'pgoutput')")).await.unwrap();
    let engine = link.start();
    engine.loses_its_position("was promoted or restored").await;
    // The remedy.
    link.replan(|plan| plan.run = 2);
    engine.replicates_in_run(2).await;
    link.converged("t").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_that_comes_back_after_a_full_reload_changes_nothing() {
    let server = Server::start();
    let link = Link::new(&server, &["t"]).await;
    link.source.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i").await;
    let old = Arc::clone(&link.plan.borrow());
    let (_plans, old) = watch::channel(old);
    let zombie = link.start_under(0, old);
    zombie.replicating(1).await;

    // Whoever made the new run believes that the old worker is gone; it hears of nothing and goes on as it was told.
    link.replan(|plan| plan.run = 2);
    let successor = link.start();
    successor.replicates_in_run(2).await;
    for round in 0..10 {
        link.source.execute(&format!("UPDATE t SET v = {round} WHERE id % 10 = {round}; DELETE FROM t WHERE id = {round} * 7 + 1")).await;
        link.converged("t").await;
    }
    successor.until("the successor still captures", |report| report.term.is_some()).await;
    zombie.until("the zombie has no term", |report| report.term.is_none()).await;
    let runs = "SELECT DISTINCT run FROM link_operator.link_progress";
    assert_eq!(link.target.connect().await.query_one(runs, &[]).await.unwrap().get::<_, i64>(0), 2);
    zombie.kill().await;
    successor.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_down_holds_none_of_the_sources_log() {
    let (source, mut target) = (Server::start(), Server::start());
    let mut link = Link::new(&source, &["t"]).await;
    link.target = target.create_database().await;
    let spec = link.target.spec.clone();
    link.replan(|plan| plan.target.postgresql.as_mut().unwrap().database = spec);
    link.source.execute("CREATE TABLE t (id int PRIMARY KEY, body text)").await;
    let engine = link.start();
    engine.replicating(1).await;

    target.pause();
    for round in 0..5 {
        let rows =
            format!("INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series({round} * 10000, {round} * 10000 + 9999) i");
        link.source.execute(&rows).await;
    }
    engine.table("public.t", TablePhase::Suspended, Some("TargetUnreachable")).await;
    let connection = link.source.connect().await;
    let written: i64 = connection.query_one("SELECT pg_total_relation_size('t')", &[]).await.unwrap().get(0);
    let retained = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots";
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    while connection.query_one(retained, &[]).await.unwrap().get::<_, i64>(0) > written / 20 {
        assert!(tokio::time::Instant::now() < deadline, "the source keeps its log");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    target.resume();
    link.converged("t").await;
    engine.replicating(1).await;
    engine.kill().await;
}
