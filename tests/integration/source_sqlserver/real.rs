//! Tables of a real server, whatever keeps their changes.

use link_operator::{
    api::{database::CaptureMode, fault::Explain as _},
    data::{Among, Digests, KeyRange, KeyTexts, TableSchema},
    source::Source as _,
};

use super::{captured::capturing, name, read, source, told};
use crate::support::sqlserver::{Database, given};

/// A database of a server that is given, in a mode in which it can keep changes.
pub async fn database(what: &str) -> Option<(Database, CaptureMode)> {
    let database = given(what)?.create().await;
    if database.session().await.query("SELECT CHANGE_TRACKING_CURRENT_VERSION()").await.is_ok() {
        database.run("ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON").await;
        database.run("ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 1 DAYS, AUTO_CLEANUP = ON)").await;
        return Some((database, CaptureMode::ChangeTracking));
    }
    capturing(&database, what).await.then_some((database, CaptureMode::ChangeDataCapture))
}

/// Has the changes of a table kept.
pub async fn enable(database: &Database, mode: CaptureMode, table: &str) {
    database
        .run(&match mode {
            CaptureMode::ChangeTracking => format!("ALTER TABLE dbo.[{table}] ENABLE CHANGE_TRACKING"),
            CaptureMode::ChangeDataCapture => {
                format!("EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'{table}', @role_name = NULL")
            }
        })
        .await;
}

