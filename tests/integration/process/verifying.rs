//! `link-operator verify`: one command compares, and says by its exit code what it found.

use std::{process::Output, time::Duration};

use tokio::process::Command;

use super::Place;
use crate::support::postgres::Server;

async fn verify(place: &Place, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_link-operator"));
    command.arg("verify").arg("--filename").arg(place.path("manifests")).arg("--volumes").arg(place.path("volumes")).args(more);
    let ended = tokio::time::timeout(Duration::from_mins(1), command.kill_on_drop(true).output()).await;
    let Output { status, stdout, stderr } = ended.expect("it ends").unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_compares_and_repairs() {
    let place = Place::new(Server::shared()).await;
    place
        .source
        .execute("CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, i::text FROM generate_series(1, 1000) i")
        .await;
    place.link(&["a"], false);
    // What is not there yet is loaded first.
    let (code, text) = verify(&place, &[]).await;
    assert!(code == Some(0) && text.contains("Equal: 1000 rows are equal"), "{code:?} {text}");

    place.target.execute("DELETE FROM a WHERE id = 7; UPDATE a SET v = '' WHERE id = 9").await;
    place.source.execute("INSERT INTO a VALUES (1001, '1001')").await;
    let (code, text) = verify(&place, &[]).await;
    assert!(code == Some(1) && text.contains("Different: 2 rows differ: 1001 in the source, 1000 in the target"), "{code:?} {text}");
    assert!(text.contains("among them (7), (9)"), "{text}");
    let (code, text) = verify(&place, &["--repair"]).await;
    assert!(code == Some(0) && text.contains("after 2 were repaired"), "{code:?} {text}");
    place.converged("a").await;
}
