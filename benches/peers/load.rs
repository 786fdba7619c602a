//! The first load: all rows of a table, its key built.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use link_operator::{
    api::zone::ZoneStore,
    data::TableName,
    landing::Zone,
    replication::{CHUNK_BYTES, error::Error, snapshot, values::ZoneValues},
    source::{Source, postgresql::Postgresql},
};
use serde_json::json;

use crate::{
    Database, STREAMS, Server, TABLE, heading,
    link::Link,
    postgres::{PASSWORD, USER},
    print,
    process::Watched,
    value,
};

/// The peers. Returns what `COPY … | COPY …` made.
pub async fn compare(source: &Database, server: &Server, rows: u64, bytes: u64) -> Database {
    heading(&format!("First load: {rows} rows of 10 columns, {} MB; {STREAMS} streams each", bytes / 1_000_000));
    let copied = server.create_database().await;
    copy(source, &copied, rows, bytes).await;
    let cloned = server.create_database().await;
    let mut clone = Command::new("pgcopydb");
    let folder = tempfile::tempdir().unwrap();
    clone.args(["clone", "--table-jobs", &STREAMS.to_string(), "--no-acl", "--no-owner", "--split-tables-larger-than", "64MB"]);
    clone.args(["--source", &address(source), "--target", &address(&cloned), "--dir"]).arg(folder.path().join("work"));
    peer("pgcopydb clone", &mut clone, &cloned, rows, bytes, "").await;
    let full = server.create_database().await;
    for database in [source, &full] {
        database.execute(&format!("CREATE ROLE {SLING_ROLE} SUPERUSER LOGIN PASSWORD '{SLING_ROLE}'")).await;
    }
    let program = std::env::var("LINK_CACHE").unwrap_or_default() + SLING;
    let mut refresh = Command::new(program);
    refresh.args(["run", "--mode", "full-refresh", "--src-conn", "BENCH_SOURCE", "--src-stream", "public.bench"]);
    refresh.args(["--tgt-conn", "BENCH_TARGET", "--tgt-object", "public.bench"]);
    refresh.env("BENCH_SOURCE", url(source)).env("BENCH_TARGET", url(&full)).env("HOME", folder.path());
    refresh.env("SLING_DISABLE_TELEMETRY", "TRUE");
    peer("Sling full-refresh", &mut refresh, &full, rows, bytes, "ALTER TABLE bench ADD PRIMARY KEY (id)").await;
    copied
}

/// The program itself: what the Python package would run in its place.
const SLING: &str = "/sling-1.4.11/program";

/// A user whose password needs no escapes: Sling takes those of an address as they stand.
const SLING_ROLE: &str = "sling";

/// Bytes of the source's table, as the first figures' measure.
pub fn rate(bytes: u64, took: Duration) -> String {
    format!("{:>4.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64())
}

fn address(database: &Database) -> String {
    format!("host=127.0.0.1 port={} user={USER} dbname={} password='{PASSWORD}'", database.spec.port, database.spec.database)
}

fn url(database: &Database) -> String {
    format!("postgresql://{SLING_ROLE}:{SLING_ROLE}@127.0.0.1:{}/{}?sslmode=disable", database.spec.port, database.spec.database)
}

async fn peer(what: &str, command: &mut Command, target: &Database, rows: u64, bytes: u64, key: &str) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = || Stdio::from(log.reopen().unwrap());
    let began = Instant::now();
    match Watched::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output())) {
        Ok(mut process) => {
            let status = process.wait();
            if !status.success() {
                let said = fs::read_to_string(log.path()).unwrap_or_default();
                return println!("{what} is left out: {status}: {}", said.lines().rev().take(5).collect::<Vec<_>>().join(" / "));
            }
            if !key.is_empty() {
                target.execute(key).await;
            }
            let took = began.elapsed();
            assert_eq!(value::<i64>(target, "SELECT count(*) FROM bench").await as u64, rows);
            print(what, rows, took, &format!("{}, {}", rate(bytes, took), process.summary()));
        }
        Err(error) => println!("{what} is left out: {error}"),
    }
}

