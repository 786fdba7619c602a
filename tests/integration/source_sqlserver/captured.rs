//! Change data capture, on a server that has it or acts it out.

use link_operator::{
    api::{database::CaptureMode, fault::Explain as _},
    source::{Error, Source as _},
};

use super::{captured, cut, keep, limits, name, of, read, source};
use crate::support::sqlserver::{Database, given};

/// The functions and procedures of a Babelfish server that act change data capture out.
const ACTED: &str = include_str!("../../support/acted_cdc.sql");

/// Switches change data capture on, also where it has to be acted out: `LINK_TEST_BABELFISH_PG=host:port` is the PostgreSQL port of
/// such a server. False: there is none, and `what` is skipped.
pub async fn capturing(database: &Database, what: &str) -> bool {
    if let Ok(address) = std::env::var("LINK_TEST_BABELFISH_PG") {
        let (host, port) = address.split_once(':').unwrap();
        let mut config = tokio_postgres::Config::new();
        let secret = |key: &str| std::fs::read_to_string(database.secret(key)).unwrap();
        config.host(host).port(port.parse().unwrap()).dbname("babelfish_db").user(secret("username")).password(secret("password"));
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        // Others may be at it, too.
        client.batch_execute("SELECT pg_advisory_lock(54330)").await.unwrap();
        client.batch_execute(ACTED).await.unwrap();
        drop(client);
        let _ = connection.await;
        database.run("CREATE SCHEMA cdc").await;
    }
    if let Err(failure) = database.session().await.run("EXEC sys.sp_cdc_enable_db").await {
        println!("skipped, for the server cannot capture changes ({}): {what}", failure.message);
        return false;
    }
    true
}

const MODE: CaptureMode = CaptureMode::ChangeDataCapture;

async fn database(what: &str) -> Option<Database> {
    let database = given(what)?.create().await;
    let _ = database.session().await.run("ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON").await;
    capturing(&database, what).await.then_some(database)
}

async fn enable(database: &Database, table: &str, instance: &str) {
    let sql = format!(
        "EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'{table}', @capture_instance = N'{instance}', @role_name = NULL"
    );
    database.run(&sql).await;
}

#[tokio::test]
async fn changes_come_in_the_order_of_the_log_and_together() {
    let Some(database) = database("changes by capture").await else { return };
    let source = source(&database, MODE);
    database.run("CREATE TABLE dbo.a (id int PRIMARY KEY, v nvarchar(20)); CREATE TABLE dbo.b (id int PRIMARY KEY, v nvarchar(20))").await;
    enable(&database, "a", "dbo_a").await;
    enable(&database, "b", "dbo_b").await;
    let begun = source.begin_run("owner").await.unwrap();
    let schemas = [source.describe(&name("a")).await.unwrap(), source.describe(&name("b")).await.unwrap()];
    let tables = vec![
        captured(1, &schemas[0], &source.admit(&schemas[0]).await.unwrap()),
        captured(2, &schemas[1], &source.admit(&schemas[1]).await.unwrap()),
    ];
    let mut capture = source.capture(&begun, true, tables.clone(), keep()).await.unwrap();
    database
        .run(
            "BEGIN TRANSACTION; INSERT INTO dbo.a VALUES (1, N'one'), (2, N'two'); INSERT INTO dbo.b VALUES (1, N'b'); \
             UPDATE dbo.a SET v = N'2' WHERE id = 2; UPDATE dbo.a SET id = 3 WHERE id = 1; DELETE FROM dbo.a WHERE id = 2; COMMIT",
        )
        .await;
    let all = cut(&mut *capture, 1 << 20).await.unwrap();
    assert!(all.whole && all.time.is_some() && all.to > begun);
    let expected = ["update 1 one", "update 2 two", "update 2 2", "delete 1 -", "update 3 one", "delete 2 -"];
    assert_eq!(of(&all, 1, &schemas[0]), expected);
    assert_eq!(of(&all, 2, &schemas[1]), ["update 1 b"]);
    // Nothing comes twice.
    let quiet = capture.next_cut(limits(1)).await.unwrap();
    assert!(quiet.tables.is_empty() && quiet.to == all.to);
    // The same from the same place, in pieces of which only the last ends the batch.
    drop(capture);
    let mut again = source.capture(&begun, true, tables, keep()).await.unwrap();
    let mut pieces = Vec::new();
    loop {
        let piece = again.next_cut(limits(1)).await.unwrap();
        pieces.extend(of(&piece, 1, &schemas[0]));
        if piece.whole {
            assert_eq!(piece.to, all.to);
            break;
        }
        assert!(piece.to < all.to);
    }
    assert_eq!(pieces, expected);
}

