//! Batches, procedures, transactions and bulk loads.

use async_trait::async_trait;
use mssql_tds::{
    connection::{
        bulk_copy::{BulkCopy, BulkLoadRow},
        tds_client::{StatementResult, TdsClient},
    },
    core::{EncryptionSetting, TdsResult},
    datatypes::{
        column_values::{ColumnValues as C, SqlDate, SqlDateTime2, SqlTime},
        decoder::DecimalParts,
        sql_string::SqlString,
        sqltypes::SqlType,
    },
    message::{
        bulk_load::StreamingBulkLoadWriter,
        parameters::rpc_parameters::{RpcParameter, StatusFlags},
        transaction_management::TransactionIsolationLevel,
    },
};

use super::{connect, connect_by_tls, error, query, rows};
use crate::support::tds::{Answer, Collation, Column, Encryption, Kind, Message, Request, Rules, Script, Server, Type, Value, row};

#[tokio::test]
async fn a_batch_has_several_results() {
    let results = Answer::rows([("a", Type::Int)], [row![1], row![2]])
        .then(Answer::count(7))
        .then(Answer::info(Message::info(0, "hello")))
        .then(Answer::rows([("b", Type::NVarChar(5))], [row!["x"]]));
    let server = Server::start(Rules::new().on("several", results));
    let mut client = connect(&server).await;
    assert_eq!(client.execute("several".into(), ()).await.unwrap(), StatementResult::Rows);
    assert_eq!(rows(&mut client).await.unwrap(), [[C::Int(1)], [C::Int(2)]]);
    assert_eq!(client.advance().await.unwrap(), StatementResult::NoRows { rows_affected: Some(7) });
    assert!(client.advance_to_rows().await.unwrap());
    assert_eq!(rows(&mut client).await.unwrap().len(), 1);
    assert_eq!(client.take_info_messages()[0].message, "hello");
    assert_eq!(client.advance().await.unwrap(), StatementResult::End);
}

#[tokio::test]
async fn a_statement_fails() {
    let rules = Rules::new()
        .once("orders", Answer::error(208, "Invalid object name 'orders'."))
        .on("orders", Answer::count(1))
        .on("partial", Answer::rows([("a", Type::Int)], [row![1]]).then(Answer::error(8134, "Divide by zero.")));
    let server = Server::start(rules);
    let mut client = connect(&server).await;
    let failed = query(&mut client, "SELECT * FROM orders").await.unwrap_err();
    assert_eq!(error(failed), (208, "Invalid object name 'orders'.".into()));
    client.execute("DELETE orders".into(), ()).await.unwrap();
    client.close_query().await.unwrap();
    assert_eq!(error(query(&mut client, "partial").await.unwrap_err()).0, 8134);
    assert_eq!(error(query(&mut client, "unknown").await.unwrap_err()).0, 50_000);
    assert_eq!(server.statements(), ["SELECT * FROM orders", "DELETE orders", "partial", "unknown"]);
}

#[tokio::test]
async fn a_query_has_parameters() {
    let echo = |request: &Request| {
        let columns = request.parameters.iter().map(|it| Column::new(it.name.trim_start_matches('@'), it.ty.clone()));
        Answer::rows(columns, [request.parameters.iter().map(|it| it.value.clone()).collect()])
    };
    let server = Server::start(Script::new(echo));
    let mut client = connect(&server).await;
    let text = |text: &str| Some(SqlString::from_utf8_string(text.into()));
    let last = SqlDateTime2 { days: 3_652_058, time: SqlTime { time_nanoseconds: 863_999_999_999, scale: 7 } };
    let long = "long".repeat(2100);
    let parameters = [
        ("@int", SqlType::Int(Some(-1)), C::Int(-1)),
        ("@big", SqlType::BigInt(Some(i64::MAX)), C::BigInt(i64::MAX)),
        ("@text", SqlType::NVarchar(text("漢字"), 20), C::String(text("漢字").unwrap())),
        ("@long", SqlType::NVarcharMax(text(&long)), C::String(text(&long).unwrap())),
        ("@bytes", SqlType::VarBinary(Some(vec![0, 255]), 8), C::Bytes(vec![0, 255])),
        ("@blob", SqlType::VarBinaryMax(Some(vec![7; 8100])), C::Bytes(vec![7; 8100])),
        ("@bit", SqlType::Bit(Some(true)), C::TinyInt(1)), // the client sends it as INTN of one byte
        ("@null", SqlType::Int(None), C::Null),
        ("@time", SqlType::DateTime2(Some(last.clone())), C::DateTime2(last)),
        ("@float", SqlType::Float(Some(0.5)), C::Float(0.5)),
    ];
    let sent = parameters.iter().map(|(name, value, _)| RpcParameter::new(Some((*name).into()), StatusFlags::NONE, value.clone()));
    client.execute_sp_executesql("SELECT @int".into(), sent.collect(), ()).await.unwrap();
    let expected: Vec<C> = parameters.iter().map(|(.., expected)| expected.clone()).collect();
    let texts = |row: &[C]| row.iter().map(|it| if let C::String(it) = it { it.to_utf8_string() } else { format!("{it:?}") }).collect();
    let (expected, got): (Vec<String>, Vec<String>) = (texts(&expected), texts(&rows(&mut client).await.unwrap()[0]));
    assert_eq!(expected, got);
    client.close_query().await.unwrap();
    let [request] = &server.requests()[..] else { panic!() };
    assert_eq!((request.kind, request.statement.as_str()), (Kind::Rpc, "SELECT @int"));
    assert_eq!(request.parameters[2].value, Value::Text("漢字".into()));
    assert_eq!(request.parameters[8].value, Value::Text("9999-12-31 23:59:59.9999999".into()));
}

