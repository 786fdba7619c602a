//! Comparing tables with their source, and repairing them, while both are written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use link_operator::{
    api::{
        report::TablePhase,
        verification::{Verification, VerificationResult, VerifyRequest},
    },
    replication::{EngineReport, share},
};
use tokio::task::JoinHandle;

use super::{Engine, Link, PATIENCE, flow::EVERY_TYPE, planned};
use crate::support::postgres::{Database, Server};

impl Link {
    /// Has all tables compared; returns what was found of these.
    async fn verify<const N: usize>(&self, engine: &Engine, tables: [&str; N], repair: bool) -> [Verification; N] {
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        let requested_at = REQUESTS.fetch_add(1, Ordering::Relaxed).to_string();
        self.replan(|plan| plan.verify = Some(VerifyRequest { requested_at: requested_at.clone(), repair }));
        let of = |report: &EngineReport, table: &str| -> Option<Verification> {
            let found = report.verifications.iter().find(|found| found.uid.starts_with(&format!("public.{table}-")))?;
            found.requests.contains(&requested_at).then(|| found.found.clone())
        };
        let complete = |report: &EngineReport| tables.iter().all(|table| of(report, table).is_some());
        let report = engine.until(&format!("{tables:?} are compared"), complete).await;
        tables.map(|table| of(&report, table).unwrap())
    }

