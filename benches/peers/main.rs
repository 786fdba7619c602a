//! How fast the link is beside its peers, on this machine, in one run: `make bench`. Figures, no verdicts.
//!
//! - [`load`]: the first load beside `COPY … | COPY …`, pgcopydb and Sling, and what of it a core does up to the landing zone
//! - [`changes`]: a backlog of updates beside native logical replication; how long a change takes at half of that rate
//! - [`tds`]: reading a table of SQL Server beside freebcp, where `LINK_TEST_SQLSERVER` names a server
//!
//! Each is timed to when a reader of the target sees all of it. `ROWS`, `UPDATES` and `SECONDS` set the sizes. Say what else the
//! machine did: the load averages are printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../tests/support/postgres.rs"]
#[allow(dead_code)] // the tests need more of it
mod postgres;

#[path = "../../tests/support/sqlserver.rs"]
#[allow(dead_code)]
mod sqlserver;

mod changes;
mod link;
mod load;
mod process;
mod tds;

use std::time::Duration;

use postgres::{Database, Server};

/// Processes or cores that each may use.
const STREAMS: u64 = 2;
/// Settings under which a server is not the bottleneck by its defaults. The last lets a subscription start at once: a server
/// starts no more than one worker in so long.
const SETTINGS: [&str; 6] = [
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=30min",
    "synchronous_commit=off",
    "autovacuum=off",
    "wal_retrieve_retry_interval=10ms",
];

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

/// One figure: so many in so long.
fn print(what: &str, count: u64, took: Duration, rest: &str) {
    println!("{what:<46} {:>7.1} s {:>10.0}/s  {rest}", took.as_secs_f64(), count as f64 / took.as_secs_f64());
}

fn heading(text: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n{text} [load {}]\n", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}

/// The one value that a query gives.
async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(database: &Database, sql: &str) -> T {
    database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::main]
async fn main() {
    tds::compare().await;
    if std::env::var_os("TDS_ONLY").is_some() {
        return;
    }
    let rows = number("ROWS", 3_000_000);
    let (source_server, target_server) = (Server::start_with(&SETTINGS), Server::start_with(&SETTINGS));
    let source = source_server.create_database().await;
    source.execute(TABLE).await;
    source.execute(&fill(rows)).await;
    source.execute("VACUUM ANALYZE bench").await;
    let bytes: i64 = value(&source, "SELECT pg_relation_size('bench')").await;

    let copied = load::compare(&source, &target_server, rows, bytes as u64).await;
    let (linked, link) = load::link(&source, &target_server, rows, bytes as u64).await;
    let peak = changes::compare(&source, &copied, &linked, &link).await;
    changes::lag(&source, &linked, link, peak / 2).await;

    let digest = "SELECT md5(string_agg(md5(b::text), '' ORDER BY id)) FROM bench b";
    assert_eq!(value::<String>(&source, digest).await, value::<String>(&linked, digest).await, "source and target differ");
    println!("\nsource and target are equal");
}
