//! A link from its first manifest to changes that arrive.

use crate::cluster::{Place, answers, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_link_starts_loads_and_follows() {
    let place = Place::new("flow").await;
    place
        .source
        .batch_execute(
            "CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric(12, 2), at timestamptz DEFAULT now());
             INSERT INTO orders SELECT i, 'customer ' || i % 100, i / 3.0 FROM generate_series(1, 100000) i;
             CREATE TABLE empty (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    place.link(&["orders", "empty"]);
    place.table_is("orders", "Replicating", "Replicating").await;
    let link = place.link_is("Running", "True", "Replicating").await;
    assert_eq!(link["status"]["tables"]["summary"], "2/2");
    until(&place.namespace, "the link says as of when it is consistent", || {
        place.get("lc/link")?["status"]["consistentAsOf"].is_string().then_some(())
    })
    .await;
    let table = place.table("orders").unwrap();
    assert_eq!(table["status"]["snapshot"]["rowsDone"], 100_000);
    for table in ["orders", "empty"] {
        place.converged(table).await;
    }

    let changes = "INSERT INTO orders (id) VALUES (0); UPDATE orders SET amount = NULL WHERE id = 1; DELETE FROM orders WHERE id = 2;
                   UPDATE orders SET id = -3 WHERE id = 3; INSERT INTO empty VALUES (1)";
    place.source.batch_execute(changes).await.unwrap();
    for table in ["orders", "empty"] {
        place.converged(table).await;
    }
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_link_table_stops_that_table_only() {
    let place = Place::new("leave").await;
    place
        .source
        .batch_execute("CREATE TABLE stays (id int PRIMARY KEY); CREATE TABLE goes (id int PRIMARY KEY); INSERT INTO goes VALUES (1)")
        .await
        .unwrap();
    place.link(&["stays"]);
    place.apply(
        "apiVersion: link-operator.io/v1alpha1
kind: LinkTable
metadata: {name: goes}
spec: {linkConnectionRef: {name: link}, source: {schemaName: public, tableName: goes}}
",
    );
    for table in ["stays", "goes"] {
        place.table_is(table, "Replicating", "").await;
    }
    crate::cluster::kubectl(&["delete", "lt", "goes", "-n", &place.namespace]);
    until(&place.namespace, "the link has one table", || (place.get("lc/link")?["status"]["tables"]["summary"] == "1/1").then_some(()))
        .await;
    answers(&place.source, "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'goes'", 0).await;
    place.source.batch_execute("INSERT INTO goes VALUES (2); INSERT INTO stays VALUES (2)").await.unwrap();
    place.converged("stays").await;
    let left: i64 = place.target.query_one("SELECT count(*) FROM goes", &[]).await.unwrap().get(0);
    assert_eq!(left, 1, "the target's table stays as it was");
    place.link_is("Running", "True", "").await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_found_is_taken_over_without_a_reload() {
    let place = Place::with_rows("found").await;
    place.link(&[]);
    place.patch("lc/link", r#"{"spec":{"discover":{"include":["public.*"]}}}"#);
    place.table_is("t", "Replicating", "Replicating").await;
    place.converged("t").await;
    let found = place.table("t").unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    // A load would make this row as it is in the source.
    place.target.batch_execute("UPDATE t SET v = -1 WHERE id = 1").await.unwrap();
    place.apply(
        "apiVersion: link-operator.io/v1alpha1
kind: LinkTable
metadata: {name: mine}
spec: {linkConnectionRef: {name: link}, source: {schemaName: public, tableName: t}}
",
    );
    until(&place.namespace, "the table that was found is gone", || place.get(&format!("lt/{found}")).is_none().then_some(())).await;
    place.object_is("lt/mine", "Replicating", "True", "Replicating").await;
    place.source.batch_execute("UPDATE t SET v = 0 WHERE id > 1").await.unwrap();
    place.arrives("SELECT count(*) FROM t WHERE v = 0", 999).await;
    assert_eq!(place.target.query_one("SELECT v FROM t WHERE id = 1", &[]).await.unwrap().get::<_, i32>(0), -1);
    place.done();
}
