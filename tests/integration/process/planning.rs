//! `link-operator plan`: what would be done is told, and nothing is done.

use std::{
    fs,
    net::TcpListener,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::process::Command;

use super::Place;
use crate::support::postgres::Server;

async fn plan(place: &Place, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_link-operator"));
    command.arg("plan").arg("--filename").arg(place.path("manifests")).args(more);
    let ended = tokio::time::timeout(Duration::from_mins(1), command.kill_on_drop(true).output()).await;
    let Output { status, stdout, stderr } = ended.expect("it ends").unwrap();
    assert!(!String::from_utf8_lossy(&stdout).contains(crate::support::postgres::PASSWORD));
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_link_would_do_is_told_before_anything_is_touched() {
    let place = Place::new(Server::shared()).await;
    place
        .source
        .execute(
            "CREATE TYPE mood AS ENUM ('sad', 'glad');
             CREATE TABLE a (id int PRIMARY KEY, v numeric(10,2), m mood, j jsonb);
             INSERT INTO a SELECT i, i, 'sad', '{}' FROM generate_series(1, 10000) i; ANALYZE a;
             CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1), (2); ANALYZE parts_1;
             CREATE TABLE fresh (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE keyless (id int)",
        )
        .await;
    let discover = json!({"discover": {"include": ["public.[afp]*"]}, "state": "Stopped"});
    place.link_with(&[], &discover);
    let (code, text) = plan(&place, &["--output", "json"]).await;
    assert_eq!(code, Some(0), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    let link = &told[0];
    let names: Vec<&str> = link["tables"].as_array().unwrap().iter().map(|table| table["source"]["tableName"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "fresh", "parts"]);
    let a = &link["tables"][0];
    assert_eq!((&a["rows"], &a["loadSeconds"]), (&json!(10000), &json!(1)));
    assert!(a["bytes"].as_u64().unwrap() > 100_000, "{a}");
    assert_eq!(link["tables"][2]["rows"], 2, "{link}");
    assert_eq!((&link["summary"]["unmeasured"], &link["summary"]["rows"]), (&json!(1), &json!(10002)));
    let column = |at: usize| &a["columns"][at];
    assert_eq!(
        (&column(0)["key"], &column(1)["targetType"], &column(1)["travels"]),
        (&json!(true), &json!("numeric(10,2)"), &json!("decimal(10,2)"))
    );
    assert!(column(2)["note"].as_str().unwrap().starts_with("as its text") && column(3)["note"].is_null(), "{a}");
    assert_eq!(a["statements"][0], "CREATE TABLE \"public\".\"a\" (\"id\" integer NOT NULL, \"v\" numeric(10,2), \"m\" text, \"j\" jsonb)");
    assert_eq!((&link["others"][0]["tableName"], &link["ineligible"][0]["reason"]), (&json!("other"), &json!("NoPrimaryKey")));

    // What stands in the way is named, in source and target, and is the exit code.
    place.target.execute("CREATE TABLE a (id int)").await;
    place.link_with(&["keyless", "gone"], &discover);
    let (code, text) = plan(&place, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    for part in
        ["public.a        TargetTableExists", "public.keyless  NoPrimaryKey", "public.gone     SourceTableMissing", "2 of 5 can be linked"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("TargetPrepared") && !text.contains("RIGHTS ARE MISSING"), "{text}");

    // Rights that are missing come with what makes them.
    let (reader, database) = (format!("planner-{}", place.source.spec.database), &place.source.spec.database);
    place.source.execute(&format!("CREATE ROLE \"{reader}\" LOGIN PASSWORD 'correct horse'")).await;
    let manifests = std::fs::read_to_string(place.path("manifests/link.yaml")).unwrap();
    let manifests = manifests.replace("\"username\":\"postgres\"", &format!("\"username\":\"{reader}\""));
    std::fs::write(place.path("manifests/link.yaml"), manifests).unwrap();
    let (code, text) = plan(&place, &[]).await;
    assert!(code == Some(1) && text.contains("RIGHTS ARE MISSING"), "{text}");
    for grant in [format!("GRANT SELECT ON \"public\".\"fresh\" TO \"{reader}\";"), format!("GRANT CREATE ON DATABASE \"{database}\" TO")] {
        assert!(text.contains(&grant), "{grant} in {text}");
    }

    // Nothing was made anywhere.
    let count = async |database: &crate::support::postgres::Database, sql: &str| {
        database.connect().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(count(&place.target, "SELECT count(*) FROM pg_namespace WHERE nspname = 'link_operator'").await, 0);
    assert_eq!(count(&place.source, "SELECT count(*) FROM pg_publication").await, 0);
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE database = '{database}'");
    assert_eq!(count(&place.source, &slots).await, 0);
    assert!(!place.path("volumes").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_does_not_answer_is_told_and_no_more() {
    let place = Place::new(Server::shared()).await;
    let nowhere = json!({"source": {"postgresql": {"host": "127.0.0.1", "port": 1, "database": "x", "tls": {"mode": "Disable"},
        "auth": {"password": {"secretRef": {"name": "database"}}}}}});
    place.link_with(&["a"], &nowhere);
    let (code, text) = plan(&place, &[]).await;
    assert!(code == Some(1) && text.contains("SourceReachable  FAILED  SourceUnreachable"), "{text}");
    assert!(!text.contains("COLUMNS"), "{text}");
    let (_, text) = plan(&place, &["--output", "yaml"]).await;
    assert!(text.contains("name: SourceReachable") && !text.contains("tables:"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_interrupted_leaves_no_secrets_behind() {
    let place = Place::new(Server::shared()).await;
    // It lets everybody in and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = json!({"discover": {"include": ["*.*"]}, "source": {"postgresql": {"host": "127.0.0.1", "port": silent.local_addr().unwrap().port(), "database": "x",
        "tls": {"mode": "Disable"}, "auth": {"password": {"secretRef": {"name": "database"}}}}}});
    place.link_with(&["a"], &source);
    let left = || fs::read_dir(place.path("tmp")).unwrap().count();
    fs::create_dir(place.path("tmp")).unwrap();
    for (command, signals) in [("plan", 1), ("run", 2)] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_link-operator"))
            .args([command, "--filename", "manifests"])
            .current_dir(place.path(""))
            .env("TMPDIR", place.path("tmp"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while left() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..signals {
            // It asks the source by now; and two signals at once are one.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let sent = Command::new("kill").args(["-INT", &process.id().unwrap().to_string()]).status().await.unwrap();
            assert!(sent.success());
        }
        let ended = tokio::time::timeout(Duration::from_secs(5), process.wait()).await.expect("it ends").unwrap();
        assert_eq!((ended.code(), left()), (Some(130), 0), "{command}");
    }
}
