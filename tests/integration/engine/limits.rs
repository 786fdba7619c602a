//! Limits of what the link asks of its source, changed while it runs.

use std::time::Duration;

use link_operator::{postgresql::Connected, replication::EngineReport};
use tokio::time::{Instant, sleep};

use super::{Engine, Link, PATIENCE};
use crate::support::postgres::Server;

/// How long the server may take to notice that a session was closed.
const NOTICE: Duration = Duration::from_secs(3);

/// The sessions that the link has in its source.
async fn sessions(session: &Connected) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'link-operator'";
    session.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until there are no more sessions than that.
async fn at_most(session: &Connected, most: i64, patience: Duration) {
    let until = Instant::now() + patience;
    loop {
        let now = sessions(session).await;
        if now <= most {
            return;
        }
        assert!(Instant::now() < until, "{now} sessions, {most} may be");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_changed_while_a_snapshot_runs() {
    let server = Server::start();
    let mut link = Link::new(&server, &["large", "lively"]).await;
    link.memory = 8 << 30;
    link.source
        .execute(
            "CREATE TABLE large (id int PRIMARY KEY, v int, body text); ALTER TABLE large ALTER body SET STORAGE PLAIN;
             INSERT INTO large SELECT i, 0, repeat(md5(i::text), 60) FROM generate_series(1, 20000) i;
             CREATE TABLE lively (id int PRIMARY KEY, v int); INSERT INTO lively SELECT i, 0 FROM generate_series(1, 100) i",
        )
        .await;
    link.replan(|plan| {
        plan.cores_per_worker = 8;
        // A byte a second: it would take months.
        plan.bounds.max_snapshot_rate = Some(1);
    });
    let engine = link.start();
    let session = link.source.connect().await;
    let until = Instant::now() + PATIENCE;
    while sessions(&session).await < 9 {
        assert!(Instant::now() < until, "{} sessions: nothing to bound", sessions(&session).await);
        sleep(Duration::from_millis(10)).await;
    }

    // While the rate is a byte a second, whoever reads a chunk stays, and the sessions can be counted.
    for most in [6, 5, 8] {
        let before = chunks(&engine);
        link.replan(|plan| {
            plan.bounds.max_connections = Some(most);
            plan.bounds.max_snapshot_rate = Some(4 << 20);
        });
        engine.until("chunks are read within the limits", |report| chunks_of(report) > before + 15).await;
        link.replan(|plan| plan.bounds.max_snapshot_rate = Some(1));
        for round in 0..30 {
            at_most(&session, i64::from(most), NOTICE).await;
            session.batch_execute("UPDATE lively SET v = v + 1; UPDATE large SET v = v + 1 WHERE id % 100 = 1").await.unwrap();
            sleep(Duration::from_millis(10 + round)).await;
        }
    }
    link.replan(|plan| plan.bounds.max_snapshot_rate = None);
    engine.replicating(2).await;
    for table in ["large", "lively"] {
        link.converged(table).await;
    }
    engine.kill().await;
}

/// The log piles up while the zone cannot be reached, and the process starts anew in the midst of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_log_is_given_up_also_where_the_zone_was_never_reached() {
    let link = Link::new(Server::shared(), &["t"]).await;
    link.source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let engine = link.start();
    engine.replicating(1).await;
    engine.kill().await;
    link.replan(|plan| (plan.bounds.max_retained_log, plan.bounds.give_up) = (Some(1 << 20), true));
    link.source.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, 3)").await;
    let session = link.source.connect().await;
    let slots = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        session.query_one(sql, &[]).await.unwrap().get(0)
    };

    link.without_zone(async {
        // Another LinkConnection of the same id: the slot is not its own.
        let ours = link.plan.borrow().link.uid.clone();
        link.replan(|plan| plan.link.uid = "another".into());
        let engine = link.start();
        let silent = |report: &EngineReport| report.checks.iter().any(|check| check.name == "ZoneReadable" && check.fault.is_some());
        engine.until("the zone cannot be read", silent).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!((slots().await, &engine.report.borrow().position_lost), (1, &None));
        engine.kill().await;

        link.replan(|plan| plan.link.uid = ours);
        let engine = link.start();
        let lost = |report: &EngineReport| {
            report.position_lost.as_ref().is_some_and(|lost| (lost.run, lost.fault.reason.as_str()) == (1, "PositionGivenUp"))
        };
        engine.until("the position is given up", lost).await;
        assert_eq!(slots().await, 0);
        engine.kill().await;
    })
    .await;
    link.replan(|plan| (plan.run, plan.bounds.give_up) = (2, false));
    let engine = link.start();
    engine.replicates_in_run(2).await;
    engine.kill().await;
}

fn chunks(engine: &Engine) -> i64 {
    chunks_of(&engine.report.borrow())
}

/// Chunks that were loaded.
fn chunks_of(report: &EngineReport) -> i64 {
    report.tables.iter().filter_map(|table| table.snapshot.as_ref()).map(|snapshot| snapshot.chunks_done).sum()
}