/// `COPY … TO STDOUT | COPY … FROM STDIN`, binary, by ranges of blocks, then the key.
async fn copy(source: &Database, target: &Database, rows: u64, bytes: u64) {
    target.execute(&TABLE.replace(" PRIMARY KEY", "")).await;
    let blocks: i64 = value(source, "SELECT pg_relation_size('bench') / 8192").await;
    let began = Instant::now();
    let streams: Vec<_> = (0..STREAMS as i64)
        .map(|stream| {
            let (from, to) = (blocks * stream / STREAMS as i64, blocks * (stream + 1) / STREAMS as i64);
            let out = format!("COPY (SELECT * FROM bench WHERE ctid >= '({from},0)' AND ctid < '({to},0)') TO STDOUT (FORMAT binary)");
            let into = "COPY bench FROM STDIN (FORMAT binary)".to_owned();
            let script = r#"psql -qX -h 127.0.0.1 -p "$1" -U "$2" -d "$3" -c "$4" | psql -qX -h 127.0.0.1 -p "$5" -U "$2" -d "$6" -c "$7""#;
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", &source.spec.port.to_string(), USER, &source.spec.database, &out]);
            command.args([&target.spec.port.to_string(), &target.spec.database, &into]).env("PGPASSWORD", PASSWORD);
            Watched::spawn(&mut command).unwrap()
        })
        .collect();
    let mut used = Vec::new();
    for mut stream in streams {
        assert!(stream.wait().success());
        used.push(stream.summary());
    }
    let took = began.elapsed();
    print("COPY | COPY, without the key", rows, took, &rate(bytes, took));
    target.execute("ALTER TABLE bench ADD PRIMARY KEY (id)").await;
    let took = began.elapsed();
    print("COPY | COPY, and the key built", rows, took, &format!("{}, each {}", rate(bytes, took), used.join(" and ")));
}

/// The link, and the part of its work that ends in the landing zone. Returns its target, and the link as it stands there.
pub async fn link(source: &Database, server: &Server, rows: u64, bytes: u64) -> (Database, Link) {
    let target = server.create_database().await;
    let link = Link::new(source, &target);
    let began = Instant::now();
    let mut process = link.start(true, "1s");
    let session = target.connect().await;
    // The table comes into its place as a whole.
    while session.query_one("SELECT to_regclass('public.bench') IS NULL", &[]).await.unwrap().get(0) {
        assert!(process.try_wait().is_none(), "the link ended early");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    assert!(process.wait().success());
    assert_eq!(value::<i64>(&target, "SELECT count(*) FROM bench").await as u64, rows);
    print("link-operator, through the landing zone", rows, took, &format!("{}, {}", rate(bytes, took), process.summary()));
    // Who watches it takes CPU of this process.
    drop(process);
    to_files(source, rows).await;
    (target, link)
}

/// Source to durable Parquet files alone, in this process: what a core of a worker does.
async fn to_files(source: &Database, rows: u64) {
    let folder = tempfile::tempdir().unwrap();
    let store: ZoneStore = serde_json::from_value(json!({"persistentVolumeClaim": {"claimName": "zone"}})).unwrap();
    let zone = Zone::open(&store, &source.secrets, folder.path(), Some("bench")).unwrap();
    let reader: Arc<dyn Source> = Arc::new(Postgresql::new(source.spec.clone(), source.secrets.clone(), "bench"));
    let schema = reader.describe(&TableName::new("public", "bench")).await.unwrap();
    let (began, cpu) = (Instant::now(), own_cpu());
    let chunks = reader.plan_chunks(&schema, CHUNK_BYTES).await.unwrap().chunks;
    let files: Vec<_> = stream::iter(chunks.iter().enumerate())
        .map(|(number, chunk)| {
            let (reader, zone, schema, chunk) = (reader.clone(), zone.clone(), schema.clone(), chunk.clone());
            async move {
                let values = Arc::new(ZoneValues::of_chunks(zone.clone(), 1, 1, 1));
                Ok::<_, Error>(snapshot::read(&*reader, &zone, &schema, &chunk, format!("{number}.parquet"), values).await?.file)
            }
        })
        .buffer_unordered(STREAMS as usize + 1)
        .try_collect()
        .await
        .unwrap();
    let (took, cpu) = (began.elapsed(), own_cpu() - cpu);
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), rows);
    let size = files.iter().map(|file| file.bytes).sum::<u64>() / 1_000_000;
    let rest = format!("{:.0} rows a second of CPU; {} files, {size} MB", rows as f64 / cpu, files.len());
    print("  of it, source to Parquet files alone", rows, took, &rest);
}

/// CPU seconds of this process.
pub fn own_cpu() -> f64 {
    let stat = fs::read_to_string(Path::new("/proc/self/stat")).unwrap();
    let fields: Vec<u64> = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    (fields[10] + fields[11]) as f64 / 100.0
}
