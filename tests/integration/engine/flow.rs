//! Snapshot, then every change.

use link_operator::{
    api::{link_connection::BreakingChange, report::TablePhase},
    replication::EngineReport,
};

use super::Link;
use crate::support::postgres::Server;

/// One of everything that makes a row awkward to copy.
pub const EVERY_TYPE: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE every_type (
        id bigint PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
        n numeric, n2 numeric(20, 5), n0 numeric(38, 0), m money,
        t text, v varchar(20), c char(5), nm name, ba bytea,
        d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval,
        u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, mac macaddr, mac8 macaddr8,
        bi bit(4), vb varbit(9), tv tsvector, tq tsquery, lsn pg_lsn, o oid,
        p point, l line, ls lseg, bx box, pa path, po polygon, cr circle,
        ai int[], at text[], ad date[][], r4 int4range, rn numrange, rt tstzrange, mr int4multirange,
        e mood, ea mood[], dm positive, "weird ""name" text, "größe" numeric(6, 2));
    INSERT INTO every_type VALUES (1, true, -32768, -2147483648, -9223372036854775808, 'NaN', '-Infinity',
        'NaN', 'NaN', 12345678901234567890123456789012345678, '$1,234.56',
        '', E'tab\t\nline\\', 'ab', 'a name', '\x00ff5c',
        '0044-03-15 BC', '24:00:00', '23:59:59.999999+15:59', '4713-01-01 00:00:00 BC', 'infinity', '1 year -2 mons +3 days -04:05:06.789',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1,  "a": 2}', '{"z": [1, 2.50, null]}', '<a>b</a>', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
        '1010', '101010101', 'a:1 fat:2,4 cat:3', 'fat & (rat | !cat)', '16/B374D848', 4294967295,
        '(1.5,-0)', '{1,2,3}', '[(0,0),(1,1)]', '(2,2),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', '<(1,2),3>',
        '{1,NULL,3}', '{"a,b","c\"d",NULL,"NULL",""}', '{{2020-01-01,infinity},{-infinity,0001-01-01}}', '[1,5)', '(,1.5]', 'empty', '{[1,3),[5,7)}',
        'it''s "fine"', '{sad,NULL,ok}', 7, 'quoted', 12.30);
    INSERT INTO every_type (id) VALUES (2);
    INSERT INTO every_type (id, f4, f8, n2, d, ts, tstz, ti, t) VALUES
        (3, '-0', 1e-307, -0.00001, 'infinity', '-infinity', '294276-12-31 23:59:59.999999+00', '00:00:00.000001', repeat('ü', 100)),
        (4, 3.4028235e38, 0.1, 999999999999999.99999, '5874897-12-31', '294276-12-31 23:59:59.999999', '4713-01-01 00:00:00+00 BC', '23:59:59.999999', E'\\.'),
        (5, 1.1, 1.7976931348623157e308, 0, '4713-01-01 BC', '1969-12-31 23:59:59.999999', '2024-02-29 12:00:00+05:30', '12:34:56.7', '\N');
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_arrives_exactly_by_snapshot_and_by_change() {
    let link = Link::new(Server::shared(), &["every_type"]).await;
    link.source.execute(EVERY_TYPE).await;
    let engine = link.start();
    engine.replicating(1).await;
    link.converged("every_type").await;

    // The same rows once more, as changes.
    let again = "CREATE TABLE copy AS TABLE every_type; DELETE FROM every_type; INSERT INTO every_type SELECT * FROM copy;";
    link.source.execute(again).await;
    link.converged("every_type").await;
    link.source.execute("UPDATE every_type SET id = id + 100, t = t || '!'; UPDATE every_type SET d = '-infinity' WHERE id = 102").await;
    link.converged("every_type").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_loaded_and_then_follow_every_change() {
    let link = Link::new(Server::shared(), &["big", "empty", "odd \"schema.Ünïcode table\"", "pair"]).await;
    link.source
        .execute(
            r#"CREATE TABLE big (id int PRIMARY KEY, grp int, note text, amount numeric(12, 2));
               INSERT INTO big SELECT i, i % 10, 'note ' || i, i / 7.0 FROM generate_series(1, 50000) i;
               CREATE TABLE empty (id int PRIMARY KEY, at timestamptz);
               CREATE TABLE pair (b text, v int, a int, PRIMARY KEY (a, b));
               INSERT INTO pair SELECT 'k' || i, i, i / 10 FROM generate_series(1, 100) i;
               CREATE SCHEMA "odd ""schema"; CREATE TABLE "odd ""schema"."Ünïcode table" ("Spalte 1" int PRIMARY KEY, "select" text);
               INSERT INTO "odd ""schema"."Ünïcode table" VALUES (1, 'eins');"#,
        )
        .await;
    link.target.execute(r#"CREATE SCHEMA "odd ""schema""#).await;
    link.replan(|plan| {
        plan.tables[2].source = link_operator::data::TableName::new("odd \"schema", "Ünïcode table");
        plan.tables[2].target = plan.tables[2].source.clone();
    });
    let engine = link.start();
    engine.replicating(4).await;
    let tables = ["big", "empty", "pair", r#""odd ""schema"."Ünïcode table""#];
    for table in tables {
        link.converged(table).await;
    }
    let report = engine.report.borrow().clone();
    let big = report.tables.iter().find(|table| table.uid.contains("big")).unwrap();
    let snapshot = big.snapshot.clone().unwrap();
    assert_eq!((snapshot.rows_done, snapshot.chunks_done), (50_000, snapshot.chunks_total));
    assert!(snapshot.chunks_total > 4, "{snapshot:?}");
    assert!(snapshot.last_progress_time > snapshot.start_time, "{snapshot:?}");

    link.source
        .execute(
            r#"INSERT INTO empty VALUES (1, now()), (2, NULL);
               UPDATE big SET note = 'changed' WHERE grp = 3;
               DELETE FROM big WHERE grp = 4;
               UPDATE big SET id = -id WHERE grp = 5;
               -- Keys that change places, and a key that is used again within one transaction.
               BEGIN; UPDATE pair SET a = 1000 WHERE b = 'k1'; UPDATE pair SET a = 0, b = 'k1' WHERE b = 'k2'; UPDATE pair SET b = 'k2', a = 0 WHERE a = 1000; COMMIT;
               BEGIN; DELETE FROM big WHERE id = 1; INSERT INTO big VALUES (1, 1, 'again', 1); DELETE FROM big WHERE id = 1; INSERT INTO big VALUES (1, 1, 'and again', 1); COMMIT;
               BEGIN; INSERT INTO empty VALUES (3, now()); ROLLBACK;
               UPDATE "odd ""schema"."Ünïcode table" SET "select" = NULL;"#,
        )
        .await;
    for table in tables {
        link.converged(table).await;
    }

    link.source
        .execute("BEGIN; INSERT INTO empty VALUES (9, NULL); TRUNCATE empty, pair; INSERT INTO empty VALUES (10, NULL); COMMIT")
        .await;
    for table in ["empty", "pair"] {
        link.converged(table).await;
    }
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_that_an_update_left_alone_stay() {
    let link = Link::new(Server::shared(), &["doc"]).await;
    let body = "(SELECT string_agg(md5((i * 1000 + g)::text), '') FROM generate_series(1, 300) g)";
    link.source
        .execute(&format!(
            "CREATE TABLE doc (id int PRIMARY KEY, title text, body text); ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
             INSERT INTO doc SELECT i, 'title ' || i, {body} FROM generate_series(1, 500) i"
        ))
        .await;
    let engine = link.start();
    // While the snapshot is under way, and after.
    link.source.execute("UPDATE doc SET title = 'early' WHERE id % 3 = 0; UPDATE doc SET id = id + 1000 WHERE id % 5 = 0").await;
    engine.replicating(1).await;
    link.converged("doc").await;
    link.source
        .execute("UPDATE doc SET title = 'late' WHERE id % 2 = 0; UPDATE doc SET id = id + 5000, title = 'moved' WHERE id % 7 = 0")
        .await;
    link.source.execute("BEGIN; UPDATE doc SET body = 'short' WHERE id = 1; UPDATE doc SET title = 'x' WHERE id = 1; UPDATE doc SET id = -1 WHERE id = 1; COMMIT").await;
    link.converged("doc").await;
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_its_shape_fails_alone_and_a_reseed_cures_it() {
    let link = Link::new(Server::shared(), &["shaped", "other"]).await;
    link.source
        .execute(
            "CREATE TABLE shaped (id int PRIMARY KEY, a int); INSERT INTO shaped VALUES (1, 1); CREATE TABLE other (id int PRIMARY KEY)",
        )
        .await;
    let engine = link.start();
    engine.replicating(2).await;
    link.source.execute("ALTER TABLE shaped ALTER a TYPE text; INSERT INTO shaped VALUES (2, 'two'); INSERT INTO other VALUES (1)").await;
    let failed = engine.table("public.shaped", TablePhase::Failed, Some("SchemaChanged")).await;
    assert!(failed.error.unwrap().remedy.contains("reseed"));
    link.converged("other").await;
    assert_eq!(Link::rows(&link.target, "shaped").await.unwrap(), ["(1,1)"], "what was there stays, until the table is complete again");

    link.replan(|plan| plan.tables[0].reseed = Some("now".into()));
    engine.table("public.shaped", TablePhase::Replicating, None).await;
    link.converged("shaped").await;

    // That a load answers a request is said of that load, not of the one before.
    link.target.execute("DELETE FROM other").await;
    link.replan(|plan| plan.tables[1].reseed = Some("again".into()));
    let answered = |report: &EngineReport| {
        let other = report.tables.iter().find(|table| table.uid.starts_with("public.other"));
        other.is_some_and(|table| table.reseed.as_deref() == Some("again") && table.phase == TablePhase::Replicating)
    };
    engine.until("the request is answered", answered).await;
    assert_eq!(Link::rows(&link.target, "other").await.unwrap(), ["(1)"]);
    engine.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_its_shape_is_loaded_anew_if_the_link_says_so() {
    let link = Link::new(Server::shared(), &["grown"]).await;
    link.replan(|plan| plan.schema_change.breaking = BreakingChange::Reseed);
    link.source.execute("CREATE TABLE grown (id int PRIMARY KEY, a int); INSERT INTO grown VALUES (1, 1)").await;
    let engine = link.start();
    engine.replicating(1).await;
    for change in ["ADD b text DEFAULT 'b'", "ALTER a TYPE bigint", "RENAME b TO c", "DROP a"] {
        link.source.execute(&format!("ALTER TABLE grown {change}; INSERT INTO grown SELECT max(id) + 1 FROM grown")).await;
        link.converged("grown").await;
    }
    engine.replicating(1).await;
    engine.kill().await;
}

/// A transaction that is many times larger than what is held at once: in three pieces and more of the capture, in several of
/// the applier. Values that later statements leave unchanged must be found in the piece before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_memory_arrives_whole_and_in_pieces() {
    let link = Link::new(Server::shared(), &["huge"]).await;
    link.source
        .execute(
            "CREATE TABLE huge (id int PRIMARY KEY, v int, body text); ALTER TABLE huge ALTER body SET STORAGE EXTERNAL;
             INSERT INTO huge SELECT i, 0, repeat(md5(i::text), 100) FROM generate_series(1, 100) i",
        )
        .await;
    let engine = link.start();
    engine.replicating(1).await;
    let before = link.records();
    link.source
        .execute(
            "BEGIN; INSERT INTO huge SELECT i, 0, repeat(md5(i::text), 100) FROM generate_series(101, 30000) i;
             UPDATE huge SET v = v + 1; UPDATE huge SET id = -id WHERE id % 3 = 0; DELETE FROM huge WHERE id % 7 = 0; COMMIT",
        )
        .await;
    link.converged("huge").await;
    let (files, commits) = link.files_since(&before);
    assert!(files > 8 && commits == 1, "{files} files in {commits} records with data");
    engine.kill().await;
}
