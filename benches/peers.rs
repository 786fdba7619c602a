//! How fast the link is beside its peers, on this machine, in one run: `make bench`. Figures, no verdicts.
//!
//! The first load end to end (through the landing zone, key built, table swapped in) against `COPY … | COPY …` of the same
//! parallelism and pgcopydb where it is installed; a backlog of updates by key against native logical replication. `ROWS`
//! and `UPDATES` set the sizes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/support/postgres.rs"]
#[allow(dead_code)] // the tests need more of it
mod postgres;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use postgres::{Database, PASSWORD, SECRET, Server, USER};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Processes or cores that each may use.
const STREAMS: u64 = 2;
/// Settings under which a server is not the bottleneck by its defaults.
const SETTINGS: [&str; 5] =
    ["shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min", "synchronous_commit=off", "autovacuum=off"];

const TABLE: &str =
    "CREATE TABLE bench (id bigint PRIMARY KEY, customer int, product int, quantity int, price numeric(12, 2), discount float8,
    placed timestamptz, shipped date, status text, note text)";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn fill(rows: u64) -> String {
    format!(
        "INSERT INTO bench SELECT i, i % 100000, i % 5000, i % 9, (i % 100000) / 100.0, i / 3.0, timestamptz '2024-01-01 00:00+00' + i * interval '1 s',
         date '2024-01-01' + (i % 1000)::int, (array['new', 'paid', 'shipped', 'returned'])[1 + i % 4], md5(i::text) || md5((i + 1)::text)
         FROM generate_series(1, {rows}) i"
    )
}

/// One figure.
fn print(what: &str, count: u64, took: Duration, rest: &str) {
    println!("{what:<58} {took:>8.1?} {:>12.0}/s  {rest}", count as f64 / took.as_secs_f64());
}

#[tokio::main]
async fn main() {
    let (rows, updates) = (number("ROWS", 3_000_000), number("UPDATES", 300_000));
    let (source_server, target_server) = (Server::start_with(&SETTINGS), Server::start_with(&SETTINGS));
    let source = source_server.create_database().await;
    source.execute(TABLE).await;
    source.execute(&fill(rows)).await;
    source.execute("VACUUM ANALYZE bench").await;
    let size = source.connect().await.query_one("SELECT pg_relation_size('bench')", &[]).await.unwrap().get::<_, i64>(0);
    println!("{rows} rows of 10 columns, {} MB; {STREAMS} streams each\n", size / 1_000_000);

    let copied = target_server.create_database().await;
    copy(&source, &copied, rows).await;
    let cloned = target_server.create_database().await;
    pgcopydb(&source, &cloned, rows);
    let linked = target_server.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    manifests(&folder, &source, &linked);
    let (took, usage) = link(&folder);
    print("link-operator run --once, all of it", rows, took, &usage);

    println!("\n{updates} updates by key, 100 a transaction, as a backlog\n");
    native(&source, &copied, updates).await;
    change(&source, updates).await;
    let (took, usage) = link(&folder);
    print("link-operator run --once, all of it", updates, took, &usage);
    let digest = "SELECT md5(string_agg(md5(b::text), '' ORDER BY id)) FROM bench b";
    let mut found = Vec::new();
    for database in [&source, &linked] {
        found.push(database.connect().await.query_one(digest, &[]).await.unwrap().get::<_, String>(0));
    }
    assert_eq!(found[0], found[1], "source and target differ");
    println!("\nsource and target are equal");
}

/// `COPY … TO STDOUT | COPY … FROM STDIN`, binary, by ranges of blocks, then the key.
async fn copy(source: &Database, target: &Database, rows: u64) {
    let key = " PRIMARY KEY";
    target.execute(&TABLE.replace(key, "")).await;
    let blocks: i64 = source.connect().await.query_one("SELECT pg_relation_size('bench') / 8192", &[]).await.unwrap().get(0);
    let began = Instant::now();
    let streams: Vec<_> = (0..STREAMS as i64)
        .map(|stream| {
            let (from, to) = (blocks * stream / STREAMS as i64, blocks * (stream + 1) / STREAMS as i64);
            let out = format!("COPY (SELECT * FROM bench WHERE ctid >= '({from},0)' AND ctid < '({to},0)') TO STDOUT (FORMAT binary)");
            let into = "COPY bench FROM STDIN (FORMAT binary)".to_owned();
            let script = r#"psql -qX -h 127.0.0.1 -p "$1" -U "$2" -d "$3" -c "$4" | psql -qX -h 127.0.0.1 -p "$5" -U "$2" -d "$6" -c "$7""#;
            Command::new("sh")
                .args(["-c", script, "sh", &source.spec.port.to_string(), USER, &source.spec.database, &out])
                .args([&target.spec.port.to_string(), &target.spec.database, &into])
                .env("PGPASSWORD", PASSWORD)
                .spawn()
                .unwrap()
        })
        .collect();
    for mut stream in streams {
        assert!(stream.wait().unwrap().success());
    }
    print("COPY | COPY, without the key", rows, began.elapsed(), "");
    target.execute("ALTER TABLE bench ADD PRIMARY KEY (id)").await;
    print("COPY | COPY, and the key built", rows, began.elapsed(), "");
}

