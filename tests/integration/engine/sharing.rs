//! Several workers share the work of one link.

use super::Link;
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_tables_and_chunks_and_then_one_does_it_all() {
    let tables = ["a", "b", "c", "d", "e"];
    let link = Link::new(Server::shared(), &tables).await;
    for table in tables {
        link.source
            .execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, pad text); INSERT INTO {table} SELECT i, repeat('x', 200) FROM generate_series(1, 5000) i"))
            .await;
    }
    link.replan(|plan| plan.workers = 2);
    let (first, second) = (link.start_worker(0), link.start_worker(1));
    let all = |report: &link_operator::replication::EngineReport| {
        !report.tables.is_empty() && report.tables.iter().all(|table| table.phase == link_operator::api::report::TablePhase::Replicating)
    };
    let one = first.until("the first worker's tables replicate", all).await.tables.len();
    let two = second.until("the second worker's tables replicate", all).await.tables.len();
    assert_eq!(one + two, 5, "each table is reported once");
    for table in tables {
        link.source.execute(&format!("UPDATE {table} SET pad = 'y' WHERE id % 3 = 0")).await;
        link.converged(table).await;
    }

    link.replan(|plan| plan.workers = 1);
    second.kill().await;
    for table in tables {
        link.source.execute(&format!("DELETE FROM {table} WHERE id % 3 = 0")).await;
        link.converged(table).await;
    }
    first.replicating(5).await;
    first.kill().await;
}
