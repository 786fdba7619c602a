//! Partitioned tables, linked as one, and tables whose rows are known by another index than the primary key.

use std::time::Duration;

use link_operator::api::{link_connection::BreakingChange, report::TablePhase};

use super::{Link, planned};
use crate::support::postgres::Server;

const EVENTS: &str = "
    CREATE TABLE events (id int, at int, v text, body text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
    ALTER TABLE events ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
    -- Other columns in another order.
    CREATE TABLE events_2 (gone int, body text, v text, at int NOT NULL, id int NOT NULL);
    ALTER TABLE events_2 DROP gone, ALTER body SET STORAGE EXTERNAL;
    ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (100) TO (200);
    CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (200) TO (300) PARTITION BY LIST (id);
    CREATE TABLE events_3a PARTITION OF events_3 FOR VALUES IN (1, 2, 3);
    CREATE TABLE events_3b PARTITION OF events_3 DEFAULT;
    INSERT INTO events SELECT i % 1000, i % 300, 'row ' || i, CASE WHEN i % 50 = 0 THEN repeat(md5(i::text), 100) END FROM generate_series(1, 20000) i ON CONFLICT DO NOTHING";

async fn events() -> Link {
    let mut link = Link::new(Server::shared(), &["events"]).await;
    link.compare_every = Duration::from_millis(200);
    link.source.execute(EVENTS).await;
    link
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_table_is_linked_as_one() {
    let link = events().await;
    let engine = link.start();
    // While it is loaded, and after: rows change, and move between partitions.
    let changes = "UPDATE events SET v = v || '!' WHERE id % 3 = 0; UPDATE events SET at = (at + 100) % 300, id = id + 100000 WHERE id % 100 = 7;
                   DELETE FROM events WHERE id % 11 = 0; INSERT INTO events SELECT i, i % 300, 'late' FROM generate_series(50000, 50100) i ON CONFLICT DO NOTHING";
    link.source.execute(changes).await;
    engine.replicating(1).await;
    link.converged("events").await;
    link.source.execute(changes.replace("100000", "200000").as_str()).await;
    link.converged("events").await;

    link.source
        .execute(
            "BEGIN; INSERT INTO events VALUES (60001, 5, 'old shape'), (60002, 105, 'old shape'); ALTER TABLE events ADD c int DEFAULT 7, ADD d timestamptz DEFAULT now();
             UPDATE events SET c = id WHERE id % 5 = 0; INSERT INTO events (id, at, c) VALUES (60003, 205, 1); COMMIT",
        )
        .await;
    link.converged("events").await;
    link.source.execute("TRUNCATE events; INSERT INTO events VALUES (1, 1, 'first'), (1, 101, 'second'), (1, 201, 'third')").await;
    link.converged("events").await;
    assert_eq!(link.loads("events"), 1);

    // The capture starts anew, on rows of every partition.
    engine.kill().await;
    link.source
        .execute("UPDATE events SET v = 'while it was away'; ALTER TABLE events DROP d; INSERT INTO events (id, at) VALUES (2, 2)")
        .await;
    let engine = link.start();
    link.converged("events").await;
    assert_eq!(link.loads("events"), 1);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_made_empty_need_no_load() {
    let link = events().await;
    let engine = link.start();
    engine.replicating(1).await;
    for statements in [
        // At once in use, in a transaction of its own and in the same.
        "CREATE TABLE events_4 PARTITION OF events FOR VALUES FROM (300) TO (400); INSERT INTO events VALUES (1, 301, 'a')",
        "BEGIN; CREATE TABLE events_5 PARTITION OF events FOR VALUES FROM (400) TO (500) PARTITION BY LIST (id);
         CREATE TABLE events_5a PARTITION OF events_5 DEFAULT; INSERT INTO events VALUES (1, 401, 'b'); COMMIT; UPDATE events SET v = 'c' WHERE at = 301",
        // Prepared beside.
        "CREATE TABLE events_6 (LIKE events INCLUDING DEFAULTS); ALTER TABLE events ATTACH PARTITION events_6 FOR VALUES FROM (500) TO (600)",
    ] {
        link.source.execute(statements).await;
        link.converged("events").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    link.source.execute("INSERT INTO events VALUES (1, 501, 'd'); UPDATE events SET v = 'e', at = 502 WHERE at = 401").await;
    link.converged("events").await;
    link.source.execute("BEGIN; TRUNCATE events; CREATE TABLE events_7 PARTITION OF events FOR VALUES FROM (600) TO (700); COMMIT; INSERT INTO events VALUES (1, 601, 'f')").await;
    link.converged("events").await;
    assert_eq!(link.loads("events"), 1);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_come_with_rows_or_go_are_a_reason_to_load() {
    let link = events().await;
    link.replan(|plan| plan.schema_change.breaking = BreakingChange::Reseed);
    let engine = link.start();
    engine.replicating(1).await;
    for (number, statements) in [
        "CREATE TABLE events_4 (LIKE events); INSERT INTO events_4 VALUES (9, 309, 'unseen'); ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (300) TO (400)",
        "ALTER TABLE events DETACH PARTITION events_1",
        "DROP TABLE events_3",
        "TRUNCATE events_2",
        // Between two looks it was away, and its changes with it.
        "BEGIN; ALTER TABLE events DETACH PARTITION events_4; INSERT INTO events_4 VALUES (10, 310, 'unseen too'); ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (300) TO (400); COMMIT",
        "BEGIN; CREATE TABLE events_5 (LIKE events); SAVEPOINT s; INSERT INTO events_5 VALUES (9, 409, 'unseen'); RELEASE s; ALTER TABLE events ATTACH PARTITION events_5 FOR VALUES FROM (400) TO (500); COMMIT",
    ]
    .iter()
    .enumerate()
    {
        link.source.execute(statements).await;
        link.converged("events").await;
        link.until(statements, |link| link.loads("events") == number + 2).await;
        engine.table("public.events", TablePhase::Replicating, None).await;
        link.source.execute("INSERT INTO events VALUES (0, 199, 'goes on') ON CONFLICT (at, id) DO UPDATE SET v = events.v || '!'").await;
        link.converged("events").await;
    }
    assert_eq!(link.loads("events"), 7);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_may_be_linked_alone_and_never_beside_its_table() {
    let link = events().await;
    link.replan(|plan| plan.tables = vec![planned("events_1", 1), planned("events_3a", 1)]);
    let engine = link.start();
    engine.replicating(2).await;
    link.source
        .execute("UPDATE events SET v = 'both ways', at = (at + 100) % 300, id = id + 100000 WHERE id % 3 = 0; INSERT INTO events VALUES (-1, 1)")
        .await;
    link.converged("events_1").await;
    link.converged("events_3a").await;
    link.source.execute("TRUNCATE events; INSERT INTO events VALUES (1, 1, 'x'), (1, 101, 'y'), (1, 201, 'z')").await;
    link.converged("events_1").await;
    link.converged("events_3a").await;

    link.replan(|plan| plan.tables.push(planned("events", 1)));
    let refused = engine.table("public.events", TablePhase::Failed, Some("TableNotSupported")).await.error.unwrap();
    assert!(refused.message.contains("both are to be linked"), "{}", refused.message);
    link.replan(|plan| plan.tables.retain(|table| table.source.table_name == "events"));
    engine.table("public.events", TablePhase::Replicating, None).await;
    link.converged("events").await;
    link.replan(|plan| plan.tables.push(planned("events_2", 1)));
    engine.table("public.events_2", TablePhase::Failed, Some("TableNotSupported")).await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_known_by_the_replica_identity_that_the_table_has() {
    let link = Link::new(Server::shared(), &["by_index", "whole", "neither"]).await;
    link.source
        .execute(
            "CREATE TABLE by_index (v text, b int NOT NULL, a text NOT NULL, body text); ALTER TABLE by_index ALTER body SET STORAGE EXTERNAL;
             CREATE UNIQUE INDEX known ON by_index (a, b) INCLUDE (v); ALTER TABLE by_index REPLICA IDENTITY USING INDEX known;
             INSERT INTO by_index SELECT 'row ' || i, i, 'k' || i % 10, repeat(md5(i::text), 100) FROM generate_series(1, 500) i;
             CREATE TABLE whole (v text, id int PRIMARY KEY, body text); ALTER TABLE whole ALTER body SET STORAGE EXTERNAL; ALTER TABLE whole REPLICA IDENTITY FULL;
             INSERT INTO whole SELECT 'row ' || i, i, repeat(md5(i::text), 100) FROM generate_series(1, 500) i;
             CREATE TABLE neither (id int); ALTER TABLE neither REPLICA IDENTITY FULL; INSERT INTO neither VALUES (1)",
        )
        .await;
    let engine = link.start();
    let changes = [
        "UPDATE by_index SET v = v || '!' WHERE b % 3 = 0; UPDATE by_index SET b = b + 1000 WHERE b % 7 = 0; UPDATE by_index SET a = 'other' WHERE b % 11 = 0; DELETE FROM by_index WHERE b % 13 = 0",
        "UPDATE whole SET v = v || '!' WHERE id % 3 = 0; UPDATE whole SET id = id + 1000 WHERE id % 7 = 0; DELETE FROM whole WHERE id % 13 = 0",
    ];
    for change in changes {
        link.source.execute(change).await;
    }
    let refused = engine.table("public.neither", TablePhase::Failed, Some("NoPrimaryKey")).await.error.unwrap();
    assert!(refused.remedy.contains("REPLICA IDENTITY USING INDEX"), "{}", refused.remedy);
    // It was never published: the application's updates go on.
    link.source.execute("ALTER TABLE neither REPLICA IDENTITY DEFAULT; UPDATE neither SET id = 2").await;
    engine.replicating(2).await;
    for table in ["by_index", "whole"] {
        link.converged(table).await;
    }
    for change in changes {
        link.source.execute(&change.replace("1000", "3000")).await;
    }
    for table in ["by_index", "whole"] {
        link.converged(table).await;
    }
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_becomes_a_partition_of_another_is_not_followed_twice() {
    let link = events().await;
    link.replan(|plan| {
        plan.schema_change.breaking = BreakingChange::Reseed;
        plan.tables.push(planned("apart", 1));
    });
    link.source.execute("CREATE TABLE apart (LIKE events INCLUDING INDEXES); INSERT INTO apart VALUES (1, 301, 'apart')").await;
    let engine = link.start();
    engine.replicating(2).await;
    link.source.execute("ALTER TABLE events ATTACH PARTITION apart FOR VALUES FROM (300) TO (400)").await;
    let refused = engine.table("public.events", TablePhase::Failed, Some("TableNotSupported")).await.error.unwrap();
    assert!(refused.message.contains("both are to be linked"), "{}", refused.message);
    link.source.execute("INSERT INTO events VALUES (2, 302, 'through the other'); UPDATE apart SET v = v || '!'").await;
    link.converged("apart").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_partition_that_somebody_locks_holds_nobody() {
    let link = events().await;
    link.replan(|plan| plan.tables.push(planned("other", 1)));
    link.source.execute("CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE events_4 (LIKE events)").await;
    let engine = link.start();
    engine.replicating(2).await;
    let locker = link.source.connect().await;
    locker.batch_execute("BEGIN; ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (300) TO (400); SAVEPOINT s").await.unwrap();
    // Attached, and locked at once.
    let next = link.source.connect().await;
    let (attached, taken) =
        tokio::join!(locker.batch_execute("COMMIT"), next.batch_execute("BEGIN; LOCK TABLE ONLY events_4 IN ACCESS EXCLUSIVE MODE"));
    attached.and(taken).unwrap();
    for id in 1..4 {
        link.source.execute(&format!("INSERT INTO other VALUES ({id}); UPDATE events_1 SET v = 'set {id}' WHERE id < 9")).await;
        link.converged("other").await;
    }
    // What comes through a partition that is newer still is not lost.
    link.source
        .execute("CREATE TABLE events_5 PARTITION OF events FOR VALUES FROM (400) TO (500); INSERT INTO events VALUES (1, 401, 'seen')")
        .await;
    link.source.execute("INSERT INTO other VALUES (9)").await;
    link.converged("other").await;
    next.batch_execute("COMMIT").await.unwrap();
    link.source.execute("INSERT INTO events VALUES (2, 402, 'seen too')").await;
    link.converged("events").await;
    engine.replicating(2).await;
    engine.kill().await;
}