fn pgcopydb(source: &Database, target: &Database, rows: u64) {
    let address = |database: &Database| {
        format!("host=127.0.0.1 port={} user={USER} dbname={} password='{PASSWORD}'", database.spec.port, database.spec.database)
    };
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let status = Command::new("pgcopydb")
        .args(["clone", "--table-jobs", &STREAMS.to_string(), "--no-acl", "--no-owner", "--source", &address(source)])
        .args(["--target", &address(target), "--dir"])
        .arg(folder.path().join("work"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => print("pgcopydb clone", rows, began.elapsed(), ""),
        Ok(status) => println!("pgcopydb clone failed: {status}"),
        Err(error) => println!("pgcopydb is left out: {error}"),
    }
}

/// Updates by key, 100 a transaction.
async fn change(database: &Database, updates: u64) {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1 .. {} LOOP
             UPDATE bench SET quantity = quantity + 1, status = 'changed' WHERE id IN (SELECT (i * 7919 + j * 104729) % 1000000 + 1 FROM generate_series(1, 100) j);
             COMMIT; END LOOP; END $$",
        updates / 100
    );
    database.execute(&sql).await;
}

/// The same backlog by a subscription: its worker applies one change after the other.
async fn native(source: &Database, target: &Database, updates: u64) {
    source.execute("CREATE PUBLICATION native FOR TABLE bench").await;
    let connection =
        format!("host=127.0.0.1 port={} user={USER} dbname={} password=''{PASSWORD}''", source.spec.port, source.spec.database);
    target.execute(&format!("CREATE SUBSCRIPTION native CONNECTION '{connection}' PUBLICATION native WITH (copy_data = false)")).await;
    target.execute("ALTER SUBSCRIPTION native DISABLE").await;
    change(source, updates).await;
    let expected = source.connect().await.query_one("SELECT sum(quantity)::text FROM bench", &[]).await.unwrap().get::<_, String>(0);
    let slot = source.connect().await;
    let head: String = slot.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let began = Instant::now();
    target.execute("ALTER SUBSCRIPTION native ENABLE").await;
    let caught_up = format!("SELECT confirmed_flush_lsn >= '{head}' FROM pg_replication_slots WHERE slot_name = 'native'");
    while !slot.query_one(&caught_up, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    print("native logical replication", updates, began.elapsed(), "");
    let found = target.connect().await.query_one("SELECT sum(quantity)::text FROM bench", &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(found, expected);
    target.execute("DROP SUBSCRIPTION native").await;
    source.execute("DROP PUBLICATION native").await;
}

fn manifests(folder: &TempDir, source: &Database, target: &Database) {
    let group = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "link-operator.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"username": USER, "password": PASSWORD}});
    let link = json!({
        "source": {"postgresql": source.spec}, "target": {"postgresql": target.spec}, "landingZoneRef": {"name": "zone"},
        "compute": {"coreCount": STREAMS}, "tables": [{"schemaName": "public", "tableName": "bench"}],
    });
    let documents = [
        secret.to_string(),
        group("LandingZone", "zone", json!({"persistentVolumeClaim": {"claimName": "zone"}})),
        group("LinkConnection", "bench", link),
    ];
    fs::write(folder.path().join("bench.yaml"), documents.join("\n---\n")).unwrap();
}

/// Runs the link until it holds all. Returns how long that took, and what it used.
fn link(folder: &TempDir) -> (Duration, String) {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_link-operator"))
        .args(["run", "--once", "--filename"])
        .arg(folder.path().join("bench.yaml"))
        .arg("--volumes")
        .arg(folder.path().join("volumes"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = format!("/proc/{}", child.id());
    let mut usage = (0, 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        usage = used(Path::new(&process)).unwrap_or(usage);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    (began.elapsed(), format!("{} MB at most, {:.1} s of CPU", usage.0 / 1000, usage.1 as f64 / 100.0))
}

/// Peak memory in kB, and hundredths of a second of CPU.
fn used(process: &Path) -> Option<(u64, u64)> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").parse().ok()?;
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((peak, fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?))
}