    async fn last_verified(&self, table: &str) -> bool {
        let sql = format!("SELECT last_verified IS NOT NULL FROM link_operator.link_status WHERE target_table = '{table}'");
        self.target.connect().await.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

/// Statements that are run again and again until it is stopped; `{}` in them is the number of the round.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    pub async fn start(database: &Database, statements: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (session, stopped) = (database.connect().await, stop.clone());
        let task = tokio::spawn(async move {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                session.batch_execute(&statements.replace("{}", &round.to_string())).await.unwrap();
            }
            round
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_every_type_are_equal_and_a_changed_value_of_any_is_found() {
    let link = Link::new(Server::shared(), &["every_type"]).await;
    link.source.execute(EVERY_TYPE).await;
    let engine = link.start();
    engine.replicating(1).await;
    link.converged("every_type").await;
    let [found] = link.verify(&engine, ["every_type"], false).await;
    assert_eq!((found.result, found.source_rows, found.target_rows), (VerificationResult::Equal, 5, 5), "{found:?}");
    assert!(link.last_verified("every_type").await);

    // For each column a row with a value in it alone, which the source does not have, and one with NULLs, which gets a value.
    let session = link.target.connect().await;
    let columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'every_type'::regclass AND attnum > 1 ORDER BY attnum";
    let columns: Vec<String> = session.query(columns, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    for (number, column) in columns.iter().enumerate() {
        let name = format!("\"{}\"", column.replace('"', "\"\""));
        session
            .batch_execute(&format!("INSERT INTO every_type (id, {name}) SELECT 1000 + {number}, {name} FROM every_type WHERE id = 1"))
            .await
            .unwrap();
        link.source.execute(&format!("INSERT INTO every_type (id) VALUES (2000 + {number})")).await;
    }
    // NULL and the empty text are not the same, and borders are borders.
    link.source.execute("INSERT INTO every_type (id, t) VALUES (3000, NULL), (3001, '|'), (3002, '||'), (3003, '=-|=')").await;
    let arrived = "SELECT count(*) FROM every_type WHERE id >= 2000";
    while session.query_one(arrived, &[]).await.unwrap().get::<_, i64>(0) < columns.len() as i64 + 4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (number, column) in columns.iter().enumerate() {
        let name = format!("\"{}\"", column.replace('"', "\"\""));
        session
            .batch_execute(&format!(
                "UPDATE every_type SET {name} = (SELECT {name} FROM every_type WHERE id = 1) WHERE id = 2000 + {number}"
            ))
            .await
            .unwrap();
    }
    session.batch_execute("UPDATE every_type SET t = '' WHERE id = 3000").await.unwrap();
    let [found] = link.verify(&engine, ["every_type"], false).await;
    let expected = 2 * columns.len() as i64 + 1;
    assert_eq!((found.result, found.differing_rows), (VerificationResult::Different, expected), "{found:?}");
    assert_eq!(found.target_rows - found.source_rows, columns.len() as i64);

    let [found] = link.verify(&engine, ["every_type"], true).await;
    assert_eq!((found.result, found.repaired), (VerificationResult::Equal, expected), "{found:?}");
    link.converged("every_type").await;
    assert!(link.last_verified("every_type").await);
    // What is loaded anew was not compared yet.
    let incarnation = "SELECT incarnation FROM link_operator.link_progress WHERE target_table = 'every_type'";
    let verified: i64 = session.query_one(incarnation, &[]).await.unwrap().get(0);
    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    while session.query_one(incarnation, &[]).await.unwrap().get::<_, i64>(0) == verified {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!link.last_verified("every_type").await);
    engine.kill().await;
}

/// 120,000 rows: three ranges.
const STOCK: &str = "
    CREATE TABLE stock (id bigint PRIMARY KEY, v bigint NOT NULL, note text);
    INSERT INTO stock SELECT i * 2, i, 'note ' || i FROM generate_series(1, 120000) i;
    CREATE TABLE codes (code text PRIMARY KEY, v bigint);
    INSERT INTO codes SELECT 'Code ' || i, i FROM generate_series(1, 5000) i;
    ANALYZE";

/// Everywhere in the keys; some rows come and go for ever, and some are never left alone.
const STEADY: &str = "
    UPDATE stock SET v = v + 1 WHERE id = 2 * (1 + ({} * 7919) % 120000);
    BEGIN; DELETE FROM stock WHERE id = 100000; INSERT INTO stock VALUES (100000, 1, 'to and fro'); COMMIT;
    INSERT INTO stock VALUES (-{}, {}, 'new'); DELETE FROM stock WHERE id = -({} - 20);
    UPDATE codes SET v = -v WHERE code = 'Code ' || (1 + {} % 3);
    UPDATE codes SET code = code || '+' WHERE code = 'Code ' || (100 + {} % 1000);
    SELECT pg_sleep(0.002)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_tables_are_never_called_different_while_they_are_written() {
    let link = Link::new(Server::shared(), &["stock", "codes"]).await;
    link.source.execute(STOCK).await;
    let engine = link.start();
    engine.replicating(2).await;
    let writer = Writer::start(&link.source, STEADY).await;
    for _ in 0..2 {
        let [stock, codes] = link.verify(&engine, ["stock", "codes"], false).await;
        assert_eq!((stock.differing_rows, stock.source_rows), (0, stock.target_rows), "{stock:?}");
        assert!(stock.unsettled_rows < 5, "{stock:?}");
        assert_eq!(codes.differing_rows, 0, "{codes:?}");
    }
    let rounds = writer.stop().await;
    assert!(rounds > 100, "{rounds} rounds");
    let [stock, codes] = link.verify(&engine, ["stock", "codes"], false).await;
    assert_eq!(stock.result, VerificationResult::Equal, "{stock:?}");
    assert_eq!((codes.result, codes.source_rows), (VerificationResult::Equal, 5000), "{codes:?}");
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_altered_in_the_target_is_named_and_repaired_while_the_source_is_written() {
    let link = Link::new(Server::shared(), &["stock", "codes"]).await;
    link.source.execute(STOCK).await;
    let engine = link.start();
    engine.replicating(2).await;
    let damage = "DELETE FROM stock WHERE id IN (20, 22, 120000); UPDATE stock SET note = NULL WHERE id = 24;
                  INSERT INTO stock VALUES (25, 1, 'too many'); DELETE FROM codes WHERE code LIKE 'Code 7%';
                  INSERT INTO codes VALUES ('none', NULL)";
    link.target.execute(damage).await;
    let [stock, codes] = link.verify(&engine, ["stock", "codes"], false).await;
    assert_eq!((stock.result, stock.differing_rows), (VerificationResult::Different, 5), "{stock:?}");
    assert_eq!((stock.source_rows, stock.target_rows), (120_000, 119_998), "{stock:?}");
    let ranges: Vec<_> = stock.differing_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(
        ranges,
        ["4 up to key (100000), among them (20), (22), (24), (25)", "1 after key (100000) up to (200000), among them (120000)"]
    );
    assert!(!link.last_verified("stock").await);
    assert_eq!((codes.result, codes.differing_rows), (VerificationResult::Different, 1 + 111), "{codes:?}");

    // Also the rows under repair are written, one always.
    let writer = Writer::start(
        &link.source,
        "UPDATE stock SET v = v + 1 WHERE id = 24; UPDATE codes SET v = v + 1 WHERE code = 'Code 7' || ({} % 100);
         DELETE FROM codes WHERE code = 'Code 7' || (100 + {} % 100); INSERT INTO codes VALUES ('Code 7' || (100 + {} % 100), {});
         SELECT pg_sleep(0.001)",
    )
    .await;
    let [stock, codes] = link.verify(&engine, ["stock", "codes"], true).await;
    assert!((1..=112).contains(&codes.repaired), "{codes:?}");
    assert!((4..=5).contains(&stock.repaired), "{stock:?}");
    writer.stop().await;
    link.converged("stock").await;
    link.converged("codes").await;
    let tables = ["stock", "codes"];
    for (table, found) in tables.into_iter().zip(link.verify(&engine, tables, true).await) {
        assert_eq!((found.result, found.differing_rows), (VerificationResult::Equal, 0), "{found:?}");
        assert!(link.last_verified(table).await);
    }
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_changes_while_it_is_repaired_keeps_its_change() {
    let link = Link::new(Server::shared(), &["large"]).await;
    // A change does not carry the large value, so it mends nothing of what was altered there.
    link.source
        .execute(
            "CREATE TABLE large (id int PRIMARY KEY, v int NOT NULL, pad text); ALTER TABLE large ALTER pad SET STORAGE EXTERNAL;
             INSERT INTO large SELECT i, 0, repeat('x', 2500) FROM generate_series(0, 3999) i",
        )
        .await;
    let engine = link.start();
    engine.replicating(1).await;
    // Versions only rise in the source. A row that goes back was overwritten by what a repair had read before.
    link.target
        .execute(
            "UPDATE large SET pad = 'altered'; CREATE TABLE went_back (id int);
             CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF NEW.v < OLD.v THEN INSERT INTO public.went_back VALUES (NEW.id); END IF; RETURN NEW; END';
             CREATE TRIGGER watch BEFORE UPDATE ON large FOR EACH ROW EXECUTE FUNCTION watch()",
        )
        .await;
    // Each row once, all over the table.
    let each_once = "UPDATE large SET v = v + 1 WHERE {} < 4000 AND id = ({} * 1619) % 4000; SELECT pg_sleep(0.002)";
    let writer = Writer::start(&link.source, each_once).await;
    let [found] = link.verify(&engine, ["large"], true).await;
    let rounds = writer.stop().await;
    let back = Link::rows(&link.target, "went_back").await.unwrap();
    assert!(back.is_empty(), "{} rows went back; {rounds} rounds, {found:?}", back.len());
    assert_eq!((found.result, found.repaired > 3000, rounds > 100), (VerificationResult::Equal, true, true), "{rounds} rounds, {found:?}");
    link.converged("large").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_captures_compares_also_what_others_apply() {
    let tables = ["t1", "t2", "t3", "t4"];
    for together in [false, true] {
        let link = Link::new(Server::shared(), &tables).await;
        link.replan(|plan| (plan.workers, plan.transactional_consistency) = (2, together));
        for table in tables {
            let rows = format!("INSERT INTO {table} SELECT gen_random_uuid(), i FROM generate_series(1, 1000) i");
            link.source.execute(&format!("CREATE TABLE {table} (id uuid PRIMARY KEY, v int); {rows}")).await;
        }
        let engines = [link.start_worker(0), link.start_worker(1)];
        let plan = link.plan.borrow().clone();
        for (ordinal, engine) in (0..).zip(&engines) {
            let own = (1..=4).filter(|table| share::applier(&plan, *table) == ordinal).count();
            assert!(own > 0 || together, "worker {ordinal} has no table");
            engine.replicating(own).await;
        }
        for table in tables {
            link.target.execute(&format!("DELETE FROM {table} WHERE v <= 7")).await;
        }
        for found in link.verify(&engines[share::capturer(2) as usize], tables, true).await {
            assert_eq!((found.result, found.repaired, found.source_rows), (VerificationResult::Equal, 7, 1000), "{found:?}");
        }
        for table in tables {
            link.converged(table).await;
        }
        for engine in engines {
            engine.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_says_why() {
    let mut link = Link::new(Server::shared(), &["retyped", "narrowed", "absent"]).await;
    // It takes a while until the link looks for what nothing in the stream tells.
    link.compare_every = Duration::from_secs(5);
    link.source
        .execute(
            "CREATE TABLE retyped (id int PRIMARY KEY, at timestamp); INSERT INTO retyped VALUES (1, '2024-02-29');
             CREATE TABLE narrowed (id int PRIMARY KEY, gone int); INSERT INTO narrowed VALUES (1, 1)",
        )
        .await;
    let engine = link.start();
    engine.replicating(2).await;
    link.source.execute("ALTER TABLE retyped ALTER at TYPE timestamptz; ALTER TABLE narrowed DROP gone").await;
    let [retyped, narrowed, absent] = link.verify(&engine, ["retyped", "narrowed", "absent"], true).await;
    // The copy can follow.
    assert_eq!((narrowed.result, narrowed.source_rows), (VerificationResult::Equal, 1), "{narrowed:?}");
    for (found, reason) in [(retyped, "SchemaChanged"), (absent, "SourceTableMissing")] {
        assert_eq!((found.result, found.repaired), (VerificationResult::Failed, 0));
        assert!(found.message.as_ref().is_some_and(|message| message.starts_with(reason)), "{found:?}");
    }
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_and_columns_that_came_or_went_are_compared_too() {
    let link = Link::new(Server::shared(), &["parted"]).await;
    link.source
        .execute(
            "CREATE TABLE parted (id int, day date, gone text, v int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
             CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2024-07-01') TO ('2025-01-01');
             INSERT INTO parted SELECT i, '2024-01-01'::date + i % 366, 'was here', i FROM generate_series(1, 1000) i",
        )
        .await;
    let engine = link.start();
    engine.replicating(1).await;
    let [found] = link.verify(&engine, ["parted"], false).await;
    assert_eq!((found.result, found.source_rows), (VerificationResult::Equal, 1000), "{found:?}");

    link.source.execute("ALTER TABLE parted ADD COLUMN came int DEFAULT 5, DROP COLUMN gone").await;
    link.source.execute("INSERT INTO parted VALUES (-1, '2024-03-01', 1, 7), (-2, '2024-09-01', 2, 7)").await;
    let target = link.target.connect().await;
    let arrived = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'parted'::regclass AND attname = 'came'";
    while target.query_one(arrived, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is gone from the source stays in the target, and is no difference.
    let [found] = link.verify(&engine, ["parted"], false).await;
    assert_eq!((found.result, found.source_rows), (VerificationResult::Equal, 1002), "{found:?}");
    target.batch_execute("UPDATE parted SET came = 6 WHERE id = 9; DELETE FROM parted WHERE id IN (-2, 500)").await.unwrap();
    let [found] = link.verify(&engine, ["parted"], true).await;
    assert_eq!((found.result, found.repaired), (VerificationResult::Equal, 3), "{found:?}");
    engine.kill().await;
}

impl Link {
    /// Waits until the link waits for a transaction of its source.
    async fn waits_for_a_transaction(&self) {
        let session = self.source.connect().await;
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'link-operator'
                     AND query LIKE '%pg_prepared_xacts%'";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while session.query(waits, &[]).await.unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "it waits for nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A commit is in the stream, and so in the target, before a slow synchronous standby lets anybody see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_standby_keeps_invisible_are_not_called_different() {
    let server = Server::start();
    let link = Link::new(&server, &["t"]).await;
    link.source.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i").await;
    let name = &link.target.spec.database;
    link.target.execute(&format!("ALTER DATABASE {name} SET synchronous_commit = local")).await;
    let engine = link.start();
    engine.replicating(1).await;
    // The first changes of a table are taken only once they are visible.
    link.source.execute("UPDATE t SET v = 2").await;
    link.converged("t").await;
    let session = link.source.connect().await;
    for statement in ["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"] {
        session.batch_execute(statement).await.unwrap();
    }
    let writing = link.source.connect().await;
    let writing = tokio::spawn(async move { writing.batch_execute("UPDATE t SET v = 1 WHERE id < 10; DELETE FROM t WHERE id > 90").await });
    let target = link.target.connect().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while target.query_one("SELECT count(*) FROM t WHERE v = 1", &[]).await.unwrap().get::<_, i64>(0) < 9 {
        assert!(tokio::time::Instant::now() < deadline, "the target does not have what is still invisible in the source");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answers = async {
        link.waits_for_a_transaction().await;
        for statement in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
            session.batch_execute(statement).await.unwrap();
        }
    };
    let ([found], ()) = tokio::join!(link.verify(&engine, ["t"], false), answers);
    assert_eq!((found.result, found.differing_rows, found.source_rows), (VerificationResult::Equal, 0, 100), "{found:?}");
    writing.await.unwrap().unwrap();
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_and_who_joins_meanwhile_say_for_whom_they_wait_and_a_repair_not_for_ever() {
    let server = Server::start();
    let mut link = Link::new(&server, &["t"]).await;
    link.source
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i;
             CREATE TABLE comes (id int PRIMARY KEY); CREATE TABLE other (id int)",
        )
        .await;
    let engine = link.start();
    engine.replicating(1).await;
    link.target.execute("DELETE FROM t WHERE id < 10").await;
    let open = link.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    // One place for all who wait.
    link.replan(|plan| plan.bounds.max_connections = Some(5));
    let joins = async {
        link.waits_for_a_transaction().await;
        link.replan(|plan| plan.tables.push(planned("comes", 1)));
        let waits = engine.table("public.comes", TablePhase::Waiting, Some("OpenTransaction")).await;
        assert!(waits.waiting.unwrap().message.contains("application test"), "names who is waited for");
        open.batch_execute("COMMIT").await.unwrap();
    };
    let ([found], ()) = tokio::join!(link.verify(&engine, ["t"], true), joins);
    assert_eq!((found.result, found.repaired, found.message.as_ref()), (VerificationResult::Equal, 9, None), "{found:?}");
    engine.replicating(2).await;
    engine.kill().await;

    link.wait_for = Duration::from_secs(2);
    let engine = link.start();
    engine.replicating(2).await;
    link.target.execute("DELETE FROM t WHERE id < 10").await;
    open.batch_execute("BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    let [found, comes] = link.verify(&engine, ["t", "comes"], true).await;
    assert_eq!((found.result, found.unsettled_rows, found.repaired), (VerificationResult::Unsettled, 9, 0), "{found:?}");
    let why = found.message.unwrap();
    assert!(why.starts_with("OpenTransaction") && why.contains("application test"), "{why}");
    assert_eq!(comes.result, VerificationResult::Equal, "{comes:?}");
    open.batch_execute("COMMIT").await.unwrap();
    let [found] = link.verify(&engine, ["t"], true).await;
    assert_eq!((found.result, found.repaired), (VerificationResult::Equal, 9), "{found:?}");
    engine.kill().await;
}
