//! A source whose log fills its disk, and positions that are lost: by the real process, which begins the next run itself.

use std::{path::Path, process::Command, time::Duration};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::Place;
use crate::support::postgres::{Database, Server};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_mins(1);

/// A small file system of its own, in memory.
struct Disk(TempDir);

impl Disk {
    fn new(size: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "link-operator-test"]).arg(folder.path()).output();
        let mounted = mounted.expect("this test needs the program mount");
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "this test needs the right to mount a file system (root, CAP_SYS_ADMIN): {why}");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whatever still has it open must not keep it for ever.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

impl Place {
    /// Waits until the log of the process has a line with all of these words.
    async fn says(&self, words: &[&str]) {
        let until = Instant::now() + PATIENCE;
        while !self.log().lines().any(|line| words.iter().all(|word| line.contains(word))) {
            assert!(Instant::now() < until, "nobody says {words:?}:\n{}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a run has begun.
    async fn begins(&self, run: u32) {
        let until = Instant::now() + PATIENCE;
        while self.staged(&format!("/runs/{run:010}")) == 0 {
            assert!(Instant::now() < until, "run {run} does not begin:\n{}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn slots(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        self.source.connect().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn fill(database: &Database) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v int, note text); INSERT INTO t SELECT i, 0, repeat('x', 100) FROM generate_series(1, 5000) i";
    database.execute(sql).await;
}

/// Writes about so many megabytes of log, and a few rows.
async fn write(database: &Database, megabytes: i32) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, {megabytes});
         UPDATE t SET v = v + 1 WHERE id % 50 = 0; DELETE FROM t WHERE id = (SELECT max(id) FROM t)"
    );
    database.connect().await.batch_execute(&sql).await
}

async fn write_or_panic(place: &Place, server: &Server, written: &mut i32) {
    if let Err(error) = write(&place.source, 4).await {
        panic!("the source cannot be written any more, after {written} MB: {error:?}\n{}\n{}", server.log(), place.log());
    }
    *written += 4;
}

/// The capture hangs at a file that it cannot put; the log of the source piles up on a disk that has no room for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_log_would_fill_stays_writable_and_the_link_loads_anew() {
    let disk = Disk::new("400m");
    let small =
        ["max_wal_size=64MB", "min_wal_size=32MB", "checkpoint_timeout=30s", "checkpoint_completion_target=0.1", "checkpoint_warning=0"];
    let folder = disk.path().join("log");
    std::fs::create_dir(&folder).unwrap();
    let server = Server::start_with_log_in(&folder, &small);
    let place = Place::new(&server).await;
    fill(&place.source).await;
    place.link_with(&["t"], &json!({"sourceProtection": {"maxRetainedLog": "64Mi", "action": "Reseed"}}));
    let mut process = place.start("data-put:before=sleep:600000@1");
    place.converged("t").await;

    let mut written = 0;
    while place.staged("/runs/0000000002") == 0 {
        write_or_panic(&place, &server, &mut written).await;
        sleep(Duration::from_millis(150)).await;
    }
    // More than the disk has room for, but no faster than the new run reads: a healthy link is not to be given up.
    let session = place.source.connect().await;
    let kept = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn) < 40000000 FROM pg_replication_slots";
    while written < 440 {
        for _ in 0..4 {
            write_or_panic(&place, &server, &mut written).await;
        }
        // The server moves a slot on only with its checkpoints, and when the link commits.
        while !session.query_opt(kept, &[]).await.unwrap().is_some_and(|row| row.get(0)) {
            session.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await.unwrap();
            session.batch_execute("CHECKPOINT").await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    }
    place.says(&["run 2 begins with a full load of every table", "more than the 64.0 MiB"]).await;
    place.begins(2).await;
    place.converged("t").await;
    write(&place.source, 1).await.unwrap();
    place.converged("t").await;
    process.kill().await.unwrap();
}

/// Each way to lose a position but that of the test above, one after the other: every time the next run loads anew, by itself. The
/// pause after a second loss in a row is of the process's memory; a new process begins at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_position_is_loaded_anew_if_the_link_says_so() {
    let server = Server::start_with(&["max_slot_wal_keep_size=32MB", "max_wal_size=64MB", "min_wal_size=32MB", "checkpoint_warning=0"]);
    let place = Place::new(&server).await;
    fill(&place.source).await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() AND NOT active";
    place.link_with(&["t"], &json!({"onPositionLost": "Reseed"}));

    // Behind its back, while it is at work.
    let mut process = place.start("");
    place.converged("t").await;
    let session = place.source.connect().await;
    while session.execute(drop, &[]).await.unwrap() == 0 {
        session.batch_execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await.unwrap();
    }
    write(&place.source, 1).await.unwrap();
    place.begins(2).await;
    place.converged("t").await;
    // A second time it waits, and says so.
    while session.execute(drop, &[]).await.unwrap() == 0 {
        session.batch_execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await.unwrap();
    }
    place.says(&["lose their position again and again", "the next full load begins at"]).await;
    assert_eq!(place.staged("/runs/0000000003"), 0);
    process.kill().await.unwrap();
    let mut process = place.start("");
    place.begins(3).await;
    // What only the new run can bring: before, the target equals the source already.
    write(&place.source, 1).await.unwrap();
    place.converged("t").await;
    process.kill().await.unwrap();

    // The server drops the log of a slot that nobody reads.
    for _ in 0..4 {
        write(&place.source, 32).await.unwrap();
        place.source.execute("CHECKPOINT").await;
    }
    let status: String = session.query_one("SELECT wal_status FROM pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(status, "lost");
    let mut process = place.start("");
    place.begins(4).await;
    place.converged("t").await;
    process.kill().await.unwrap();
}

/// Whoever gave the position up died between the mark and the drop. What was given up is loaded anew whatever `onPositionLost` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_was_half_given_up_is_not_gone_on_from() {
    let server = Server::start();
    let place = Place::new(&server).await;
    fill(&place.source).await;
    place.link(&["t"], false);
    let mut process = place.start("");
    place.converged("t").await;
    process.kill().await.unwrap();
    let session = place.source.connect().await;
    let name: String = session.query_one("SELECT pubname::text FROM pg_publication", &[]).await.unwrap().get(0);
    session.batch_execute(&format!("COMMENT ON PUBLICATION {name} IS 'link-operator gave up: a test'")).await.unwrap();
    write(&place.source, 1).await.unwrap();

    let mut process = place.start("");
    place.begins(2).await;
    place.converged("t").await;
    assert_eq!(place.slots().await, 1);
    write(&place.source, 1).await.unwrap();
    place.converged("t").await;
    let mark = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication";
    let comment: String = session.query_one(mark, &[]).await.unwrap().get(0);
    assert!(!comment.contains("gave up"), "{comment}");
    // It did not lose the next one.
    assert_eq!(place.staged("/runs/0000000003"), 0);
    process.kill().await.unwrap();
}