#[tokio::test]
async fn transactions_have_boundaries() {
    let rules = Rules::new().on("DELETE", Answer::rollback().then(Answer::error(1205, "deadlock"))).on("UPDATE", Answer::count(1));
    let server = Server::start(rules);
    let mut client = connect(&server).await;
    client.begin_transaction(TransactionIsolationLevel::Snapshot, None).await.unwrap();
    assert!(client.has_active_transaction());
    client.execute("UPDATE a".into(), ()).await.unwrap();
    client.close_query().await.unwrap();
    client.commit_transaction(None, None).await.unwrap();
    assert!(!client.has_active_transaction());
    client.begin_transaction(TransactionIsolationLevel::ReadCommitted, None).await.unwrap();
    client.rollback_transaction(None, None).await.unwrap();
    client.execute("SET XACT_ABORT ON; BEGIN TRAN".into(), ()).await.unwrap();
    client.close_query().await.unwrap();
    assert!(client.has_active_transaction());
    assert_eq!(error(client.execute("DELETE a".into(), ()).await.unwrap_err()).0, 1205);
    client.close_query().await.unwrap();
    assert!(!client.has_active_transaction());
    client.execute("UPDATE b".into(), ()).await.unwrap();
    client.close_query().await.unwrap();
    let seen: Vec<_> = server.requests().into_iter().map(|it| (it.statement, it.isolation, it.transaction.is_some())).collect();
    let expected = [
        ("BEGIN TRANSACTION", Some("SNAPSHOT"), false),
        ("UPDATE a", None, true),
        ("COMMIT TRANSACTION", None, true),
        ("BEGIN TRANSACTION", Some("READ COMMITTED"), false),
        ("ROLLBACK TRANSACTION", None, true),
        ("SET XACT_ABORT ON; BEGIN TRAN", None, false),
        ("DELETE a", None, true),
        ("UPDATE b", None, false),
    ];
    assert_eq!(seen, expected.map(|(statement, isolation, open)| (statement.to_owned(), isolation, open)));
}

