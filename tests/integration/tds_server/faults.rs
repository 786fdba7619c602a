//! What goes wrong.

use std::time::{Duration, Instant};

use mssql_tds::{
    connection::tds_client::ExecuteOptions,
    core::{CancelHandle, EncryptionSetting},
    error::Error,
};

use super::{connect, connect_by_tls, error, query};
use crate::support::tds::{Answer, Encryption, Fault, Gate, Message, Rules, Script, Server, Type, Value, row};

const MANY: i32 = 10;

fn many() -> Answer {
    Answer::rows([("id", Type::Int), ("text", Type::NVarChar(100))], (0..MANY).map(|id| row![id, "some text"]))
}

/// How many rows come before it ends, and how.
async fn read(client: &mut mssql_tds::connection::tds_client::TdsClient, sql: &str) -> (i32, Option<Error>) {
    use mssql_tds::connection::tds_client::ResultSet;
    if let Err(error) = client.execute(sql.into(), ()).await {
        return (0, Some(error));
    }
    let mut count = 0;
    loop {
        match client.next_row().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, None),
            Err(error) => return (count, Some(error)),
        }
    }
}

#[tokio::test]
async fn the_connection_drops() {
    let rules = Rules::new()
        .on("at once", Answer::fault(Fault::Drop))
        .on("mid row", many().after_rows(4, Fault::Drop))
        .on("at the end", many().after_rows(10, Fault::Drop))
        .on("COMMIT", Answer::fault(Fault::Drop));
    let server = Server::start(rules);
    for (sql, rows) in [("at once", 0), ("mid row", 4), ("at the end", MANY)] {
        let (count, error) = read(&mut connect(&server).await, sql).await;
        assert_eq!(count, rows, "{sql}: {error:?}");
        assert!(matches!(error, Some(Error::Io(_) | Error::ConnectionClosed(_))), "{sql}: {error:?}");
    }
    let mut client = connect(&server).await;
    client.begin_transaction(mssql_tds::message::transaction_management::TransactionIsolationLevel::NoChange, None).await.unwrap();
    client.commit_transaction(None, None).await.unwrap_err();
}

#[tokio::test]
async fn an_answer_takes_its_time() {
    let gate = Gate::default();
    let rules = Rules::new()
        .on("stall", Answer::fault(Fault::Stall(Duration::from_millis(200))).then(many()))
        .on("hold", many().after_rows(3, Fault::Hold(gate.clone())));
    let server = Server::start(rules);
    let mut client = connect(&server).await;
    let start = Instant::now();
    assert_eq!(query(&mut client, "stall").await.unwrap().len(), 10);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let held = tokio::spawn(async move { query(&mut client, "hold").await });
    gate.reached().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!held.is_finished());
    gate.open();
    assert_eq!(held.await.unwrap().unwrap().len(), 10);
}

#[tokio::test]
async fn a_result_set_fails() {
    let fault = Fault::Error(Message::error(3960, "Snapshot isolation transaction aborted due to update conflict."));
    let rules = Rules::new().on("error", many().after_rows(4, fault)).on("garbage", many().after_rows(4, Fault::Garbage(vec![0x42; 100])));
    let server = Server::start(rules);
    let mut client = connect(&server).await;
    let (count, failed) = read(&mut client, "error").await;
    assert_eq!((count, error(failed.unwrap()).0), (4, 3960));
    let (_, failed) = read(&mut connect(&server).await, "garbage").await;
    assert!(failed.is_some());
}

#[tokio::test]
async fn a_statement_times_out() {
    let rules = Rules::new()
        .on("slow", Answer::fault(Fault::Hold(Gate::default())))
        .on("mid row", many().after_rows(4, Fault::Hold(Gate::default())))
        .on("fast", many());
    let server = Server::start(rules);
    let mut client = connect(&server).await;
    for sql in ["slow", "mid row"] {
        let result = match client.execute(sql.into(), ExecuteOptions::new().timeout_secs(1)).await {
            Ok(_) => super::rows(&mut client).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(result, Err(Error::TimeoutError(_))), "{sql}: {result:?}");
        assert_eq!(query(&mut client, "fast").await.unwrap().len(), 10, "after {sql}");
    }
    assert_eq!(server.statements(), ["slow", "ATTENTION", "fast", "mid row", "ATTENTION", "fast"]);
}

#[tokio::test]
async fn a_long_result_is_cancelled() {
    let rows: Vec<Vec<Value>> = (0..50_000).map(|id| row![id, "x".repeat(100)]).collect();
    let long = Answer::rows([("id", Type::Int), ("text", Type::NVarChar(100))], rows);
    for encryption in [Encryption::NotSupported, Encryption::Required, Encryption::Strict] {
        let rules = Rules::new().on("long", long.clone()).on("fast", many());
        let server = Server::start(Script::from(rules).encryption(encryption));
        let mut client = match encryption {
            Encryption::NotSupported => connect(&server).await,
            Encryption::Strict => connect_by_tls(&server, EncryptionSetting::Strict).await,
            _ => connect_by_tls(&server, EncryptionSetting::Required).await,
        };
        assert_eq!(query(&mut client, "long").await.unwrap().len(), 50_000);
        let cancel = CancelHandle::new();
        client.execute("long".into(), ExecuteOptions::new().cancel(&cancel)).await.unwrap();
        cancel.cancel();
        super::rows(&mut client).await.unwrap_err();
        client.close_query().await.unwrap();
        assert_eq!(query(&mut client, "fast").await.unwrap().len(), 10);
        assert_eq!(server.statements(), ["long", "long", "ATTENTION", "fast"]);
    }
}
