//! The real process, killed by SIGKILL at the steps by which a table is adopted: it ends as its source is, and is never loaded.

use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Place;
use crate::support::postgres::Server;

/// Longest wait for a failpoint to be hit.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_at_any_step_of_an_adoption_adopts_all_the_same() {
    let server = Server::start();
    let place = Place::new(&server).await;
    let table = "CREATE TABLE copy (id int PRIMARY KEY, v int, body text NOT NULL); ALTER TABLE copy ALTER body SET STORAGE EXTERNAL;
                 INSERT INTO copy SELECT i, 0, repeat(md5(i::text), 80) FROM generate_series(1, 5000) i";
    place.source.execute(table).await;
    place.target.execute(table).await;
    let damage = "DELETE FROM copy WHERE id % 7 = 0; UPDATE copy SET body = 'altered' WHERE id % 11 = 0; INSERT INTO copy VALUES (-7, 7, 'too many')";
    place.target.execute(damage).await;
    let mut target = serde_json::to_value(&place.target.spec).unwrap();
    target.as_object_mut().unwrap().insert("onExistingTable".to_owned(), json!("Adopt"));
    place.link_with(&["copy"], &json!({"target": {"postgresql": target}}));
    let session = place.target.connect().await;
    let oid = async || session.query_one("SELECT 'copy'::regclass::oid", &[]).await.unwrap().get::<_, u32>(0);
    let before = oid().await;

    let stop = CancellationToken::new();
    let writing = async {
        let connection = place.source.connect().await;
        let mut round = 0;
        while !stop.is_cancelled() {
            round += 1;
            let statements = format!(
                "UPDATE copy SET v = v + 1 WHERE id % 97 = {round} % 97; UPDATE copy SET id = -id WHERE id = {round} % 5000;
                 DELETE FROM copy WHERE id = {round} * 7 % 5000; INSERT INTO copy VALUES (10000 + {round}, 1, repeat('n', 2500))"
            );
            connection.batch_execute(&statements).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let killing = async {
        let underway = "SELECT count(*) FROM link_operator.link_progress WHERE run IS NOT NULL AND NOT exact";
        let mut adopting = 0;
        // Later and later: to be claimed, to join, to be taken over, to be applied to, compared, repaired, and called exact.
        for hit in [1, 3, 8, 15] {
            for (number, point) in ["target-commit", "record-create", "data-put", "progress-update", "acknowledge"].iter().enumerate() {
                let name = format!("{point}:{}", if (number + hit) % 2 == 0 { "before" } else { "after" });
                let mut child = place.start(&format!("{name}=kill@{hit}"));
                if timeout(PATIENCE, child.wait()).await.is_err() {
                    child.kill().await.unwrap();
                    panic!("{name} was not hit {hit} times:\n{}", place.log());
                }
                assert!(place.log().contains(&format!("failpoint {name} hit")), "it ended by itself:\n{}", place.log());
                adopting += session.query_one(underway, &[]).await.map_or(0, |row| row.get::<_, i64>(0));
            }
        }
        assert!(adopting > 5, "killed {adopting} times while it adopted");
        stop.cancel();
    };
    let ((), ()) = tokio::join!(killing, writing);
    let mut last = place.start("");
    place.converged("copy").await;
    assert_eq!((oid().await, place.staged("/chunks/")), (before, 0));
    last.kill().await.unwrap();
}
