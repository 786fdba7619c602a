//! The real process, killed by SIGKILL at every failpoint and at odd moments, under a mixed load, while a table joins and
//! leaves: nothing is lost and nothing doubled. `SOAK=200` kills it so many times (`make soak`).

use std::{collections::BTreeSet, time::Duration};

use link_operator::failpoint::{Moment, Point};
use strum::IntoEnumIterator as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Place;
use crate::support::postgres::{Database, Server};

/// Kills without `SOAK`: every failpoint once, and ten at odd moments.
const KILLS: u32 = 30;
/// Longest wait for a failpoint to be hit.
const PATIENCE: Duration = Duration::from_secs(20);

/// Inserts, updates, deletes, key changes, truncations, rollbacks, and now and then a large transaction or another column.
async fn workload(database: &Database, tables: &[&str], stop: CancellationToken) {
    let connection = database.connect().await;
    let mut round = 0;
    while !stop.is_cancelled() {
        round += 1;
        for table in tables {
            let mut statements = format!(
                "BEGIN; INSERT INTO {table} SELECT 1000000 + {round} * 10 + i, i, 'new', repeat('y', 3000) FROM generate_series(0, 9) i ON CONFLICT DO NOTHING;
                 UPDATE {table} SET v = v + 1 WHERE id % 97 = {round} % 97; DELETE FROM {table} WHERE id % 1009 = {round} % 1009; COMMIT;
                 BEGIN; UPDATE {table} SET id = -id, note = 'moved' WHERE id % 211 = {round} % 211; COMMIT; BEGIN; DELETE FROM {table}; ROLLBACK;"
            );
            if round % 17 == 0 {
                let large = format!("BEGIN; UPDATE {table} SET v = -v; UPDATE {table} SET note = note || '!' WHERE id % 3 = 0; COMMIT;");
                statements.push_str(&large);
            }
            if round % 29 == 0 && *table == "second" {
                let emptied = format!("TRUNCATE {table}; INSERT INTO {table} SELECT i, 0, 'again' FROM generate_series(1, 500) i");
                statements.push_str(&emptied);
            }
            if round % 41 == 0 && round < 41 * 10 && *table == "first" {
                let grown = format!(
                    "BEGIN; UPDATE {table} SET v = v + 1 WHERE id % 5 = 0; ALTER TABLE {table} ADD c{round} int DEFAULT {round}; UPDATE {table} SET c{round} = id WHERE id % 7 = 0; COMMIT;"
                );
                statements.push_str(&grown);
            }
            connection.batch_execute(&statements).await.unwrap();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Numbers without rhyme that are the same in every run.
fn odd(number: u32) -> u64 {
    u64::from(number.wrapping_mul(2_654_435_761) >> 16)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_at_every_failpoint_loses_and_doubles_nothing() {
    let kills = std::env::var("SOAK").ok().map_or(KILLS, |kills| kills.parse().expect("SOAK is a number of kills"));
    let tables = ["first", "second", "guest"];
    let server = Server::start();
    let place = Place::new(&server).await;
    for table in tables {
        let sql = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v int, note text, body text); ALTER TABLE {table} ALTER body SET STORAGE EXTERNAL;
             INSERT INTO {table} SELECT i, 0, 'row ' || i, CASE WHEN i % 50 = 0 THEN repeat(md5(i::text), 100) END FROM generate_series(1, 5000) i"
        );
        place.source.execute(&sql).await;
    }
    let points: Vec<(Point, Moment)> = Point::iter().flat_map(|point| Moment::iter().map(move |moment| (point, moment))).collect();
    let mut hit: BTreeSet<String> = BTreeSet::new();
    let stop = CancellationToken::new();
    let killing = async {
        let mut next = points.iter().cycle();
        for kill in 0..kills {
            // It joins, is loaded, leaves, and joins again; and all move apart or together.
            place.link(if kill % 4 < 2 { &tables } else { &tables[..2] }, kill / 5 % 2 == 1);
            if kill % 3 == 2 {
                let mut child = place.start("");
                sleep(Duration::from_millis(50 + odd(kill) % 2500)).await;
                assert!(child.try_wait().unwrap().is_none(), "it ended by itself:\n{}", place.log());
                child.kill().await.unwrap();
                continue;
            }
            let Some((point, moment)) = next.next() else { break };
            let name = format!("{point}:{moment}");
            let mut child = place.start(&format!("{name}=kill@{}", 1 + odd(kill) % 3));
            if timeout(PATIENCE, child.wait()).await.is_err() {
                eprintln!("{name} was not hit:\n{}", place.log());
                child.kill().await.unwrap();
            } else {
                let line = format!("failpoint {name} hit");
                assert!(place.log().contains(&line), "it ended by itself:\n{}", place.log());
                hit.insert(name);
            }
        }
        stop.cancel();
    };
    let ((), ()) = tokio::join!(killing, workload(&place.source, &tables, stop.clone()));
    place.link(&tables, true);
    let mut last = place.start("");
    for table in tables {
        place.converged(table).await;
    }
    last.kill().await.unwrap();
    let missed: Vec<String> =
        points.iter().map(|(point, moment)| format!("{point}:{moment}")).filter(|point| !hit.contains(point)).collect();
    assert!(missed.is_empty(), "never hit: {missed:?}");
    eprintln!("{kills} kills, {} failpoints hit", hit.len());
}
