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

    let digest = "SELECT format('%s %s', count(*), md5(string_agg(md5(b::text), '' ORDER BY id))) FROM big b";
    let expected: String = place.source.query_one(digest, &[]).await.unwrap().get(0);
    let rows = place.count("SELECT count(*) FROM big").await;
    until(&place.namespace, "all rows are there", || {
        // Cheaper than the digest, and asked again and again.
        let table = place.table("big")?;
        (table["status"]["count"].as_i64()? >= rows).then_some(())
    })
    .await;
    let found: String = place.target.query_one(digest, &[]).await.unwrap().get(0);
    assert_eq!(found, expected);
    let pod = place.get("pod/link-0").unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "the worker ran out of memory");
    place.done();
}