#[tokio::test]
async fn a_reset_ends_the_transaction() {
    let server = Server::start(Rules::new().on("UPDATE", Answer::count(1)));
    let mut client = connect(&server).await;
    for keeps in [true, false] {
        client.begin_transaction(TransactionIsolationLevel::ReadCommitted, None).await.unwrap();
        client.prepare_reset_connection(keeps);
        client.execute("UPDATE a".into(), ()).await.unwrap();
        client.close_query().await.unwrap();
        assert_eq!(client.has_active_transaction(), keeps);
        if keeps {
            client.commit_transaction(None, None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn connections_are_told_apart() {
    let server = Server::start(Rules::new().on("USE", Answer::done()).on("UPDATE", Answer::count(1)));
    let mut clients: Vec<TdsClient> = Vec::new();
    for number in 1..=5 {
        clients.push(connect(&server).await);
        clients[number - 1].execute(format!("USE [db {number}]"), ()).await.unwrap();
        clients[number - 1].close_query().await.unwrap();
    }
    for client in &mut clients {
        client.execute("UPDATE a".into(), ()).await.unwrap();
        client.close_query().await.unwrap();
    }
    let updates: Vec<_> = server.requests().into_iter().skip(5).map(|request| (request.connection, request.database)).collect();
    assert_eq!(updates, [1, 2, 3, 4, 5].map(|number| (number, format!("db {number}"))));
}

struct Row(Vec<C>);

#[async_trait]
impl BulkLoadRow for Row {
    async fn write_to_packet(&self, writer: &mut StreamingBulkLoadWriter<'_>, column: &mut usize) -> TdsResult<()> {
        for value in &self.0 {
            writer.write_column_value(*column, value).await?;
            *column += 1;
        }
        Ok(())
    }
}

/// Columns of the table, and what the client asks about them before it loads.
fn table() -> (Vec<Column>, Answer) {
    let columns = vec![
        Column::new("id", Type::Int).not_null(),
        Column::new("big", Type::BigInt),
        Column::new("flag", Type::Bit),
        Column::new("name", Type::NVarChar(20)),
        Column::new("narrow", Type::VarChar(20, Collation::Latin1)),
        Column::new("note", Type::NVarCharMax),
        Column::new("data", Type::VarBinaryMax),
        Column::new("price", Type::Decimal(38, 2)),
        Column::new("day", Type::Date),
        Column::new("at", Type::DateTime2(7)),
        Column::new("guid", Type::UniqueIdentifier),
        Column::new("ratio", Type::Float),
    ];
    let collation = |column: &Column| matches!(column.ty, Type::VarChar(..) | Type::NVarChar(_)).then_some("Latin1_General_CI_AS");
    let collations: Vec<Vec<Value>> = columns.iter().map(|it| row![1, it.name.as_str(), None::<&[u8]>, collation(it)]).collect();
    let names = [
        ("colid", Type::Int),
        ("name", Type::NVarChar(128)),
        ("tds_collation_100", Type::Binary(5)),
        ("collation_100", Type::NVarChar(128)),
    ];
    let metadata = Answer::rows([("", Type::Int)], [row![0]]).then(Answer::rows(columns.clone(), [])).then(Answer::rows(names, collations));
    (columns, metadata)
}

#[tokio::test]
async fn rows_are_loaded_in_bulk() {
    let (columns, metadata) = table();
    let script = Script::from(Rules::new().on("FMTONLY", metadata)).encryption(Encryption::Required);
    let server = Server::start(script);
    let mut client = connect_by_tls(&server, EncryptionSetting::Required).await;
    let guid = "00112233-4455-6677-8899-aabbccddeeff";
    let nulls = |id: i32| Row([C::Int(id)].into_iter().chain(std::iter::repeat_n(C::Null, 11)).collect());
    let text = |text: &str| C::String(SqlString::from_utf8_string(text.into()));
    let row = Row(vec![
        C::Int(1),
        C::BigInt(i64::MIN),
        C::Bit(true),
        text("漢字"),
        text("€"),
        text(&"note ".repeat(10_000)),
        C::Bytes(vec![1; 20_000]),
        C::Decimal(DecimalParts::new(false, 38, 2, 10_u128.pow(38) - 1)),
        C::Date(SqlDate::create(3_652_058).unwrap()),
        C::DateTime2(SqlDateTime2 { days: 0, time: SqlTime { time_nanoseconds: 1, scale: 7 } }),
        C::Uuid(uuid::Uuid::parse_str(guid).unwrap()),
        C::Float(0.5),
    ]);
    let rows: Vec<Row> = std::iter::once(row).chain((2..=5000).map(nulls)).collect();
    let result = BulkCopy::new(&mut client, "orders").write_to_server_zerocopy(rows).await.unwrap();
    assert_eq!(result.rows_affected, 5000);
    let requests = server.requests();
    let load = requests.iter().find(|request| request.kind == Kind::BulkLoad).unwrap();
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&load.columns), names(&columns));
    assert!(load.statement.starts_with("BULK LOAD [orders]"), "{}", load.statement);
    assert_eq!(load.rows.len(), 5000);
    let nines = "9".repeat(36);
    let expected = row![
        1,
        i64::MIN,
        true,
        "漢字",
        "€",
        "note ".repeat(10_000),
        vec![1; 20_000],
        format!("-{nines}.99"),
        "9999-12-31",
        "0001-01-01 00:00:00.0000001",
        guid,
        0.5
    ];
    assert_eq!(load.rows[0], expected);
    assert_eq!(load.rows[4999][0], Value::Int(5000));
    assert_eq!(load.rows[4999][1..], vec![Value::Null; 11]);
}

#[tokio::test]
async fn a_bulk_load_fails() {
    let (_, metadata) = table();
    let rules = Rules::new().on("FMTONLY", metadata).on("BULK LOAD", Answer::error(2627, "Violation of PRIMARY KEY constraint."));
    let server = Server::start(rules);
    let mut client = connect(&server).await;
    let rows = [Row([C::Int(1)].into_iter().chain(std::iter::repeat_n(C::Null, 11)).collect())];
    let failed = BulkCopy::new(&mut client, "orders").write_to_server_zerocopy(rows).await.unwrap_err();
    assert_eq!(error(failed).0, 2627);
}
