//! `spec.discover` in the real process: tables join as they are found, and stay.

use serde_json::json;

use super::Place;
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_match_are_linked_and_one_that_vanished_is_named() {
    let place = Place::new(Server::shared()).await;
    place
        .source
        .execute(
            "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, i::text FROM generate_series(1, 100) i;
             CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE tmp_c (id int PRIMARY KEY); CREATE TABLE keyless (id int)",
        )
        .await;
    place.link_with(&[], &json!({"discover": {"include": ["public.*"], "exclude": ["*.tmp_*"]}}));
    let once = async || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_link-operator"));
        command.args(["run", "--once", "--filename"]).arg(place.path("manifests")).arg("--volumes").arg(place.path("volumes"));
        let output = tokio::time::timeout(std::time::Duration::from_mins(1), command.kill_on_drop(true).output()).await.unwrap().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let (well, text) = once().await;
    assert!(well && text.contains("public.a") && text.contains("public.b"), "{text}");
    assert!(!text.contains("keyless") && !text.contains("tmp_c"), "{text}");
    place.converged("a").await;

    place.source.execute("DROP TABLE b; CREATE TABLE d (id int PRIMARY KEY); INSERT INTO d VALUES (1)").await;
    let (well, text) = once().await;
    assert!(!well && text.contains("public.b  ") && text.contains("public.b does not exist in the source"), "{text}");
    place.converged("d").await;
    // Its copy is not touched.
    assert_eq!(Place::rows(&place.target, "b").await.unwrap().len(), 0);
}
