//! Rows that move while their table's chunks are read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Place;
use crate::support::postgres::Server;

/// A row that moves from a chunk that is yet to be read to one that has been is in none, and its change does not carry the
/// large value that it left alone: that is read by key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_of_rows_that_move_during_the_snapshot_stay() {
    let place = Place::new(Server::shared()).await;
    place
        .source
        .execute(
            "CREATE TABLE doc (id int PRIMARY KEY, title text, body text) WITH (autovacuum_enabled = off); ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
             INSERT INTO doc SELECT i, repeat('t', 100), CASE WHEN i > 19500 THEN repeat(md5(i::text), 100) END FROM generate_series(1, 20000) i;
             DELETE FROM doc WHERE id <= 1000",
        )
        .await;
    // Room in the first pages, for the rows of the last.
    place.source.execute("VACUUM doc").await;
    place.link(&["doc"], false);
    let mut process = place.start("chunk-put:before=sleep:400");
    let deadline = Instant::now() + Duration::from_mins(1);
    while place.staged("/chunks/") < 3 {
        assert!(Instant::now() < deadline, "no chunks: {}", place.log());
        sleep(Duration::from_millis(20)).await;
    }
    place.source.execute("UPDATE doc SET title = 'moved ' || title WHERE id > 19500").await;
    let moved = "SELECT count(*) FROM doc WHERE id > 19500 AND (ctid::text::point)[0] < 15";
    let moved: i64 = place.source.connect().await.query_one(moved, &[]).await.unwrap().get(0);
    assert!(moved > 100, "only {moved} rows moved to the first pages");
    place.converged("doc").await;
    process.kill().await.unwrap();
}
