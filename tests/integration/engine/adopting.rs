//! Tables that the target has already: taken over where they stand, compared, repaired, and followed.

use std::time::Duration;

use link_operator::{
    api::{
        database::OnExistingTable,
        report::TablePhase,
        verification::{Verification, VerificationResult},
    },
    replication::share,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Engine, Link, flow::EVERY_TYPE, planned, verifying::Writer};
use crate::support::postgres::{Database, Server};

impl Link {
    /// A link that adopts what is there.
    async fn adopting(server: &Server, tables: &[&str]) -> Self {
        let link = Self::new(server, tables).await;
        link.on_existing(OnExistingTable::Adopt);
        link
    }

    fn on_existing(&self, on_existing: OnExistingTable) {
        self.replan(|plan| plan.target.postgresql.as_mut().unwrap().on_existing_table = on_existing);
    }

    /// The target table's identity: another one after it was replaced.
    async fn oid(&self, table: &str) -> u32 {
        let sql = format!("SELECT '{table}'::regclass::oid");
        self.target.connect().await.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Chunks that were read of any table.
    fn chunks(&self) -> usize {
        self.files("/chunks/").len()
    }
}

impl Engine {
    /// What the engine found by itself of a table.
    async fn found(&self, table: &str) -> Verification {
        let of = |report: &link_operator::replication::EngineReport| {
            report.verifications.iter().find(|found| found.uid.starts_with(&format!("public.{table}-"))).map(|found| found.found.clone())
        };
        of(&self.until(&format!("{table} is compared"), |report| of(report).is_some()).await).unwrap()
    }
}

/// 50,000 rows, one in ten with a large value that a change does not carry unless it alters it.
const COPY: &str = "
    CREATE TABLE copy (id int PRIMARY KEY, v int NOT NULL, note text NOT NULL, body text);
    ALTER TABLE copy ALTER body SET STORAGE EXTERNAL;
    INSERT INTO copy SELECT i * 2, 0, 'note ' || i, CASE WHEN i % 10 = 0 THEN repeat(md5(i::text), 80) END FROM generate_series(1, 50000) i;";

/// As a backup of long ago, and what somebody did to it since: 700 rows are missing, 500 too many, 1,250 different (500 of them in
/// the large value, 250 of them lack it).
const DAMAGE: &str = "
    ALTER TABLE copy ADD loaded date NOT NULL DEFAULT '2024-02-29'; CREATE INDEX ON copy (note);
    DELETE FROM copy WHERE id BETWEEN 10001 AND 11400; INSERT INTO copy SELECT i * 2 - 1, 1, 'too many', 'x' FROM generate_series(1, 500) i;
    UPDATE copy SET note = 'other' WHERE id BETWEEN 20001 AND 21000; UPDATE copy SET body = 'altered' WHERE id BETWEEN 30001 AND 35000 AND id % 20 = 0;
    UPDATE copy SET body = NULL WHERE id BETWEEN 40001 AND 45000 AND id % 20 = 0;";

/// Everywhere, also where the copy is wrong: large values stay, rows move, come and go, and some are never left alone.
const STEADY: &str = "
    UPDATE copy SET v = v + 1 WHERE id IN (10002, 20002, 40020);
    UPDATE copy SET v = v + 1 WHERE id = 20 * (1 + ({} * 7919) % 5000);
    UPDATE copy SET v = v + 1 WHERE id = 10000 + 20 * ({} % 70); UPDATE copy SET v = -v WHERE id = 30000 + 20 * ({} % 750);
    UPDATE copy SET id = -id WHERE id = 20 * (1 + ({} * 31) % 5000); UPDATE copy SET id = -id WHERE id = -20 * (1 + ({} * 31 - 93) % 5000);
    DELETE FROM copy WHERE id = 2 * (1 + ({} * 37) % 50000); INSERT INTO copy VALUES (1000001 + 2 * {}, 1, 'new', repeat('n', 2500));
    SELECT pg_sleep(0.002)";

/// Looks at the copy as readers do: it is always that table, and never without its rows.
async fn read(database: &Database, oid: u32, stop: CancellationToken) -> u32 {
    let session = database.connect().await;
    let mut looks = 0;
    while !stop.is_cancelled() {
        let row = session.query_one("SELECT count(*), min(tableoid) FROM copy", &[]).await.unwrap();
        assert!(row.get::<_, i64>(0) > 48_000, "{} rows", row.get::<_, i64>(0));
        assert_eq!(row.get::<_, u32>(1), oid);
        looks += 1;
        sleep(Duration::from_millis(20)).await;
    }
    looks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_there_is_taken_over_where_it_stands_while_the_source_is_written() {
    let link = Link::adopting(Server::shared(), &["copy"]).await;
    link.source.execute(COPY).await;
    link.target.execute(COPY).await;
    link.target.execute(DAMAGE).await;
    let oid = link.oid("copy").await;
    let writer = Writer::start(&link.source, STEADY).await;
    let stop = CancellationToken::new();
    let work = async {
        let engine = link.start();
        let told = engine.table("public.copy", TablePhase::Snapshotting, Some("Adopting")).await;
        assert!(!told.consistent && told.as_of.is_none(), "{told:?}");
        engine.replicating(1).await;
        stop.cancel();
        engine
    };
    let (engine, looks) = tokio::join!(work, read(&link.target, oid, stop.clone()));
    let rounds = writer.stop().await;
    let found = engine.found("copy").await;
    // It is right from when it replicates on, whatever comes.
    link.source.execute("UPDATE copy SET v = 7 WHERE id % 40 = 0; DELETE FROM copy WHERE id % 46 = 0").await;
    link.converged("copy").await;
    assert!(matches!(found.result, VerificationResult::Equal | VerificationResult::Unsettled), "{found:?}");
    assert!((1500..=2450).contains(&found.repaired) && found.differing_rows >= found.repaired, "{found:?}");
    assert!(rounds > 50 && looks > 5, "{rounds} rounds, {looks} looks, {found:?}");
    assert_eq!((link.oid("copy").await, link.chunks(), link.loads("copy")), (oid, 0, 1));
    // What the source does not have is as it was.
    let kept = "SELECT count(*)::text FROM copy WHERE loaded <> '2024-02-29'";
    assert_eq!(link.target.connect().await.query_one(kept, &[]).await.unwrap().get::<_, String>(0), "0");
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_cut_off_again_and_again_adopts_all_the_same() {
    let server = Server::start();
    let link = Link::adopting(&server, &["copy", "small"]).await;
    let small = "CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small SELECT generate_series(1, 1000);";
    link.source.execute(&format!("{COPY} {small}")).await;
    link.target.execute(&format!("{COPY} {small} {DAMAGE} DELETE FROM small WHERE id < 300")).await;
    let oids = [link.oid("copy").await, link.oid("small").await];
    let writer = Writer::start(&link.source, STEADY).await;
    let underway = "SELECT count(*) FROM link_operator.link_progress WHERE run IS NOT NULL AND NOT exact";
    let session = link.target.connect().await;
    let mut cut_off = 0;
    // Odd waits, so that all of joining, taking over, comparing and repairing are cut off.
    for wait in [150, 310, 470, 640, 820, 1010, 1200, 1390, 1580, 1800, 2000, 2210] {
        let engine = link.start();
        sleep(Duration::from_millis(wait)).await;
        engine.kill().await;
        // Its tables may not be there yet.
        let adopting: i64 = session.query_one(underway, &[]).await.map_or(0, |row| row.get(0));
        cut_off += u32::from(adopting > 0);
    }
    assert!(cut_off > 2, "cut off {cut_off} times while it adopted");
    // When repairs have come in, and when nothing differed any more.
    let engine = link.start();
    while session.query_one("SELECT count(*) FROM copy WHERE note = 'too many'", &[]).await.unwrap().get::<_, i64>(0) > 0 {
        sleep(Duration::from_millis(20)).await;
    }
    engine.kill().await;
    let engine = link.start();
    engine.found("copy").await;
    engine.kill().await;
    let mut engine = link.start();
    engine.replicating(2).await;
    for wait in [20, 90, 160, 230] {
        sleep(Duration::from_millis(wait)).await;
        engine.kill().await;
        engine = link.start();
    }
    writer.stop().await;
    engine.replicating(2).await;
    for (table, oid) in ["copy", "small"].into_iter().zip(oids) {
        link.converged(table).await;
        assert_eq!((link.oid(table).await, link.loads(table)), (oid, 1));
    }
    assert_eq!(link.chunks(), 0);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_it_must_be_waits_for_a_person_and_what_is_not_there_is_loaded() {
    let link = Link::adopting(Server::shared(), &["differs", "absent"]).await;
    let table =
        |name| format!("CREATE TABLE {name} (id int PRIMARY KEY, v bigint); INSERT INTO {name} SELECT i, i FROM generate_series(1, 500) i");
    link.source.execute(&format!("{}; {}", table("differs"), table("absent"))).await;
    link.target.execute("CREATE TABLE differs (id int PRIMARY KEY, v int); INSERT INTO differs VALUES (1, 2)").await;
    let oid = link.oid("differs").await;
    let engine = link.start();
    let told = engine.table("public.differs", TablePhase::Failed, Some("TargetTableDiffers")).await.error.unwrap();
    assert!(told.message.ends_with("cannot be adopted: its column v is integer, and must be bigint"), "{told:?}");
    let cure = "ALTER TABLE \"public\".\"differs\" ALTER COLUMN \"v\" TYPE bigint";
    assert!(told.remedy.starts_with(cure) && told.remedy.ends_with("onExistingTable to Recreate"), "{told:?}");
    engine.table("public.absent", TablePhase::Replicating, None).await;
    link.converged("absent").await;
    assert_eq!(Link::rows(&link.target, "differs").await.unwrap(), ["(1,2)"]);
    assert_eq!((link.loads("differs"), link.chunks() > 0), (0, true));

    link.target.execute(cure).await;
    engine.replicating(2).await;
    link.converged("differs").await;
    assert_eq!(link.oid("differs").await, oid);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_rest_does_not_keep_another_spelling_of_its_key() {
    let link = Link::adopting(Server::shared(), &["spelled"]).await;
    link.source.execute("CREATE TABLE spelled (id numeric PRIMARY KEY, v int); INSERT INTO spelled VALUES (1.5, 0), (2, 0)").await;
    link.target.execute("CREATE TABLE spelled (id numeric PRIMARY KEY, v int); INSERT INTO spelled VALUES (1.50, 0), (2, 0)").await;
    let writer = Writer::start(&link.source, "UPDATE spelled SET v = v + 1 WHERE id = 1.5; SELECT pg_sleep(0.01)").await;
    let engine = link.start();
    engine.found("spelled").await;
    writer.stop().await;
    engine.replicating(1).await;
    link.converged("spelled").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_restored_to_before_the_adoption_is_not_exact_unseen() {
    let link = Link::adopting(Server::shared(), &["restored"]).await;
    let table = "CREATE TABLE restored (id int PRIMARY KEY, v int); INSERT INTO restored SELECT i, i FROM generate_series(1, 500) i";
    link.source.execute(table).await;
    link.target.execute(table).await;
    let engine = link.start();
    engine.replicating(1).await;
    engine.kill().await;
    // As of when it was claimed, with rows that nobody has compared.
    link.target
        .execute(
            "UPDATE link_operator.link_progress SET run = NULL, incarnation = NULL, record = NULL, exact = false, as_of = NULL, placed = NULL;
             COMMENT ON TABLE restored IS NULL; UPDATE restored SET v = 0 WHERE id < 8",
        )
        .await;
    let engine = link.start();
    engine.table("public.restored", TablePhase::Failed, Some("TargetInconsistent")).await;
    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    engine.replicating(1).await;
    link.converged("restored").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_an_adoption_half_way_does_not_replace_the_table() {
    // On a server of its own: a transaction that is open in the target is none of the source's.
    let server = Server::start();
    let mut link = Link::adopting(Server::shared(), &["half"]).await;
    link.target = server.create_database().await;
    let target = link.target.spec.clone();
    link.replan(|plan| plan.target.postgresql.as_mut().unwrap().database = target);
    let table = "CREATE TABLE half (id int PRIMARY KEY, v int); INSERT INTO half SELECT i, i FROM generate_series(1, 500) i";
    link.source.execute(table).await;
    link.target.execute(&format!("{table}; ALTER TABLE half ADD added int; UPDATE half SET v = -1, added = 1 WHERE id = 1")).await;
    let oid = link.oid("half").await;
    // The repair of this row cannot come in, so the adoption goes on.
    let holder = link.target.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM half WHERE id = 1 FOR UPDATE").await.unwrap();
    let engine = link.start();
    engine.table("public.half", TablePhase::Snapshotting, Some("Adopting")).await;
    link.until("it is taken over and repaired", |link| !link.files("/data/").is_empty()).await;
    link.source.execute("ALTER TABLE half ADD added int DEFAULT 7; UPDATE half SET v = 0 WHERE id = 2").await;
    link.until("it fails, to join again", |link| {
        let records = link.files("/log/").into_iter().map(|path| std::fs::read_to_string(path).unwrap());
        records.into_iter().any(|record| record.contains("SchemaChanged"))
    })
    .await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    link.until("it has joined again", |link| link.loads("half") == 2).await;
    engine.replicating(1).await;
    link.converged("half").await;
    assert_eq!((link.oid("half").await, link.chunks()), (oid, 0));
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_a_link_left_behind_is_adopted_again_and_replaced_when_it_is_reseeded() {
    let link = Link::adopting(Server::shared(), &["every_type"]).await;
    link.source.execute(EVERY_TYPE).await;
    let engine = link.start();
    engine.replicating(1).await;
    link.converged("every_type").await;
    let (oid, chunks) = (link.oid("every_type").await, link.chunks());
    link.replan(|plan| plan.tables.clear());
    let claims = "SELECT count(*) FROM link_operator.link_progress";
    let session = link.target.connect().await;
    while session.query_one(claims, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        sleep(Duration::from_millis(50)).await;
    }
    link.target.execute("UPDATE every_type SET i4 = 5, r4 = NULL WHERE id = 1; DELETE FROM every_type WHERE id = 3").await;
    link.source.execute("UPDATE every_type SET t = 'since', dm = 8 WHERE id = 2; DELETE FROM every_type WHERE id = 4").await;

    link.replan(|plan| plan.tables.push(planned("every_type", 2)));
    engine.replicating(1).await;
    link.converged("every_type").await;
    let found = engine.found("every_type").await;
    assert_eq!((found.result, found.repaired), (VerificationResult::Equal, 4), "{found:?}");
    assert_eq!((link.oid("every_type").await, link.chunks()), (oid, chunks));

    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    while link.oid("every_type").await == oid {
        sleep(Duration::from_millis(50)).await;
    }
    engine.replicating(1).await;
    link.converged("every_type").await;
    assert_eq!((link.loads("every_type"), link.chunks() > chunks), (3, true));
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_captures_adopts_also_what_others_apply_and_tables_move_together_once_they_are_right() {
    let tables = ["t1", "t2", "t3", "t4"];
    for together in [false, true] {
        let link = Link::adopting(Server::shared(), &tables).await;
        link.replan(|plan| (plan.workers, plan.transactional_consistency) = (2, together));
        for table in tables {
            let sql = format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v int); INSERT INTO {table} SELECT i, i FROM generate_series(1, 1000) i"
            );
            link.source.execute(&sql).await;
            link.target.execute(&format!("{sql}; DELETE FROM {table} WHERE v <= 7")).await;
        }
        let engines = [link.start_worker(0), link.start_worker(1)];
        let plan = link.plan.borrow().clone();
        for (ordinal, engine) in (0..).zip(&engines) {
            let own = (1..=4).filter(|table| share::applier(&plan, *table) == ordinal).count();
            engine.until("its tables are consistent", |report| report.tables.iter().filter(|table| table.consistent).count() == own).await;
        }
        for table in tables {
            let found = engines[share::capturer(2) as usize].found(table).await;
            assert_eq!((found.result, found.repaired, found.source_rows), (VerificationResult::Equal, 7, 1000), "{found:?}");
            link.source.execute(&format!("UPDATE {table} SET v = -v WHERE id < 100")).await;
        }
        for table in tables {
            link.converged(table).await;
        }
        assert_eq!(link.chunks(), 0);
        for engine in engines {
            engine.kill().await;
        }
    }
}
