//! The scripted SQL Server does what a test asks of it.

mod faults;
mod logins;
mod requests;
mod types;

use std::path::PathBuf;

use mssql_tds::{
    connection::{
        client_context::ClientContext,
        tds_client::{ResultSet, StatementResult, TdsClient},
    },
    connection_provider::tds_connection_provider::TdsConnectionProvider,
    core::{EncryptionOptions, EncryptionSetting, TdsResult},
    datatypes::column_values::ColumnValues,
    error::Error,
};

use crate::support::tds::Server;

/// How the client connects.
fn context(mode: EncryptionSetting) -> ClientContext {
    let mut context = ClientContext::default();
    context.user_name = "reader".into();
    context.password = "p@ss wörd".into();
    context.database = "shop".into();
    context.application_name = "tests".into();
    context.connect_retry_count = 0;
    context.encryption_options =
        EncryptionOptions { mode, trust_server_certificate: false, host_name_in_cert: None, server_certificate: None };
    context
}

async fn login(server: &Server, context: ClientContext) -> TdsResult<TdsClient> {
    let source = format!("tcp:127.0.0.1,{}", server.address().port());
    TdsConnectionProvider {}.create_client(context, &source, None).await
}

async fn connect(server: &Server) -> TdsClient {
    login(server, context(EncryptionSetting::PreferOff)).await.unwrap()
}

/// Connects by TLS; the server's certificate is pinned.
async fn connect_by_tls(server: &Server, mode: EncryptionSetting) -> TdsClient {
    let (_dir, certificate) = file(server.certificate_pem());
    let mut context = context(mode);
    context.encryption_options.server_certificate = Some(certificate);
    login(server, context).await.unwrap()
}

/// Rows of the current result set.
async fn rows(client: &mut TdsClient) -> TdsResult<Vec<Vec<ColumnValues>>> {
    let mut rows = Vec::new();
    while let Some(row) = client.next_row().await? {
        rows.push(row);
    }
    Ok(rows)
}

/// Rows of a query with one result set.
async fn query(client: &mut TdsClient, sql: &str) -> TdsResult<Vec<Vec<ColumnValues>>> {
    assert_eq!(client.execute(sql.into(), ()).await?, StatementResult::Rows);
    let rows = rows(client).await?;
    client.close_query().await?;
    Ok(rows)
}

/// The server's first error.
fn error(error: Error) -> (u32, String) {
    match error {
        Error::SqlServerError { diagnostics } => (diagnostics.errors[0].number, diagnostics.errors[0].message.clone()),
        other => panic!("{other:?}"),
    }
}

/// A file of a test that it removes when it ends.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("certificate.pem");
    std::fs::write(&path, content).unwrap();
    (dir, path)
}