#[tokio::test]
async fn a_chunk_and_the_changes_after_it_are_the_table() {
    let Some(database) = database("snapshots beside changes").await else { return };
    let source = source(&database, MODE);
    database.run("CREATE TABLE dbo.a (id int PRIMARY KEY, v nvarchar(20)); INSERT INTO dbo.a VALUES (1, N'old')").await;
    enable(&database, "a", "dbo_a").await;
    let begun = source.begin_run("owner").await.unwrap();
    let schema = source.describe(&name("a")).await.unwrap();
    let admitted = source.admit(&schema).await.unwrap();
    let v0 = source.settle(&|_| {}).await.unwrap();
    assert!(v0 >= begun);
    database.run("INSERT INTO dbo.a VALUES (2, N'new')").await;
    let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
    let mut reading = source.read_chunk(&schema, &plan.chunks[0], keep().values).await.unwrap();
    // What is committed while a chunk is read is not in it.
    database.run("INSERT INTO dbo.a VALUES (3, N'newest')").await;
    let batches: Vec<_> = futures::TryStreamExt::try_collect::<Vec<_>>(&mut reading.rows).await.unwrap();
    assert_eq!(batches.iter().flat_map(|batch| super::told(&schema, batch)).collect::<Vec<_>>(), ["1 old", "2 new"]);
    let mut capture = source.capture(&v0, true, vec![captured(1, &schema, &admitted)], keep()).await.unwrap();
    let changes = cut(&mut *capture, 1 << 20).await.unwrap();
    assert_eq!(of(&changes, 1, &schema), ["update 2 new", "update 3 newest"]);
    assert!(reading.read_at > v0 && reading.read_at < changes.to);
    assert_eq!(read(&source, &schema, &plan).await.0.len(), 3);
}

#[tokio::test]
async fn an_instance_is_followed_by_the_next_and_what_was_cleaned_up_is_noticed() {
    let Some(database) = database("capture instances").await else { return };
    let source = source(&database, MODE);
    database.run("CREATE TABLE dbo.a (id int PRIMARY KEY, v nvarchar(20))").await;
    enable(&database, "a", "one").await;
    let begun = source.begin_run("owner").await.unwrap();
    let schema = source.describe(&name("a")).await.unwrap();
    let admitted = source.admit(&schema).await.unwrap();
    let tables = vec![captured(1, &schema, &admitted)];
    database.run("INSERT INTO dbo.a VALUES (1, N'old')").await;
    enable(&database, "a", "two").await;
    database.run("INSERT INTO dbo.a VALUES (2, N'new')").await;
    let mut capture = source.capture(&begun, true, tables.clone(), keep()).await.unwrap();
    assert_eq!(of(&cut(&mut *capture, 1 << 20).await.unwrap(), 1, &schema), ["update 1 old", "update 2 new"]);
    // The older one goes.
    database.run("DELETE FROM cdc.change_tables WHERE capture_instance = N'one'").await;
    database.run("INSERT INTO dbo.a VALUES (3, N'newer')").await;
    assert_eq!(of(&cut(&mut *capture, 1 << 20).await.unwrap(), 1, &schema), ["update 3 newer"]);
    // Who comes late has lost what only it had.
    let mut late = source.capture(&begun, true, tables, keep()).await.unwrap();
    let lost = cut(&mut *late, 1 << 20).await.unwrap();
    let [(1, error)] = &lost.broken[..] else { panic!("{:?}", lost.broken) };
    assert!(matches!(error, Error::ChangeVersionExpired(_)) && error.heals(), "{error}");
    assert!(of(&lost, 1, &schema).is_empty());
}

#[tokio::test]
async fn a_column_that_is_not_captured_ends_the_table() {
    let Some(database) = database("columns that are added under capture").await else { return };
    let source = source(&database, MODE);
    database.run("CREATE TABLE dbo.a (id int PRIMARY KEY, v nvarchar(20))").await;
    enable(&database, "a", "one").await;
    let begun = source.begin_run("owner").await.unwrap();
    let schema = source.describe(&name("a")).await.unwrap();
    let admitted = source.admit(&schema).await.unwrap();
    let mut capture = source.capture(&begun, true, vec![captured(1, &schema, &admitted)], keep()).await.unwrap();
    database.run("ALTER TABLE dbo.a ADD more int").await;
    capture.compare().await.unwrap();
    let found = cut(&mut *capture, 1 << 20).await.unwrap();
    assert!(matches!(&found.broken[..], [(1, Error::SchemaChanged(why))] if why.contains("more")), "{:?}", found.broken);
    let refused = source.describe(&name("a")).await.unwrap_err();
    assert!(refused.remedy().contains("sp_cdc_enable_table"), "{}", refused.remedy());
}

#[tokio::test]
async fn a_capture_job_that_stands_still_is_named() {
    let Some(database) = database("a capture job that stands still").await else { return };
    let source = source(&database, MODE);
    let begun = source.begin_run("owner").await.unwrap();
    let mut capture = source.capture(&begun, true, vec![], keep()).await.unwrap();
    capture.compare().await.unwrap();
    if database.session().await.run("UPDATE cdc.lsn_time_mapping SET tran_end_time = DATEADD(HOUR, -1, tran_end_time)").await.is_err() {
        println!("skipped, for the server does not let it: a capture job that stands still");
        return;
    }
    let error = capture.compare().await.unwrap_err();
    assert!(matches!(error, Error::CaptureNotRunning { .. }) && error.remedy().contains("sp_cdc_start_job"), "{error}");
}
