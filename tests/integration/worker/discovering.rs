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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_reckons_what_a_link_would_do_and_leaves_no_trace() {
    let (source, target) = (Server::shared().create_database().await, Server::shared().create_database().await);
    source.execute("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 1000); ANALYZE a").await;
    source.execute("CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE keyless (id int); CREATE TABLE x (id int PRIMARY KEY)").await;
    target.execute("CREATE TABLE b (id int)").await;
    let request = ProbeRequest {
        link_id: Some("ns.shop".to_owned()),
        source: Some(Source { postgresql: Some(source.spec.clone()), sql_server: None }),
        target: Some(Target {
            postgresql: Some(PostgresqlTarget { database: target.spec.clone(), on_existing_table: OnExistingTable::Fail }),
            sql_server: None,
            synapse: None,
        }),
        tables: vec![table(0, "public", "keyless")],
        discover: Some(Discover { include: vec!["public.?".to_owned()], exclude: vec!["*.x".to_owned()] }),
        forecast_cores: Some(2),
        ..ProbeRequest::default()
    };
    let report = worker::probe(&request, &source.secrets, std::path::Path::new("")).await;
    let plan = report.plan.clone().unwrap();
    assert_eq!((plan.tables, plan.blocked, plan.rows, plan.unmeasured), (3, 2, 1000, 0), "{plan:?}");
    let blocked: Vec<_> = plan.blocked_tables.iter().map(|table| (table.name.table_name.as_str(), table.reason.as_str())).collect();
    assert_eq!(blocked, [("b", "TargetTableExists"), ("keyless", "NoPrimaryKey")]);
    assert!(termination::cut(report).len() <= termination::LIMIT);
    let rows = target.connect().await.query("SELECT FROM pg_namespace WHERE nspname = 'link_operator'", &[]).await.unwrap();
    assert!(rows.is_empty(), "the target was touched");

    // Without being asked it reckons nothing.
    let asked = ProbeRequest { forecast_cores: None, ..request };
    assert_eq!(worker::probe(&asked, &source.secrets, std::path::Path::new("")).await.plan, None);
}

#[test]
fn names_that_are_told_besides_go_before_what_is_asked_is_cut() {
    let blocked: Vec<_> = (0..20)
        .map(|number| serde_json::json!({"schemaName": "s", "tableName": format!("t{number}"), "reason": "R", "message": "x".repeat(500)}))
        .collect();
    let plan = serde_json::json!({"time": "2026-01-01T00:00:00Z", "tables": 900, "blocked": 20, "rows": 1, "bytes": 1, "unmeasured": 0,
        "loadSeconds": 1, "lossy": 0, "blockedTables": blocked});
    let report: Report = serde_json::from_value(serde_json::json!({
        "formatVersion": 1, "sequence": 1, "worker": "w", "version": "0.1.0", "planRevision": 0, "plan": plan,
        "checks": [{"name": "SourceReachable", "message": "PostgreSQL 15"}],
    }))
    .unwrap();
    let text = termination::cut(report.clone());
    assert!(text.len() <= termination::LIMIT, "{} bytes", text.len());
    let cut: Report = serde_json::from_str(&text).unwrap();
    assert_eq!((cut.checks, cut.plan.unwrap().blocked), (report.checks, 20));
}
