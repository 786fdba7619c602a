//! Tables that change their shape while they are linked.

use std::time::Duration;

use link_operator::api::{
    link_connection::{AdditiveChange, BreakingChange},
    report::{TablePhase, TableReport},
};

use super::{Engine, Link};
use crate::support::postgres::Server;

/// A link of tables that are loaded.
async fn replicating(tables: &[&str], setup: &str) -> (Link, Engine) {
    let mut link = Link::new(Server::shared(), tables).await;
    link.compare_every = Duration::from_millis(200);
    link.source.execute(setup).await;
    let engine = link.start();
    engine.replicating(tables.len()).await;
    (link, engine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_column_arrives_without_a_load() {
    let (link, engine) = replicating(
        &["grows"],
        "CREATE TYPE mood AS ENUM ('sad', 'it''s \"fine\"'); CREATE DOMAIN label AS text DEFAULT 'by domain';
         CREATE TABLE grows (id int PRIMARY KEY, v text); INSERT INTO grows SELECT i, 'row ' || i FROM generate_series(1, 1000) i",
    )
    .await;
    for column in [
        "a int",
        "b int NOT NULL DEFAULT 7",
        "c timestamptz DEFAULT now()",
        "d mood DEFAULT 'it''s \"fine\"'",
        "e label",
        "f int[] DEFAULT '{1,NULL,3}'",
        "g text[] DEFAULT ARRAY['a,b', 'c\"d', 'NULL', NULL]",
        "h numeric(10, 2) NOT NULL DEFAULT 1.5",
        "i bytea DEFAULT '\\x00ff27'",
        "j jsonb DEFAULT '{\"a\": [1, null]}'",
        "k interval DEFAULT '1 year -2 days'",
        "l char(3) DEFAULT 'x'",
        "m date DEFAULT 'infinity'",
        "n money DEFAULT 12.34",
        "\"o \"\"O\" uuid DEFAULT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        "p float8 DEFAULT 'NaN'",
        "q int4range DEFAULT '[1,5)'",
        "r mood[]",
    ] {
        link.source.execute(&format!("ALTER TABLE grows ADD COLUMN {column}; UPDATE grows SET v = v || '!' WHERE id % 97 = 0")).await;
    }
    // Rows of the old shape, of the new one, and of the one after, in one transaction.
    link.source
        .execute(
            "BEGIN; INSERT INTO grows (id, v) VALUES (5001, 'old'); UPDATE grows SET v = 'old' WHERE id = 1;
             ALTER TABLE grows ADD COLUMN s int DEFAULT 1; INSERT INTO grows (id, s) VALUES (5002, 2); UPDATE grows SET s = id WHERE id < 10;
             ALTER TABLE grows ADD COLUMN t text DEFAULT 't'; UPDATE grows SET t = 'filled' WHERE id % 3 = 0; DELETE FROM grows WHERE id = 7;
             ALTER TABLE grows ALTER t SET DEFAULT 'another'; INSERT INTO grows (id) VALUES (5003); COMMIT",
        )
        .await;
    link.converged("grows").await;
    assert_eq!(link.loads("grows"), 1);
    let defaults = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'grows'::regclass AND atthasdef";
    assert_eq!(link.target.connect().await.query_one(defaults, &[]).await.unwrap().get::<_, i64>(0), 0);

    // Without a change of its rows, too; and a capture that starts anew goes on.
    link.source.execute("ALTER TABLE grows ADD COLUMN u int DEFAULT 3").await;
    link.converged("grows").await;
    let shape = |report: &TableReport| report.schema.as_ref().map(|schema| schema.columns);
    engine.until("the report counts the columns", |report| report.tables.iter().any(|table| shape(table) == Some(23))).await;
    engine.kill().await;
    link.source
        .execute("INSERT INTO grows (id) VALUES (6001); ALTER TABLE grows ADD COLUMN w int DEFAULT 4; UPDATE grows SET w = 5 WHERE id < 3")
        .await;
    let engine = link.start();
    link.converged("grows").await;
    assert_eq!(link.loads("grows"), 1);
    engine.kill().await;
}

/// The rows come while the transaction is open, and are taken in at its commit, when the catalog has all of its columns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_transaction_may_change_the_columns_that_it_fills() {
    let server = Server::start_with(&["logical_decoding_work_mem=64kB"]);
    let link = Link::new(&server, &["big"]).await;
    link.source
        .execute("CREATE TABLE big (id int PRIMARY KEY, v text); INSERT INTO big SELECT i, 'row' FROM generate_series(1, 2000) i")
        .await;
    let engine = link.start();
    engine.replicating(1).await;
    link.source
        .execute(
            "BEGIN; UPDATE big SET v = 'old shape'; SAVEPOINT s; UPDATE big SET v = 'undone'; ROLLBACK TO s;
             UPDATE big SET v = v || '!' WHERE id % 2 = 0; ALTER TABLE big ADD a int DEFAULT 7; UPDATE big SET a = id WHERE id % 3 = 0;
             SAVEPOINT t; ALTER TABLE big ADD b text DEFAULT 'b', DROP v; INSERT INTO big (id) SELECT generate_series(3001, 6000); RELEASE t;
             DELETE FROM big WHERE id % 5 = 0; COMMIT",
        )
        .await;
    link.converged("big").await;
    assert_eq!(link.loads("big"), 1);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_column_stays_in_the_target_and_its_name_is_not_taken_for_another() {
    let (link, engine) = replicating(
        &["shrinks"],
        "CREATE TABLE shrinks (id int PRIMARY KEY, a int, b text); INSERT INTO shrinks VALUES (1, 1, 'x'), (2, 2, 'y')",
    )
    .await;
    link.source
        .execute("BEGIN; INSERT INTO shrinks VALUES (3, 3, 'z'); ALTER TABLE shrinks DROP a; INSERT INTO shrinks VALUES (4, 'new'); UPDATE shrinks SET b = 'set' WHERE id = 2; COMMIT")
        .await;
    link.converged("shrinks").await;
    assert_eq!(Link::rows(&link.target, "shrinks").await.unwrap(), ["(1,1,x)", "(2,,set)", "(3,,z)", "(4,,new)"]);
    link.source.execute("ALTER TABLE shrinks ADD c int DEFAULT 5; UPDATE shrinks SET b = 'again' WHERE id = 1").await;
    link.converged("shrinks").await;
    assert_eq!(link.loads("shrinks"), 1);

    link.source.execute("ALTER TABLE shrinks ADD a int DEFAULT 8; INSERT INTO shrinks (id, a) VALUES (9, 9)").await;
    let failed = engine.table("public.shrinks", TablePhase::Failed, Some("SchemaChanged")).await;
    assert!(failed.error.unwrap().message.contains("column a dropped and another"));
    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    engine.table("public.shrinks", TablePhase::Replicating, None).await;
    link.converged("shrinks").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_came_and_went_leaves_no_trace() {
    let (link, engine) = replicating(&["brief"], "CREATE TABLE brief (id int PRIMARY KEY, v int); INSERT INTO brief VALUES (1, 1)").await;
    link.source
        .execute(
            "ALTER TABLE brief ADD x int DEFAULT 5; ALTER TABLE brief DROP x; INSERT INTO brief VALUES (2, 2);
             BEGIN; ALTER TABLE brief ADD x int DEFAULT 5; INSERT INTO brief VALUES (3, 3, 3); ALTER TABLE brief DROP x; INSERT INTO brief VALUES (4, 4); COMMIT",
        )
        .await;
    link.converged("brief").await;
    assert_eq!(Link::rows(&link.target, "brief").await.unwrap(), ["(1,1)", "(2,2)", "(3,3)", "(4,4)"]);
    // Once the stream has passed them, a column may be added again.
    let settled = |link: &Link| link.files("/log/").iter().any(|path| std::fs::read_to_string(path).unwrap().contains("\"lastNumber\":4"));
    link.until("the numbers of the columns that are gone are passed", settled).await;
    link.source.execute("ALTER TABLE brief ADD x int DEFAULT 6; UPDATE brief SET v = 0 WHERE id = 1").await;
    link.converged("brief").await;
    assert_eq!(link.loads("brief"), 1);
    engine.kill().await;
}

/// Each case: what is done to the table `t`, and a word of the message.
const BREAKING: &[(&str, &str)] = &[
    ("ALTER TABLE t ADD c uuid DEFAULT gen_random_uuid()", "may have a value each"),
    ("ALTER TABLE t ADD c serial", "may have a value each"),
    ("ALTER TABLE t ADD c int GENERATED ALWAYS AS IDENTITY", "may have a value each"),
    ("ALTER TABLE t ADD c timestamptz DEFAULT clock_timestamp()", "may have a value each"),
    ("ALTER TABLE t ALTER v TYPE bigint", "from integer to bigint"),
    ("ALTER TABLE t ALTER w TYPE text USING upper(w)", "was rewritten or truncated"),
    ("ALTER TABLE t RENAME v TO c", "renamed to c"),
    ("ALTER TABLE t RENAME v TO c; ALTER TABLE t RENAME w TO v; ALTER TABLE t RENAME c TO w", "renamed"),
    ("ALTER TABLE t RENAME TO c", "was renamed to public.c"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (k)", "another key"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", "another key"),
    ("ALTER TABLE t REPLICA IDENTITY USING INDEX other", "another key"),
    ("ALTER TABLE t REPLICA IDENTITY NOTHING", "REPLICA IDENTITY NOTHING"),
    ("ALTER TABLE t ALTER g DROP EXPRESSION", "expression of its generated column g"),
    ("CREATE TABLE child () INHERITS (t)", "inherit"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_cannot_follow_is_named() {
    let mut link = Link::new(Server::shared(), &["t"]).await;
    link.compare_every = Duration::from_millis(200);
    let make = "DROP TABLE IF EXISTS t, c, child CASCADE;
                CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, v int, w text, g int GENERATED ALWAYS AS (id * 2) STORED);
                CREATE UNIQUE INDEX other ON t (k); INSERT INTO t VALUES (1, 2, 3, 'four')";
    link.source.execute(make).await;
    let engine = link.start();
    for (number, (change, message)) in BREAKING.iter().enumerate() {
        engine.table("public.t", TablePhase::Replicating, None).await;
        link.converged("t").await;
        for statement in change.split("; ") {
            link.source.execute(statement).await;
        }
        let failed = engine.table("public.t", TablePhase::Failed, Some("SchemaChanged")).await.error.unwrap();
        assert!(failed.message.contains(message), "{change}: {}", failed.message);
        assert!(failed.remedy.contains("reseed"), "{}", failed.remedy);
        link.source.execute(make).await;
        link.replan(|plan| plan.tables[0].reseed = Some(number.to_string()));
    }
    engine.table("public.t", TablePhase::Replicating, None).await;
    link.converged("t").await;
    engine.kill().await;
}

/// PostgreSQL refuses updates of a published table whose rows nobody could find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_loses_its_key_is_let_go_so_that_the_application_goes_on() {
    let (link, engine) = replicating(
        &["fails", "heals"],
        "CREATE TABLE fails (id int PRIMARY KEY, v int); INSERT INTO fails VALUES (1, 1);
         CREATE TABLE heals (id int PRIMARY KEY, v int); INSERT INTO heals VALUES (1, 1)",
    )
    .await;
    let updates = async |table: &str| {
        let connection = link.source.connect().await;
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        while let Err(error) = connection.batch_execute(&format!("UPDATE {table} SET v = v + 1")).await {
            assert!(tokio::time::Instant::now() < deadline, "{table}: {error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // Whoever builds an index holds the table in the publication meanwhile: he waits for the change, and is the next.
    let (changes, index) = (link.source.connect().await, link.source.connect().await);
    changes.batch_execute("BEGIN; ALTER TABLE fails DROP CONSTRAINT fails_pkey").await.unwrap();
    let held = tokio::spawn(async move {
        index.batch_execute("BEGIN; LOCK TABLE fails IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
        index
    });
    let waits = "SELECT FROM pg_locks WHERE relation = 'fails'::regclass AND NOT granted";
    while changes.query(waits, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    changes.batch_execute("COMMIT").await.unwrap();
    engine.table("public.fails", TablePhase::Failed, Some("SchemaChanged")).await;
    link.cannot_silence(Server::shared(), "fails").await;
    held.await.unwrap().batch_execute("COMMIT").await.unwrap();
    updates("fails").await;

    link.replan(|plan| plan.schema_change.breaking = BreakingChange::Reseed);
    link.source.execute("ALTER TABLE heals REPLICA IDENTITY NOTHING").await;
    engine.table("public.heals", TablePhase::Failed, Some("TableNotSupported")).await;
    updates("heals").await;
    link.source.execute("ALTER TABLE heals REPLICA IDENTITY DEFAULT; ALTER TABLE fails ADD PRIMARY KEY (id)").await;
    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    for table in ["fails", "heals"] {
        link.converged(table).await;
        link.source.execute(&format!("UPDATE {table} SET v = -1")).await;
        link.converged(table).await;
    }
    engine.kill().await;
}

/// What changes nothing that a copy would have to follow.
const HARMLESS: &[&str] = &[
    "VACUUM FULL t",
    "CLUSTER t USING t_pkey",
    "ALTER TABLE t ALTER v SET NOT NULL",
    "ALTER TABLE t ALTER v SET DEFAULT 9",
    "ALTER TABLE t ALTER v SET STATISTICS 500",
    "ALTER TABLE t ADD h int GENERATED ALWAYS AS (id) STORED",
    "ALTER TABLE t ADD CHECK (v > 0)",
    "CREATE INDEX ON t (v)",
    "ALTER TABLE t ALTER id ADD GENERATED BY DEFAULT AS IDENTITY",
    "ALTER TABLE t REPLICA IDENTITY FULL",
    "ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey",
    "ALTER TABLE t REPLICA IDENTITY DEFAULT",
    "ALTER TABLE t ADD z int DEFAULT 4",
    "VACUUM FULL t",
    "ALTER TABLE t ADD y int",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_no_row_is_no_reason_to_load() {
    let (link, engine) = replicating(
        &["t"],
        "CREATE TABLE t (id int PRIMARY KEY, v int, w text DEFAULT 'w'); INSERT INTO t SELECT i, i, 'row' FROM generate_series(1, 500) i",
    )
    .await;
    for (number, change) in HARMLESS.iter().enumerate() {
        link.source.execute(change).await;
        link.source.execute(&format!("INSERT INTO t (id, v) VALUES ({0}, {0}); UPDATE t SET w = 'set {0}', id = -id WHERE id = {0} - 1000; DELETE FROM t WHERE id = {0}", number + 1001)).await;
        link.converged("t").await;
        // The catalog was compared, too.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    engine.table("public.t", TablePhase::Replicating, None).await;
    assert_eq!(link.loads("t"), 1);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_exchange_their_names_are_not_taken_for_each_other() {
    let (link, engine) = replicating(
        &["a", "b"],
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'was a');
         CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b VALUES (1, 'was b')",
    )
    .await;
    link.replan(|plan| plan.schema_change.breaking = BreakingChange::Reseed);
    link.source
        .execute(
            "BEGIN; INSERT INTO a VALUES (2, 'a before'); ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b;
             INSERT INTO a VALUES (3, 'a after'); UPDATE b SET v = v || '!'; COMMIT",
        )
        .await;
    link.converged("a").await;
    link.converged("b").await;
    // Dropped and made again under the same name, it is another table.
    link.source.execute("DROP TABLE a; CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (7, 'another')").await;
    link.converged("a").await;
    link.source.execute("INSERT INTO a VALUES (8, 'goes on'); INSERT INTO b VALUES (8, 'goes on')").await;
    link.converged("a").await;
    link.converged("b").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_waits_for_a_person_where_the_link_says_so_or_the_target_has_the_name() {
    let (link, engine) = replicating(
        &["strict", "taken"],
        "CREATE TABLE strict (id int PRIMARY KEY); INSERT INTO strict VALUES (1); CREATE TABLE taken (id int PRIMARY KEY); INSERT INTO taken VALUES (1)",
    )
    .await;
    link.target.execute("ALTER TABLE taken ADD note text").await;
    link.source.execute("ALTER TABLE taken ADD note text DEFAULT 'ours'; INSERT INTO taken VALUES (2)").await;
    let failed = engine.table("public.taken", TablePhase::Failed, Some("TargetColumnExists")).await.error.unwrap();
    assert!(failed.remedy.contains("rename or drop column note"), "{}", failed.remedy);
    link.target.execute("ALTER TABLE taken RENAME note TO remark").await;
    engine.table("public.taken", TablePhase::Replicating, None).await;
    link.converged("taken").await;

    link.replan(|plan| plan.schema_change.additive = AdditiveChange::Fail);
    link.source.execute("ALTER TABLE strict ADD note text; INSERT INTO strict VALUES (2)").await;
    let failed = engine.table("public.strict", TablePhase::Failed, Some("SchemaChanged")).await.error.unwrap();
    assert!(failed.message.contains("columns added: note"), "{}", failed.message);
    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    engine.table("public.strict", TablePhase::Replicating, None).await;
    link.converged("strict").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_columns_change_while_it_is_loaded_starts_over() {
    let link = Link::new(Server::shared(), &["early"]).await;
    link.source
        .execute("CREATE TABLE early (id int PRIMARY KEY, pad text); INSERT INTO early SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i")
        .await;
    let engine = link.start();
    engine.until("it is being loaded", |report| report.tables.iter().any(|table| table.phase == TablePhase::Snapshotting)).await;
    link.source.execute("ALTER TABLE early ADD a int DEFAULT 1; UPDATE early SET a = 2 WHERE id < 100").await;
    engine.replicating(1).await;
    link.converged("early").await;
    engine.kill().await;
}

/// Appliers of several workers, killed while columns come: each takes up a table at whatever version it was left, alone or with
/// the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_killed_while_columns_come_go_on_in_the_right_version() {
    let tables = ["a", "b", "c"];
    let mut link = Link::new(Server::shared(), &tables).await;
    link.compare_every = Duration::from_millis(300);
    for table in tables {
        link.source
            .execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v int); INSERT INTO {table} SELECT i, i FROM generate_series(1, 300) i"
            ))
            .await;
    }
    link.replan(|plan| plan.workers = 2);
    let (mut first, mut second) = (link.start_worker(0), link.start_worker(1));
    for table in tables {
        link.converged(table).await;
    }
    for round in 1..=8_u64 {
        for table in tables {
            link.source
                .execute(&format!(
                    "UPDATE {table} SET v = v + 1; BEGIN; UPDATE {table} SET v = -v WHERE id % 2 = 0; ALTER TABLE {table} ADD c{round} int DEFAULT {round};
                     UPDATE {table} SET c{round} = id WHERE id % 3 = 0; INSERT INTO {table} (id) VALUES (1000 + {round}); COMMIT"
                ))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(round * 37 % 11 * 20)).await;
        link.replan(|plan| plan.transactional_consistency = round % 3 == 0);
        if round % 2 == 0 {
            first.kill().await;
            first = link.start_worker(0);
        } else {
            second.kill().await;
            second = link.start_worker(1);
        }
    }
    for table in tables {
        link.converged(table).await;
        assert_eq!(link.loads(table), 1);
    }
    first.kill().await;
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_changed_without_a_word_are_a_reason_to_load() {
    let (link, engine) = replicating(
        &["computed", "moods"],
        "CREATE TABLE computed (id int PRIMARY KEY); INSERT INTO computed VALUES (1), (2);
         CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE DOMAIN kept AS mood; CREATE TYPE pair AS (a int, b kept);
         CREATE TABLE moods (id int PRIMARY KEY, m pair[]);
         INSERT INTO moods VALUES (1, ARRAY[ROW(1, 'sad')::pair]), (2, ARRAY[ROW(2, 'fine')::pair])",
    )
    .await;
    // Not taken for VACUUM FULL, which writes the initial value into the rows too.
    link.source.execute("ALTER TABLE computed ADD z int DEFAULT 4").await;
    link.converged("computed").await;
    link.source.execute("ALTER TABLE computed ALTER z TYPE int USING z * 10").await;
    let failed = engine.table("public.computed", TablePhase::Failed, Some("SchemaChanged")).await.error.unwrap();
    assert!(failed.message.contains("was rewritten or truncated after a change of its column z"), "{}", failed.message);

    link.source.execute("ALTER TYPE mood ADD VALUE 'new' BEFORE 'fine'").await;
    link.source.execute("INSERT INTO moods VALUES (3, ARRAY[ROW(3, 'new')::pair])").await;
    link.converged("moods").await;
    link.source.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    let failed = engine.table("public.moods", TablePhase::Failed, Some("SchemaChanged")).await.error.unwrap();
    assert!(failed.message.contains("value sad of the type of its column m renamed"), "{}", failed.message);
    link.replan(|plan| plan.tables.iter_mut().for_each(|table| table.reseed = Some("now".into())));
    engine.replicating(2).await;
    link.converged("computed").await;
    link.converged("moods").await;
    engine.kill().await;
}
