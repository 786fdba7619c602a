//! A worker's memory does not grow with what the source commits at once.

use crate::cluster::{Place, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_the_workers_memory_passes() {
    let place = Place::new("memory").await;
    place
        .source
        .batch_execute("CREATE TABLE big (id int PRIMARY KEY, v int, body text); ALTER TABLE big ALTER body SET STORAGE EXTERNAL")
        .await
        .unwrap();
    place.link(&["big"]);
    place.link_is("Running", "True", "Replicating").await;
    // 720 MB of values for a worker of 512 MiB; what the second statement leaves unchanged is not sent again.
    let transaction = "BEGIN; INSERT INTO big SELECT i, 0, repeat(md5(i::text), 500) FROM generate_series(1, 45000) i;
                       UPDATE big SET v = v + 1; UPDATE big SET id = -id WHERE id % 100 = 0; DELETE FROM big WHERE id % 7 = 0; COMMIT";
    place.source.batch_execute(transaction).await.unwrap();

    let rows = place.count("SELECT count(*) FROM big").await;
    until(&place.namespace, "all rows are there", || {
        // Cheaper than to compare, and asked again and again.
        let table = place.table("big")?;
        (table["status"]["count"].as_i64()? >= rows).then_some(())
    })
    .await;
    place.equal("big").await;
    let pod = place.get("pod/link-0").unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "the worker ran out of memory");
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_rows_larger_than_the_workers_memory_pass() {
    let place = Place::new("large").await;
    let wide: Vec<String> = (0..500).map(|n| format!("c{n} {}", if n % 2 == 0 { "int" } else { "text" })).collect();
    let row: Vec<String> = (0..500).map(|n| format!("i + {n}{}", if n % 2 == 0 { "" } else { " || ' in words'" })).collect();
    place
        .source
        .batch_execute(&format!(
            "CREATE TABLE films (id int PRIMARY KEY, v int, body bytea, tale text);
             INSERT INTO films VALUES (1, 0, decode(repeat(md5('1'), 13107200), 'hex'), 'of 200 MB');
             CREATE TABLE wide (id int PRIMARY KEY, {}); INSERT INTO wide SELECT i, {} FROM generate_series(1, 10000) i",
            wide.join(", "),
            row.join(", ")
        ))
        .await
        .unwrap();
    place.link(&["films", "wide"]);
    place.link_is("Running", "True", "Replicating").await;
    let changes = "INSERT INTO films VALUES (2, 0, 'of 200 MB', repeat(E'a line of\\it\n', 16000000)); UPDATE films SET v = 1;
                   UPDATE wide SET c0 = -c0; INSERT INTO films VALUES (3, 0, 'the', 'last')";
    place.source.batch_execute(changes).await.unwrap();
    until(&place.namespace, "the last row is there", || {
        let table = place.table("films")?;
        (table["status"]["count"].as_i64()? >= 3).then_some(())
    })
    .await;
    for table in ["films", "wide"] {
        place.equal(table).await;
    }
    let pod = place.get("pod/link-0").unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "the worker ran out of memory");
    place.done();
}
