//! Reading a table of SQL Server over TDS beside `freebcp`, where a server is given (LINK_TEST_SQLSERVER): one connection each.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use futures::TryStreamExt as _;
use link_operator::{
    api::{database, zone::ZoneStore},
    data::{Chunk, TableName},
    landing::Zone,
    replication::{CHUNK_BYTES, error::Error, snapshot, values::ZoneValues},
    source::{self, Source},
};
use serde_json::json;

use crate::{
    heading,
    load::{own_cpu, rate},
    number, print,
    process::Watched,
    sqlserver::{self, Database},
};

/// Rows that are made at once.
const SLICE: u64 = 100_000;

/// The table and its rows. In slices: a server may keep a transaction's log in memory.
async fn fill(database: &Database, rows: u64) {
    database
        .run(
            "CREATE TABLE bench (id bigint NOT NULL PRIMARY KEY, customer int, product int, quantity int, price decimal(12, 2), discount float, \
             placed datetime2(6), shipped date, status nvarchar(20), note nvarchar(80))",
        )
        .await;
    let digits = "(SELECT n FROM (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) v(n))";
    for first in (0..rows).step_by(SLICE as usize) {
        database
            .run(&format!(
                "INSERT INTO bench SELECT i, i % 100000, i % 5000, i % 9, (i % 100000) / 100.0, i / 3.0, \
                 DATEADD(second, i, CAST('2024-01-01' AS datetime2(6))), DATEADD(day, i % 1000, CAST('2024-01-01' AS date)), \
                 CASE i % 4 WHEN 0 THEN N'new' WHEN 1 THEN N'paid' WHEN 2 THEN N'shipped' ELSE N'returned' END, \
                 CONCAT(N'note of order ', i, N' ', REPLICATE(N'x', 40)) \
                 FROM (SELECT {first} + a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n AS i \
                         FROM {digits} a, {digits} b, {digits} c, {digits} d, {digits} e) numbers WHERE i < {rows}"
            ))
            .await;
    }
}

/// Prints both figures.
pub async fn compare() {
    let Some(server) = sqlserver::given("reading over TDS beside freebcp") else { return };
    let rows = number("TDS_ROWS", 1_000_000);
    let database = server.create().await;
    fill(&database, rows).await;
    // Peers and link are measured in the bytes of the same text.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.txt");
    heading(&format!("Reading {rows} rows of 10 columns over TDS; one connection each"));
    let bytes = freebcp(&database, &file, rows);
    let mut spec = json!(database.spec);
    spec["captureMode"] = json!(keep_changes(&database).await);
    let source = database::Source { sql_server: Some(serde_json::from_value(spec).unwrap()), postgresql: None };
    let reader = source::open(&source, &database.secrets, "bench").unwrap();
    to_files(reader, rows, bytes).await;
    server.run(&format!("DROP DATABASE [{}]", database.spec.database)).await;
}

/// Only a table whose changes are kept can be linked. Returns how they are.
async fn keep_changes(database: &Database) -> &'static str {
    let mut session = database.session().await;
    if session.query("SELECT CHANGE_TRACKING_CURRENT_VERSION()").await.is_ok() {
        for sql in [
            "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON",
            "ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 1 DAYS, AUTO_CLEANUP = ON)",
            "ALTER TABLE dbo.bench ENABLE CHANGE_TRACKING",
        ] {
            database.run(sql).await;
        }
        return "ChangeTracking";
    }
    // Where change data capture is acted out, its schema is made by hand.
    let _ = database.session().await.run("CREATE SCHEMA cdc").await;
    database.run("EXEC sys.sp_cdc_enable_db").await;
    database.run("EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'bench', @role_name = NULL").await;
    "ChangeDataCapture"
}

/// Returns the bytes that it wrote.
fn freebcp(database: &Database, file: &std::path::Path, rows: u64) -> u64 {
    let login = |key: &str| std::fs::read_to_string(database.secret(key)).unwrap();
    let mut command = Command::new("freebcp");
    command.arg(format!("{}.dbo.bench", database.spec.database)).arg("out").arg(file).arg("-c");
    command.arg("-S").arg(format!("{}:{}", database.spec.host, database.spec.port));
    command.args(["-U", &login("username"), "-P", &login("password")]).stdout(Stdio::null());
    let began = Instant::now();
    match Watched::spawn(&mut command) {
        Ok(mut process) => {
            assert!(process.wait().success());
            let took = began.elapsed();
            let bytes = std::fs::metadata(file).unwrap().len();
            let cpu = rows as f64 / process.cpu().max(0.01);
            print("freebcp to a file of text", rows, took, &format!("{}, {cpu:.0} rows a second of CPU", rate(bytes, took)));
            bytes
        }
        Err(error) => {
            println!("freebcp is left out: {error}");
            0
        }
    }
}

/// Source to durable Parquet files, in this process.
async fn to_files(reader: Arc<dyn Source>, rows: u64, bytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    let store: ZoneStore = serde_json::from_value(json!({"persistentVolumeClaim": {"claimName": "zone"}})).unwrap();
    let zone = Zone::open(&store, &link_operator::secrets::Secrets::new(folder.path()), folder.path(), Some("bench")).unwrap();
    let schema = reader.describe(&TableName::new("dbo", "bench")).await.unwrap();
    let chunks = reader.plan_chunks(&schema, CHUNK_BYTES).await.unwrap().chunks;
    for (what, parquet) in [("link-operator, rows as Arrow alone", false), ("link-operator, to Parquet files", true)] {
        let (began, cpu) = (Instant::now(), own_cpu());
        let mut read = 0;
        for (number, chunk) in chunks.iter().enumerate() {
            let values = Arc::new(ZoneValues::of_chunks(zone.clone(), 1, 1, 1));
            read += if parquet {
                snapshot::read(&*reader, &zone, &schema, chunk, format!("{number}.parquet"), values).await.unwrap().file.rows
            } else {
                to_nowhere(&*reader, &schema, chunk, values).await.unwrap()
            };
        }
        let (took, cpu) = (began.elapsed(), own_cpu() - cpu);
        assert_eq!(read, rows);
        let rest = format!("{}, {:.0} rows a second of CPU", rate(bytes, took), rows as f64 / cpu);
        print(what, rows, took, &rest);
    }
}

async fn to_nowhere(
    reader: &dyn Source,
    schema: &link_operator::data::TableSchema,
    chunk: &Chunk,
    values: Arc<ZoneValues>,
) -> Result<u64, Error> {
    let rows = reader.read_chunk(schema, chunk, values).await?.rows;
    Ok(rows.map_ok(|batch| batch.num_rows() as u64).try_fold(0, |sum, rows| async move { Ok(sum + rows) }).await?)
}
