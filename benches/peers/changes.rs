//! Changes: how many a second, and how late.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    Database, heading,
    link::{self, Link},
    number,
    postgres::{PASSWORD, USER},
    print, value,
};

/// Rows that a transaction updates.
const TRANSACTION: u64 = 100;
/// The row that says which transactions are there: each sets its number.
const MARKER: i64 = 1;
/// How often a reader of the target looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A backlog by native logical replication and by the link: of rows all over the table, and of few rows again and again.
/// Returns the link's rate of the first.
pub async fn compare(source: &Database, copied: &Database, linked: &Database, link: &Link) -> u64 {
    let updates = number("UPDATES", 1_000_000);
    let rows: i64 = value(source, "SELECT max(id) FROM bench").await;
    let mut peak = 0;
    for (what, keys) in [("rows all over the table", rows as u64 - 1), ("the same 10,000 rows again and again", 10_000)] {
        heading(&format!("Backlog of {updates} updates by key, {TRANSACTION} a transaction, of {what}"));
        source.execute("CREATE PUBLICATION native FOR TABLE bench").await;
        let address =
            format!("host=127.0.0.1 port={} user={USER} dbname={} password=''{PASSWORD}''", source.spec.port, source.spec.database);
        let create =
            format!("CREATE SUBSCRIPTION native CONNECTION '{address}' PUBLICATION native WITH (copy_data = false, enabled = false)");
        copied.execute(&create).await;
        // One backlog for both, which their slots keep.
        let number = backlog(source, updates, keys).await;

        copied.execute("CHECKPOINT").await;
        let began = Instant::now();
        copied.execute("ALTER SUBSCRIPTION native ENABLE").await;
        until(copied, number).await;
        print("native logical replication", updates, began.elapsed(), "");
        copied.execute("DROP SUBSCRIPTION native").await;
        source.execute("DROP PUBLICATION native").await;

        linked.execute("CHECKPOINT").await;
        let began = Instant::now();
        let mut process = link.start(true, "1s");
        until(linked, number).await;
        let took = began.elapsed();
        assert!(process.wait().success());
        print("link-operator, from its start", updates, took, &process.summary());
        peak = if peak == 0 { (updates as f64 / took.as_secs_f64()) as u64 } else { peak };
    }
    peak
}

/// Updates rows by key, and last the marker. Returns its number.
async fn backlog(source: &Database, updates: u64, keys: u64) -> i32 {
    let number: i32 = value::<i32>(source, &format!("SELECT customer + 1 FROM bench WHERE id = {MARKER}")).await;
    source
        .execute(&format!(
            "DO $$ BEGIN FOR i IN 1 .. {} LOOP
                 UPDATE bench SET quantity = quantity + 1, status = 'changed'
                 WHERE id IN (SELECT (i * 7919::int8 + j * 104729) % {keys} + 2 FROM generate_series(1, {TRANSACTION}) j);
                 COMMIT; END LOOP; END $$",
            updates / TRANSACTION
        ))
        .await;
    source.execute(&format!("UPDATE bench SET customer = {number} WHERE id = {MARKER}")).await;
    number
}

/// Waits until a reader sees the transaction of that number.
async fn until(target: &Database, number: i32) {
    let session = target.connect().await;
    let seen = format!("SELECT customer FROM bench WHERE id = {MARKER}");
    while session.query_one(&seen, &[]).await.unwrap().get::<_, i32>(0) < number {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Updates at a steady rate, and for each transaction the time from before it was written to when a reader of the target sees it.
pub async fn lag(source: &Database, target: &Database, link: Link, rate: u64) {
    let seconds = number("SECONDS", 30);
    heading(&format!("Lag at {rate} updates a second, half of the link's peak, {TRANSACTION} a transaction, flushInterval 200ms"));
    let process = link.start(false, "200ms");
    let rows: i64 = value(source, "SELECT max(id) FROM bench").await;
    let first = value::<i32>(source, &format!("SELECT customer FROM bench WHERE id = {MARKER}")).await + 1;
    let mut writer = Writer { session: source.connect().await, number: first, keys: rows - 1 };
    // Until the link is up.
    let warm = writer.write().await.0;
    until(target, warm).await;
    let cpu = process.cpu();

    let written: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let first = writer.number;
    let transactions = seconds * rate / TRANSACTION;
    let began = Instant::now();
    let reader = tokio::spawn(watch(target.connect().await, written.clone(), first, transactions as usize));
    for number in 0..transactions {
        let due = began + Duration::from_secs_f64(number as f64 * TRANSACTION as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        written.lock().unwrap().push(Instant::now());
        writer.write().await;
    }
    let wrote = began.elapsed();
    let mut lags = reader.await.unwrap();
    lags.sort_unstable();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize].as_secs_f64();
    let achieved = (transactions * TRANSACTION) as f64 / wrote.as_secs_f64();
    let used = process.cpu() - cpu;
    println!("written: {achieved:.0} updates/s; lag p50 {:.3} s, p99 {:.3} s, longest {:.3} s", at(0.5), at(0.99), at(1.0));
    println!("link-operator: {:.0} % of a core, {}", 100.0 * used / began.elapsed().as_secs_f64(), process.summary());
    link::stop(process);
}

struct Writer {
    session: link_operator::postgresql::Connected,
    number: i32,
    keys: i64,
}

impl Writer {
    /// One transaction. Returns its number.
    async fn write(&mut self) -> (i32, u64) {
        let number = self.number;
        self.number += 1;
        let key = |row: i64| (i64::from(number) * 7919 + row * 104_729) % self.keys + 2;
        let keys: Vec<i64> = (1..TRANSACTION as i64).map(key).chain([MARKER]).collect();
        let sql = format!(
            "UPDATE public.bench SET quantity = quantity + 1, customer = CASE WHEN id = {MARKER} THEN $2 ELSE customer END WHERE id = ANY ($1)"
        );
        (number, self.session.execute(&sql, &[&keys, &number]).await.unwrap())
    }
}

/// Looks until all transactions are there. Returns each one's lag.
async fn watch(
    session: link_operator::postgresql::Connected,
    written: Arc<Mutex<Vec<Instant>>>,
    first: i32,
    count: usize,
) -> Vec<Duration> {
    let seen = session.prepare(&format!("SELECT customer FROM public.bench WHERE id = {MARKER}")).await.unwrap();
    let mut lags = Vec::new();
    while lags.len() < count {
        let number: i32 = session.query_one(&seen, &[]).await.unwrap().get(0);
        let now = Instant::now();
        let there = usize::try_from(number - first + 1).unwrap_or(0);
        {
            let written = written.lock().unwrap();
            while lags.len() < there {
                lags.push(now - written[lags.len()]);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    lags
}
