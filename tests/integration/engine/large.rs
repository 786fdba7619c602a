//! Large transactions, which the source sends while they are still open.

use std::time::Duration;

use super::Link;
use crate::support::postgres::Server;

/// Rows of about 1.3 kB.
fn fill(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO large SELECT i, i % 7, (SELECT string_agg(md5((i * 100 + j)::text), '') FROM generate_series(1, 40) j)
         FROM generate_series({from}, {to}) i"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_waits_in_the_zone_and_holds_nobody() {
    // All but the smallest are sent at once.
    let server = Server::start_with(&["logical_decoding_work_mem=64kB"]);
    let mut link = Link::new(&server, &["large", "small"]).await;
    link.sweep_every = Duration::from_millis(200);
    link.source.execute("CREATE TABLE large (id int PRIMARY KEY, v int, body text); CREATE TABLE small (id int PRIMARY KEY)").await;
    let engine = link.start();
    engine.replicating(2).await;

    let open = link.source.connect().await;
    open.batch_execute(&format!("BEGIN; {}", fill(1, 14_000))).await.unwrap();
    link.source.execute("INSERT INTO small SELECT generate_series(1, 1000)").await;
    link.converged("small").await;
    link.until("it waits in the zone", |link| !link.files("/stream/").is_empty()).await;
    // What was rolled back to a savepoint never was, nor were the columns that it had.
    open.batch_execute(&format!(
        "SAVEPOINT a; {}; UPDATE large SET v = -1 WHERE id < 5000; SAVEPOINT b; DELETE FROM large",
        fill(20_001, 34_000)
    ))
    .await
    .unwrap();
    open.batch_execute("ROLLBACK TO a; SAVEPOINT c; UPDATE large SET v = v + 1, id = id + 100000 WHERE id % 3 = 0; RELEASE c")
        .await
        .unwrap();
    open.batch_execute(&format!(
        "SAVEPOINT d; {}; ROLLBACK TO d; DELETE FROM large WHERE id % 10 = 0; {}",
        fill(40_001, 41_000),
        fill(50_001, 51_000)
    ))
    .await
    .unwrap();
    // Others commit in between, also to its table.
    link.source.execute("INSERT INTO large VALUES (-1, 0, 'between'); DELETE FROM small WHERE id % 2 = 0").await;
    link.converged("small").await;
    open.batch_execute("UPDATE large SET v = 100 WHERE id BETWEEN 1 AND 50; COMMIT").await.unwrap();
    link.converged("large").await;

    // One that is rolled back leaves nothing.
    open.batch_execute(&format!("BEGIN; {}", fill(60_001, 80_000))).await.unwrap();
    link.until("it waits in the zone", |link| !link.files("/stream/").is_empty()).await;
    open.batch_execute("ROLLBACK").await.unwrap();
    link.source.execute("INSERT INTO large VALUES (-2, 0, 'after')").await;
    link.converged("large").await;
    link.until("nothing of it is left", |link| link.files("/stream/").is_empty()).await;

    let sql = "SELECT sum(stream_txns)::bigint, sum(spill_txns)::bigint FROM pg_stat_replication_slots";
    let mut statistics = (0, 0);
    while statistics.0 < 2 {
        let row = open.query_one(sql, &[]).await.unwrap();
        statistics = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(statistics.1, 0, "the source keeps nothing on its own disk");

    // The capture that kept its part is gone; the source sends all of it to the next.
    open.batch_execute(&format!("BEGIN; {}", fill(60_001, 80_000))).await.unwrap();
    link.until("it waits in the zone", |link| !link.files("/stream/").is_empty()).await;
    engine.kill().await;
    let engine = link.start();
    open.batch_execute("DELETE FROM large WHERE id % 4 = 0; COMMIT").await.unwrap();
    link.converged("large").await;
    link.until("nothing of either is left", |link| link.files("/stream/").is_empty()).await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_columns_that_is_taken_back_to_a_savepoint_never_was() {
    let server = Server::start_with(&["logical_decoding_work_mem=64kB"]);
    let link = Link::new(&server, &["large"]).await;
    link.source.execute("CREATE TABLE large (id int PRIMARY KEY, v int, body text)").await;
    let engine = link.start();
    engine.replicating(1).await;

    // PostgreSQL 15 cannot decode this while it is open.
    let open = link.source.connect().await;
    open.batch_execute(&format!("BEGIN; {}; SAVEPOINT a; ALTER TABLE large ADD odd int; UPDATE large SET odd = v", fill(1, 2_000)))
        .await
        .unwrap();
    open.batch_execute(&format!("ROLLBACK TO a; {}; COMMIT", fill(2_001, 3_000))).await.unwrap();
    link.converged("large").await;

    // What was told of the table in what was taken back is not what others see.
    open.batch_execute(&format!("BEGIN; SAVEPOINT a; {}; ROLLBACK TO a", fill(10_001, 12_000))).await.unwrap();
    link.source.execute("ALTER TABLE large ADD more int DEFAULT 7; INSERT INTO large VALUES (-1, 0, 'new', 8)").await;
    link.converged("large").await;
    open.batch_execute("INSERT INTO large VALUES (-2, 0, 'newer', 9); COMMIT").await.unwrap();
    link.converged("large").await;
    engine.replicating(1).await;
    engine.kill().await;
}

/// More than a message may have, in parts: bytes, JSON, and text full of what COPY escapes.
const DOCUMENT: &str = "decode(repeat(md5(i::text), 600000), 'hex'), to_jsonb(repeat(md5(i::text), 60000)), \
     repeat(E'tab\\t back\\\\slash\\n\\\\N ' || i || chr(8364), 80000)";

async fn values_stand_beside_their_rows(more_column: &str, more_value: &str) {
    let server = Server::start_with(&["logical_decoding_work_mem=64kB"]);
    let mut link = Link::new(&server, &["documents", "whole"]).await;
    link.sweep_every = Duration::from_millis(200);
    let columns = format!("(id int PRIMARY KEY, v int, body bytea, doc jsonb, tale text{more_column})");
    let document = |from: u32, to: u32| format!("SELECT i, 0, {DOCUMENT}{more_value} FROM generate_series({from}, {to}) i");
    link.source
        .execute(&format!(
            "CREATE TABLE documents {columns}; INSERT INTO documents {}; CREATE TABLE whole {columns}; ALTER TABLE whole REPLICA IDENTITY FULL;
             INSERT INTO documents SELECT i, 0, 'small', '{{}}', 'small' FROM generate_series(3, 100) i; INSERT INTO whole {}",
            document(1, 2),
            document(1, 1)
        ))
        .await;
    let engine = link.start();
    engine.replicating(2).await;
    link.converged("documents").await;
    link.converged("whole").await;

    // What is not changed is not sent but of a table that is known by its whole rows; what is rolled back never was.
    let beside = |link: &Link| link.files("/data/").iter().filter(|path| path.contains(".value.")).count();
    link.until("those of the snapshot are swept", |link| beside(link) == 0).await;
    link.replan(|plan| plan.retention_seconds = 3600);
    link.source
        .execute(&format!(
            "INSERT INTO documents {}; UPDATE documents SET v = 1; UPDATE documents SET id = -id WHERE id = 1; DELETE FROM documents WHERE id = 2;
             UPDATE whole SET v = 1; UPDATE whole SET tale = 'short', id = 7;
             BEGIN; SAVEPOINT a; INSERT INTO documents {}; ROLLBACK TO a; INSERT INTO documents {}; COMMIT",
            document(101, 101),
            document(201, 201),
            document(301, 301)
        ))
        .await;
    link.converged("documents").await;
    link.converged("whole").await;
    assert!(beside(&link) > 0, "they came through the zone");
    // They go with the records that name them; what none names, with the term.
    link.replan(|plan| plan.retention_seconds = 0);
    engine.kill().await;
    let engine = link.start();
    for id in 1000..1006 {
        link.source.execute(&format!("INSERT INTO documents VALUES ({id}, 0)")).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    link.until("nothing of them is left", |link| beside(link) == 0).await;
    link.converged("documents").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_too_large_for_memory_stand_beside_their_rows() {
    values_stand_beside_their_rows("", "").await;
}

/// With a column whose values come only as text, and so do all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_too_large_for_memory_stand_beside_their_rows_as_text() {
    values_stand_beside_their_rows(", list int[]", ", ARRAY(SELECT j * i FROM generate_series(1, 100000) j)").await;
}
