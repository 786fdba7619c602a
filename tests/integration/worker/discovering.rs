//! Which tables a worker tells of for them to be linked.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_of_tables_that_are_asked_for_and_not_linked_yet() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE keyless (id int)").await;
    database.execute("CREATE SCHEMA other; CREATE TABLE other.a (id int PRIMARY KEY)").await;
    let (worker, client) = Worker::with_client().await;
    fs::create_dir(worker.options.secrets.join(SECRET)).unwrap();
    for (key, value) in [("username", "postgres"), ("password", PASSWORD)] {
        fs::write(worker.options.secrets.join(SECRET).join(key), value).unwrap();
    }
    let mut plan = plan(1, &database.spec);
    plan.link.link_id = database.spec.database.clone();
    plan.discover = Some(Discover { include: vec!["public.*".to_owned()], exclude: vec![] });
    let named = |report: &Report| report.discovered.iter().map(|table| table.table_name.clone()).collect::<Vec<_>>();
    worker.put(&client, packed(&plan)).await;
    let report = worker.report(&client, "tables are found", |report| !report.discovered.is_empty()).await;
    assert_eq!(named(&report), ["a", "b"]);
    let discovery = report.discovery.unwrap();
    assert_eq!((discovery.eligible, discovery.ineligible), (2, 1));

    // What a plan has is not told again, nor what it no longer asks for.
    plan.revision = 2;
    plan.tables = vec![table(0, "public", "b")];
    worker.put(&client, packed(&plan)).await;
    let report = worker.report(&client, "the plan is in force", |report| report.plan_revision == 2).await;
    assert_eq!(named(&report), ["a"]);
    plan.revision = 3;
    plan.discover = None;
    worker.put(&client, packed(&plan)).await;
    let report = worker.report(&client, "the plan is in force", |report| report.plan_revision == 3).await;
    assert_eq!((named(&report).len(), report.discovery.unwrap().eligible), (0, 3));
    worker.stop().await;
}
