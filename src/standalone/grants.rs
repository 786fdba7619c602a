//! `link-operator sql grants`: the least rights that links need, as a script for whoever administers their databases. Pure.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::{
    api::{
        database::{PasswordAuth, PostgresqlDatabase, SqlServerAuth, SqlServerDatabase},
        link_connection::LinkConnection,
    },
    data::TableName,
    postgresql, sqlserver,
};

/// Who a source's user is called where no Secret among the manifests says so.
const READER: &str = "link_reader";
/// Who a target's is.
const WRITER: &str = "link_writer";

/// The script of a link; `tables`: each in the source and in the target.
pub fn script(link: &LinkConnection, tables: &[(TableName, TableName)], secrets: &[Secret]) -> String {
    let (sources, targets): (Vec<TableName>, Vec<TableName>) = tables.iter().cloned().unzip();
    let namespace = link.namespace().unwrap_or_default();
    let name = format!("{namespace}/{}", link.name_any());
    let mut script = String::new();
    let mut section = |side: &str, system: &str, place: &str, statements: Vec<String>| {
        // To a String: it cannot fail.
        let _ = writeln!(script, "{}", comment(&format!("LinkConnection {name}, {side}: {system} at {place}. Run it in that database.")));
        for statement in statements {
            let _ = writeln!(script, "{statement}");
        }
        script.push('\n');
    };
    let login = |auth: Option<&PasswordAuth>, otherwise: &str| {
        let known = auth.and_then(|auth| value(secrets, &namespace, &auth.secret_ref.name, &auth.username_key));
        known.unwrap_or_else(|| otherwise.to_owned())
    };
    if let Some(database) = &link.spec.source.postgresql {
        let user = login(database.auth.password.as_ref(), READER);
        let mut statements = vec![postgresql_user(database, &user)];
        statements.extend(postgresql::grants::source(&database.database, &sources, &user));
        statements.extend(discovers(link));
        section("source", "PostgreSQL", &place(&database.host, database.port, &database.database), statements);
    }
    if let Some(source) = &link.spec.source.sql_server {
        let SqlServerDatabase { host, port, database, auth, .. } = &source.database;
        let user = login(auth.password.as_ref(), READER);
        let mut statements = sql_server_user(auth, &user);
        statements.extend(sqlserver::grants::source(source.capture_mode, &sources, &user));
        statements.extend(discovers(link));
        section("source", "SQL Server", &place(host, *port, database), statements);
    }
    if let Some(target) = &link.spec.target.postgresql {
        let database = &target.database;
        let user = login(database.auth.password.as_ref(), WRITER);
        let mut statements = vec![postgresql_user(database, &user)];
        statements.extend(postgresql::grants::target(&database.database, &targets, &user));
        section("target", "PostgreSQL", &place(&database.host, database.port, &database.database), statements);
    }
    if let Some(target) = &link.spec.target.sql_server {
        let SqlServerDatabase { host, port, database, auth, .. } = &target.database;
        let user = login(auth.password.as_ref(), WRITER);
        let mut statements = sql_server_user(auth, &user);
        statements.extend(sqlserver::grants::target(&targets, &user));
        section("target", "SQL Server", &place(host, *port, database), statements);
    }
    if let Some(target) = &link.spec.target.synapse {
        let SqlServerDatabase { host, port, database, auth, .. } = &target.database;
        let user = login(auth.password.as_ref(), WRITER);
        let mut statements = sql_server_user(auth, &user);
        statements.extend(sqlserver::grants::pool(&targets, database, &user));
        statements.push(comment(if target.copy_auth.managed_identity.is_some() {
            "To the identity of the pool's workspace or server, on the landing zone's container: az role assignment create --role \
             'Storage Blob Data Contributor' --assignee-object-id <its object id> --scope <the container's resource id>"
        } else {
            "For copyAuth.sasToken, on the landing zone's container: az storage container generate-sas --permissions rl --expiry <time>"
        }));
        section("target", "Synapse dedicated SQL pool", &place(host, *port, database), statements);
    }
    script
}

/// What is not known before the source is asked.
fn discovers(link: &LinkConnection) -> Option<String> {
    let patterns = link.spec.discover.as_ref()?.include.join(", ");
    Some(comment(&format!("Run the same for each table that spec.discover asks for: {patterns}")))
}

/// A comment, whatever the text holds.
fn comment(text: &str) -> String {
    format!("-- {}", text.replace(['\r', '\n'], " "))
}

fn place(host: &str, port: u16, database: &str) -> String {
    format!("{host}:{port}/{database}")
}

/// A key of a Secret among the manifests.
fn value(secrets: &[Secret], namespace: &str, name: &str, key: &str) -> Option<String> {
    let secret = secrets.iter().find(|secret| secret.namespace().as_deref() == Some(namespace) && secret.name_any() == name)?;
    let plain = secret.string_data.as_ref().and_then(|data| data.get(key)).cloned();
    let encoded = || String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    plain.or_else(encoded).map(|value| value.trim_end_matches(['\r', '\n']).to_owned())
}

/// Passwords are never printed: who makes the user types it.
fn postgresql_user(database: &PostgresqlDatabase, user: &str) -> String {
    let secret = database.auth.password.as_ref().map_or("", |auth| &auth.secret_ref.name);
    let user = postgresql::quote::identifier(user);
    comment(&format!("If there is no such user: CREATE ROLE {user} LOGIN; and \\password {user}, the password of Secret {secret}"))
}

fn sql_server_user(auth: &SqlServerAuth, user: &str) -> Vec<String> {
    let identity = [
        auth.service_principal.as_ref().map(|auth| format!("application {}", auth.client_id)),
        auth.workload_identity.as_ref().map(|auth| format!("application or managed identity {}", auth.client_id)),
        auth.managed_identity.as_ref().map(|auth| {
            auth.client_id.as_ref().map_or_else(|| "identity of the machine".to_owned(), |id| format!("managed identity {id}"))
        }),
    ];
    let (named, literal) = (sqlserver::quote::identifier(user), sqlserver::quote::literal(user));
    // USER_ID, which would be shorter, is not of a Synapse pool.
    let unless_there = format!("IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE [name] = {literal})");
    if let Some(identity) = identity.into_iter().flatten().next() {
        return vec![
            comment(&format!("{named} stands for the display name, in Entra ID, of the {identity}.")),
            format!("{unless_there} CREATE USER {named} FROM EXTERNAL PROVIDER;"),
        ];
    }
    let secret = auth.password.as_ref().map_or("", |auth| &auth.secret_ref.name);
    vec![
        comment(&format!("If there is no such login, in master: CREATE LOGIN {named} WITH PASSWORD = the password of Secret {secret}")),
        format!("{unless_there} CREATE USER {named} FOR LOGIN {named};"),
    ]
}