/// Keys of each type that a key may have, more than one value each; the source puts them into its own order.
const KEYS: [(&str, &[&str]); 16] = [
    ("bit", &["0", "1"]),
    ("tinyint", &["0", "255", "7"]),
    ("smallint", &["-32768", "0", "32767"]),
    ("int", &["-2147483648", "0", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807", "1"]),
    ("decimal(38, 10)", &["-9999999999999999999999999999.9999999999", "0", "0.0000000001"]),
    ("money", &["-922337203685477.5808", "0.0001", "1"]),
    ("char(3)", &["'a'", "'ab'", "'B'"]),
    ("varchar(20)", &["''", "'O''Neil'", "'a-b'", "'ab'", "'a_b'"]),
    ("nvarchar(20)", &["N'ä'", "N'z'", "N'漢字'", "N'a'"]),
    ("varbinary(8)", &["0x", "0x0001", "0xff00"]),
    ("uniqueidentifier", &["'00000000-0000-0000-0000-010000000000'", "'ffffffff-0000-0000-0000-000000000000'", "NEWID()"]),
    ("date", &["'0001-01-01'", "'9999-12-31'", "'2026-02-28'"]),
    ("datetime", &["'1753-01-01'", "'2026-01-01T00:00:00.003'", "'2026-01-01T00:00:00.007'"]),
    ("datetime2(6)", &["'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'2026-01-01 00:00:00.000001'"]),
    ("datetimeoffset(3)", &["'2026-01-01 00:00:00 +02:00'", "'2026-01-01 00:00:00.001 -11:00'", "'1999-01-01 00:00:00 +00:00'"]),
];

#[tokio::test]
async fn every_row_is_in_one_chunk_whatever_the_key() {
    let Some((database, mode)) = database("chunks by every type of key").await else { return };
    let source = source(&database, mode);
    for (kind, values) in KEYS {
        let values: Vec<String> = values.iter().flat_map(|value| [format!("({value}, 1)"), format!("({value}, 2)")]).collect();
        database.run(&format!("CREATE TABLE dbo.k (k {kind} NOT NULL, n int NOT NULL, v nvarchar(20), PRIMARY KEY (k, n))")).await;
        let rows = if kind == "uniqueidentifier" { &values[..4] } else { &values[..] };
        database.run(&format!("INSERT INTO dbo.k (k, n) VALUES {}", rows.join(", "))).await;
        enable(&database, mode, "k").await;
        let schema = source.describe(&name("k")).await.unwrap();
        source.settle(&|_| {}).await.unwrap();
        // A chunk of so few bytes has a row or some.
        let plan = source.plan_chunks(&schema, 160).await.unwrap();
        assert_eq!(plan.rows_estimated, Some(rows.len() as u64), "{kind}");
        assert!(plan.chunks.len() > 2, "{kind}: {plan:?}");
        let (mut found, _) = read(&source, &schema, &plan).await;
        assert_eq!(found.len(), rows.len(), "{kind}: {found:?}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), rows.len(), "{kind}");
        // The same rows by their keys.
        let listed = source
            .row_digests(
                &schema,
                Among::Buckets(&KeyRange::default(), &buckets(&source.digest(&schema, &KeyRange::default()).await.unwrap())),
            )
            .await
            .unwrap();
        let keys: Vec<KeyTexts> = listed.keys().cloned().collect();
        assert_eq!(source.row_digests(&schema, Among::Keys(&keys)).await.unwrap(), listed, "{kind}");
        let fetched = source.fetch(&schema, &source.keys(&schema, &keys).unwrap(), &[], super::keep().values).await.unwrap();
        let mut fetched = told(&schema, &fetched.rows);
        fetched.sort();
        assert_eq!(fetched, found, "{kind}");
        database.run("DROP TABLE dbo.k").await;
        if mode == CaptureMode::ChangeDataCapture {
            database.run("DROP TABLE cdc.dbo_k_CT; DELETE FROM cdc.change_tables; DELETE FROM cdc.captured_columns").await;
        }
    }
}

fn buckets(digests: &Digests) -> Vec<String> {
    digests.keys().cloned().collect()
}

#[tokio::test]
async fn ranges_cover_the_table_and_digests_add_up() {
    let Some((database, mode)) = database("digests").await else { return };
    let source = source(&database, mode);
    database.run("CREATE TABLE dbo.t (a int NOT NULL, b decimal(10, 2) NOT NULL, v nvarchar(max), PRIMARY KEY (a, b))").await;
    let values: Vec<String> = (0..500).map(|n| format!("({}, {}.50, N'v|{n}')", n / 7, n)).collect();
    database.run(&format!("INSERT INTO dbo.t VALUES {}", values.join(", "))).await;
    enable(&database, mode, "t").await;
    let schema: TableSchema = source.describe(&name("t")).await.unwrap();
    let (mut range, mut rows, mut ranges) = (KeyRange::default(), 0, 0);
    loop {
        range.upto = source.cut_range(&schema, range.after.as_ref(), 60).await.unwrap();
        rows += source.digest(&schema, &range).await.unwrap().values().map(|digest| digest.rows).sum::<u64>();
        ranges += 1;
        let Some(upto) = range.upto.take() else { break };
        range.after = Some(upto);
    }
    assert_eq!((rows, ranges), (500, 9));
    let before = source.digest(&schema, &KeyRange::default()).await.unwrap();
    database.run("UPDATE dbo.t SET v = NULL WHERE b = 9.5").await;
    let after = source.digest(&schema, &KeyRange::default()).await.unwrap();
    assert_eq!(before.iter().filter(|(bucket, digest)| after.get(*bucket) != Some(*digest)).count(), 1);
}

/// Name, type, value in SQL, and as it prints.
type Case = (&'static str, &'static str, &'static str, &'static str);

#[tokio::test]
async fn values_of_all_types_come_as_they_are() {
    let Some((database, mode)) = database("values of all types").await else { return };
    let source = source(&database, mode);
    let columns = [
        ("a", "bit", "1", "true"),
        ("b", "tinyint", "255", "255"),
        ("c", "float", "0.1", "0.1"),
        ("d", "real", "1.5", "1.5"),
        ("e", "decimal(38, 4)", "-9999999999999999999999999999999999.9999", "-9999999999999999999999999999999999.9999"),
        ("f", "smallmoney", "-214748.3648", "-214748.3648"),
        ("g", "varchar(max)", "'x'", "x"),
        ("h", "nvarchar(max)", "N'漢字 𝄞'", "漢字 𝄞"),
        ("i", "varbinary(max)", "0x00ff", "\\x00ff"),
        ("j", "smalldatetime", "'2026-01-01 12:34:00'", "2026-01-01 12:34:00"),
        ("k", "datetime", "'9999-12-31T23:59:59.997'", "9999-12-31 23:59:59.997"),
        ("l", "datetime2(3)", "'0001-01-01 00:00:00.001'", "0001-01-01 00:00:00.001"),
        ("m", "time(6)", "'23:59:59.999999'", "23:59:59.999999"),
        ("n", "uniqueidentifier", "'00112233-4455-6677-8899-aabbccddeeff'", "00112233-4455-6677-8899-aabbccddeeff"),
        ("o", "datetimeoffset(6)", "'2026-11-21 12:00:00.123456 +02:00'", "2026-11-21 10:00:00.123456+00"),
        ("p", "xml", "'<a>1</a>'", "<a>1</a>"),
        ("q", "text", "'t'", "t"),
        ("r", "ntext", "N'ü'", "ü"),
        ("s", "image", "0x01", "\\x01"),
        ("t", "sysname", "N'n'", "n"),
    ];
    let list = |of: &dyn Fn(&Case) -> String| columns.iter().map(of).collect::<Vec<_>>().join(", ");
    database.run(&format!("CREATE TABLE dbo.v (id int PRIMARY KEY, {})", list(&|c| format!("[{}] {} NULL", c.0, c.1)))).await;
    database.run(&format!("INSERT INTO dbo.v VALUES (1, {}), (2, {})", list(&|c| c.2.to_owned()), list(&|_| "NULL".to_owned()))).await;
    enable(&database, mode, "v").await;
    let schema = source.describe(&name("v")).await.unwrap();
    let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
    let expected = [format!("1 {}", columns.map(|column| column.3).join(" ")), format!("2{}", " -".repeat(columns.len()))];
    assert_eq!(read(&source, &schema, &plan).await.0, expected);
}

#[tokio::test]
async fn a_chunk_of_a_table_that_is_another_now_voids_the_plan() {
    let Some((database, mode)) = database("tables that change under a plan").await else { return };
    let source = source(&database, mode);
    let make = "CREATE TABLE dbo.t (id int PRIMARY KEY, v varchar(10))";
    database.run(make).await;
    enable(&database, mode, "t").await;
    let schema = source.describe(&name("t")).await.unwrap();
    let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
    assert_eq!(plan.chunks.len(), 1);
    let reason = async |schema: &TableSchema| {
        let read = source.read_chunk(schema, &plan.chunks[0], super::keep().values).await;
        read.map(|_| ()).map_err(|error| error.fault().reason)
    };
    assert_eq!(reason(&schema).await, Ok(()));
    database.run("ALTER TABLE dbo.t ALTER COLUMN v varchar(20)").await;
    assert_eq!(reason(&schema).await, Err("SchemaChanged".to_owned()));
    database.run("DROP TABLE dbo.t").await;
    assert_eq!(reason(&schema).await, Err("SourceTableMissing".to_owned()));
    if mode == CaptureMode::ChangeDataCapture {
        database.run("DROP TABLE cdc.dbo_t_CT; DELETE FROM cdc.change_tables; DELETE FROM cdc.captured_columns").await;
    }
    database.run(make).await;
    enable(&database, mode, "t").await;
    assert_eq!(reason(&schema).await, Err("TableRewritten".to_owned()));
}

#[tokio::test]
async fn tables_that_cannot_be_linked_say_why() {
    let Some((database, mode)) = database("tables that cannot be linked").await else { return };
    let source = source(&database, mode);
    database.run("CREATE TABLE dbo.keyless (id int)").await;
    database.run("CREATE TABLE dbo.loose (id float PRIMARY KEY)").await;
    database.run("CREATE TABLE dbo.silent (id int PRIMARY KEY)").await;
    database.run("CREATE TABLE dbo.fit (id int PRIMARY KEY)").await;
    for table in ["loose", "fit"] {
        enable(&database, mode, table).await;
    }
    if mode == CaptureMode::ChangeDataCapture {
        enable(&database, mode, "keyless").await;
    }
    let found = source.discover().await.unwrap();
    let mut reasons = Vec::new();
    for (table, error) in &found {
        let described = source.describe(table).await.map(|_| ()).map_err(|error| error.fault());
        assert_eq!(described.err(), error.as_ref().map(link_operator::api::fault::Explain::fault), "{table}");
        reasons.push((table.table_name.as_str(), error.as_ref().map_or("", Into::into)));
    }
    assert_eq!(reasons, [("fit", ""), ("keyless", "NoPrimaryKey"), ("loose", "TableNotSupported"), ("silent", "TableNotSupported")]);
    let missing = source.describe(&name("none")).await.unwrap_err();
    assert_eq!(missing.fault().reason, "SourceTableMissing");
    let other_case = source.describe(&name("FIT")).await.unwrap_err();
    assert_eq!(other_case.fault().reason, "SourceTableMissing");
}

#[tokio::test]
async fn a_database_knows_itself_again() {
    let Some((database, mode)) = database("identities").await else { return };
    let source = source(&database, mode);
    let identity = source.identity().await.unwrap();
    assert_eq!(source.identity().await.unwrap(), identity);
    let begun = source.begin_run("owner").await.unwrap();
    source.check_continuity(&begun, &identity).await.unwrap();
    let other = super::source(&database.create().await, mode);
    assert_ne!(other.identity().await.unwrap().system, identity.system);
}
